//! What upstream's registry strategies do with an object before it is stored: initial status, resets, generations.
//!
//! Which fields may be selected, created by PUT or updated without a version stands with the registry's own rows.
//!
//! - `kinds`: one row per kind
//! - `create`, `update`: what writes reset and set
//! - `job`: the selector and labels that jobs get
//! - `service`: what a Service keeps and loses
//! - `pod_resources`: requests of pods and their quality of service
//! - `warnings`: texts of `Warning` headers

mod create;
mod custom;
mod job;
mod kinds;
pub mod pod_resources;
mod service;
#[cfg(test)]
mod tests;
mod update;
mod warnings;

pub use create::prepare_for_create;
pub use custom::{prepare_custom_for_create, prepare_custom_for_update};
pub use update::{prepare_for_status_update, prepare_for_update};
pub use warnings::{deprecation, warnings_on_create};
