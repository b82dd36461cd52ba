//! The controllers against a real API server, each with its own service account. One binary: linking an API server for
//! each file takes longer than all tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod collection;
mod conditions;
mod daemon_sets;
mod deployments;
mod endpoints;
mod jobs;
mod memory;
mod nodes;
mod quotas;
mod replica_sets;
mod stateful_sets;
mod storage;
mod support;
