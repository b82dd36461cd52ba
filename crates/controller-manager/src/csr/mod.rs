//! certificatesigningrequest-approving-controller and -signing-controller: certificates for nodes and their kubelets.
//!
//! Approved by themselves, as upstream: client certificates of kubelets, where the requester may create
//! `certificatesigningrequests/nodeclient` or `…/selfnodeclient`. Beyond upstream, which leaves it to the administrator,
//! serving certificates of kubelets: a node gets one for its own name and for addresses that no other node has.

mod approve;
mod clean;
mod recognize;
mod sign;

pub(crate) use approve::start as start_approving;
pub(crate) use clean::start as start_cleaning;
pub(crate) use sign::start as start_signing;
