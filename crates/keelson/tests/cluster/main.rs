//! Whole clusters in machines of their own, driven by the real clients. Each test starts a cluster and takes it down. This
//! is the list; what a test does stands in the module of its name.

mod backup;
mod certificates;
mod harness;
mod kills;
mod kubectl;
mod lifecycle;
mod nodes;
mod refusals;
mod shop;

use anyhow::Result;

use crate::harness::{Cluster, on};

#[test]
fn cluster_shop_on_three_nodes() -> Result<()> {
    on(Cluster::start("shop", 3), shop::on_three_nodes)
}

#[test]
fn cluster_survives_kills() -> Result<()> {
    on(Cluster::start("kills", 1), kills::are_survived)
}

#[test]
fn cluster_down_leaves_nothing() -> Result<()> {
    on(Cluster::start("down", 2), lifecycle::down_leaves_nothing)
}

#[test]
fn cluster_keeps_its_settings() -> Result<()> {
    on(Cluster::prepare("kept"), lifecycle::settings_are_kept)
}

#[test]
fn cluster_comes_back_from_a_lost_node() -> Result<()> {
    on(Cluster::start("lost", 2), nodes::lost_node_comes_back)
}

#[test]
fn cluster_survives_full_disks() -> Result<()> {
    on(Cluster::prepare("full"), nodes::full_disk)
}

#[test]
fn cluster_is_home_to_kubectl() -> Result<()> {
    on(Cluster::start("kubectl", 2), kubectl::is_at_home)
}

#[test]
fn cluster_says_what_is_wrong() -> Result<()> {
    on(Cluster::start("refusals", 2), refusals::are_clear)
}

#[test]
fn cluster_comes_back_from_a_backup() -> Result<()> {
    on(Cluster::start("backup", 2), backup::comes_back)
}

#[test]
fn cluster_runs_on_etcd() -> Result<()> {
    on(Cluster::prepare("etcd"), backup::on_etcd)
}

#[test]
fn cluster_renews_certificates() -> Result<()> {
    on(Cluster::start("renewal", 2), certificates::are_renewed)
}
