//! Addresses and node ports of Services.
//!
//! A cluster IP is claimed by creating an IPAddress object of its name, a node port by creating a small key of its own; both
//! are creations that only one of several servers can win. A crash between the claim and the Service leaves a claim without
//! a Service, which [`ServiceAllocator::repair`] removes at start; a Service without its claims gets them back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use bytes::Bytes;
use ipnet::IpNet;
use keelson_api::field::{Error as FieldError, Path};
use keelson_api::gvk::GroupKind;
use keelson_api::status::Status;
use keelson_store::{Precondition, RangeRequest, WriteOutcome};
use rand::Rng;
use serde_json::{Value, json};

use super::engine::{Registry, store_status};
use super::{metadata, model};
use crate::config::ApiServerConfig;
use crate::watch_cache::StoredForm;

const PORT_CLAIMS: &str = "/registry/ranges/servicenodeports/";
/// Upstream allocates dynamic addresses above this offset first, so that low ones can be chosen by hand.
const MIN_OFFSET: u128 = 16;
const MAX_OFFSET: u128 = 256;

/// Allocates cluster IPs and node ports.
pub struct ServiceAllocator {
    cidrs: Vec<IpNet>,
    ports: RangeInclusive<u16>,
}

/// Claims that belong to a write in progress.
#[derive(Default)]
pub struct ServiceReservation {
    taken_ips: Vec<IpAddr>,
    taken_ports: Vec<u16>,
    released_ips: Vec<IpAddr>,
    released_ports: Vec<u16>,
}

impl ServiceReservation {
    /// Gives back what the write does not need: the new claims when it failed, the old ones when it succeeded.
    pub async fn finish(self, registry: &Registry, written: bool) {
        let (ips, ports) = if written {
            (self.released_ips, self.released_ports)
        } else {
            (self.taken_ips, self.taken_ports)
        };
        drop_claims(registry, &ips, &ports).await;
    }
}

async fn drop_claims(registry: &Registry, ips: &[IpAddr], ports: &[u16]) {
    let spec = registry
        .resources()
        .caches()
        .kind("networking.k8s.io", "ipaddresses")
        .spec()
        .clone();
    let keys = ips
        .iter()
        .map(|ip| spec.key("", &ip.to_string()))
        .chain(ports.iter().map(|p| port_key(*p)));
    for key in keys {
        if let Err(error) = registry.inner.store.delete(key, Precondition::None).await {
            tracing::warn!(%error, "a Service's claim was not given back; the next start will");
        }
    }
}

fn port_key(port: u16) -> Bytes {
    format!("{PORT_CLAIMS}{port}").into()
}

fn service_type(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    let list = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let mut ips: Vec<IpAddr> = list.filter_map(|v| v.as_str()?.parse().ok()).collect();
    if let Some(ip) = service["spec"]["clusterIP"].as_str().and_then(|s| s.parse().ok())
        && !ips.contains(&ip)
    {
        ips.insert(0, ip);
    }
    ips
}

fn node_ports(service: &Value) -> BTreeSet<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let health = service["spec"]["healthCheckNodePort"].as_u64();
    ports
        .filter_map(|p| p["nodePort"].as_u64())
        .chain(health)
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .collect()
}

fn wants_node_ports(service: &Value) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"]
            .as_bool()
            .unwrap_or(true),
        _ => false,
    }
}

fn wants_health_port(service: &Value) -> bool {
    service_type(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

impl ServiceAllocator {
    /// An allocator of the configured ranges.
    pub fn new(config: &ApiServerConfig) -> Self {
        Self {
            cidrs: config.service_cidrs.clone(),
            ports: config.node_port_range.clone(),
        }
    }

    /// The first address of the primary range: the `kubernetes` Service.
    pub fn kubernetes_ip(&self) -> Option<IpAddr> {
        Some(nth(self.cidrs.first()?, 1))
    }

    /// Completes a Service's addresses and ports and claims them.
    pub async fn allocate(
        &self,
        registry: &Registry,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<ServiceReservation, Status> {
        let mut reservation = ServiceReservation::default();
        let result = self
            .allocate_into(registry, service, old, dry_run, &mut reservation)
            .await;
        if let Err(status) = result {
            reservation.finish(registry, false).await;
            return Err(status);
        }
        if let Some(old) = old {
            let (ips, ports) = (cluster_ips(service), node_ports(service));
            reservation.released_ips = cluster_ips(old)
                .into_iter()
                .filter(|ip| !ips.contains(ip))
                .collect();
            reservation.released_ports = node_ports(old).difference(&ports).copied().collect();
        }
        Ok(reservation)
    }

    async fn allocate_into(
        &self,
        registry: &Registry,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        reservation: &mut ServiceReservation,
    ) -> Result<(), Status> {
        let was_external = old.is_some_and(|o| service_type(o) == "ExternalName");
        if service_type(service) == "ExternalName" {
            if let Some(spec) = service["spec"].as_object_mut() {
                for field in [
                    "clusterIP",
                    "clusterIPs",
                    "ipFamilies",
                    "ipFamilyPolicy",
                    "internalTrafficPolicy",
                ] {
                    spec.remove(field);
                }
            }
        } else {
            if let Some(old) = old.filter(|_| !was_external) {
                keep_cluster_ips(service, old);
            }
            self.allocate_ips(registry, service, old, dry_run, reservation)
                .await?;
        }
        self.allocate_ports(registry, service, old, dry_run, reservation)
            .await
    }

    async fn allocate_ips(
        &self,
        registry: &Registry,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        reservation: &mut ServiceReservation,
    ) -> Result<(), Status> {
        let first = service["spec"]["clusterIP"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        self.default_families(service);
        if first == "None" {
            service["spec"]["clusterIPs"] = json!(["None"]);
            return Ok(());
        }
        let held = old.map(cluster_ips).unwrap_or_default();
        let families = service["spec"]["ipFamilies"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mut ips: Vec<IpAddr> = Vec::new();
        let given = cluster_ips(service);
        for (at, family) in families.iter().enumerate() {
            let is_v6 = family == "IPv6";
            let ip = match given.get(at) {
                Some(ip) if held.contains(ip) => *ip,
                Some(ip) => {
                    self.claim_given(registry, service, *ip, dry_run).await?;
                    if !dry_run {
                        reservation.taken_ips.push(*ip);
                    }
                    *ip
                }
                None => {
                    let cidr = self.cidrs.iter().find(|c| c.addr().is_ipv6() == is_v6);
                    let Some(cidr) = cidr else {
                        return Err(self.family_error(service, &families));
                    };
                    let ip = self.claim_any(registry, service, cidr, dry_run).await?;
                    if !dry_run {
                        reservation.taken_ips.push(ip);
                    }
                    ip
                }
            };
            ips.push(ip);
        }
        if let Some(ip) = ips.first() {
            service["spec"]["clusterIP"] = json!(ip.to_string());
            service["spec"]["clusterIPs"] = ips.iter().map(|ip| json!(ip.to_string())).collect();
        }
        Ok(())
    }

    fn family_error(&self, service: &Value, families: &[Value]) -> Status {
        let path = Path::new("spec").child("ipFamilies");
        let error = FieldError::invalid(
            &path,
            Value::Array(families.to_vec()),
            "not configured on this cluster",
        );
        Status::invalid(
            &GroupKind::new("", "Service"),
            metadata::text(service, "name"),
            &[error],
        )
    }

    fn default_families(&self, service: &mut Value) {
        let family = |ip: &IpAddr| if ip.is_ipv6() { "IPv6" } else { "IPv4" };
        let policy = service["spec"]["ipFamilyPolicy"]
            .as_str()
            .unwrap_or("SingleStack")
            .to_owned();
        service["spec"]["ipFamilyPolicy"] = json!(policy);
        if service["spec"]["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
            let given = cluster_ips(service);
            let mut families: Vec<&str> = given.iter().map(family).collect();
            let configured: Vec<&str> = self.cidrs.iter().map(|c| family(&c.addr())).collect();
            let wanted = if policy == "SingleStack" {
                1
            } else {
                configured.len().min(2)
            };
            for family in configured {
                if families.len() < wanted && !families.contains(&family) {
                    families.push(family);
                }
            }
            service["spec"]["ipFamilies"] = json!(families);
        }
    }

    async fn claim_given(
        &self,
        registry: &Registry,
        service: &Value,
        ip: IpAddr,
        dry_run: bool,
    ) -> Result<(), Status> {
        let refuse = |detail: String| {
            let path = Path::new("spec").child("clusterIPs");
            let error = FieldError::invalid(&path, json!([ip.to_string()]), detail);
            Status::invalid(
                &GroupKind::new("", "Service"),
                metadata::text(service, "name"),
                &[error],
            )
        };
        let Some(cidr) = self.cidrs.iter().find(|c| c.contains(&ip)) else {
            let ranges: Vec<String> = self.cidrs.iter().map(ToString::to_string).collect();
            return Err(refuse(format!(
                "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                ranges.join(",")
            )));
        };
        if ip == cidr.network() || ip == cidr.broadcast() && cidr.addr().is_ipv4() {
            return Err(refuse(format!(
                "failed to allocate IP {ip}: provided IP is not in the valid range"
            )));
        }
        if claim_ip(registry, service, ip, dry_run).await? {
            Ok(())
        } else {
            Err(refuse(format!(
                "failed to allocate IP {ip}: provided IP is already allocated"
            )))
        }
    }

    async fn claim_any(
        &self,
        registry: &Registry,
        service: &Value,
        cidr: &IpNet,
        dry_run: bool,
    ) -> Result<IpAddr, Status> {
        let size = size(cidr);
        let offset = (size / 16).clamp(MIN_OFFSET, MAX_OFFSET).min(size / 2);
        // Random first: several servers rarely collide; then in order, the upper part before the lower.
        for _ in 0..16 {
            let at = rand::rng().random_range(offset.max(1)..size.saturating_sub(1).max(offset + 2));
            let ip = nth(cidr, at);
            if claim_ip(registry, service, ip, dry_run).await? {
                return Ok(ip);
            }
        }
        let limit = size.saturating_sub(1).min(1 << 20);
        for at in (offset.max(1)..limit).chain(1..offset) {
            let ip = nth(cidr, at);
            if is_claimed(registry, ip) {
                continue;
            }
            if claim_ip(registry, service, ip, dry_run).await? {
                return Ok(ip);
            }
        }
        Err(Status::internal(format!(
            "failed to allocate a serviceIP: range is full: {cidr}"
        )))
    }

    async fn allocate_ports(
        &self,
        registry: &Registry,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        reservation: &mut ServiceReservation,
    ) -> Result<(), Status> {
        let held = old.map(node_ports).unwrap_or_default();
        let wants = wants_node_ports(service);
        let can_have = matches!(service_type(service), "NodePort" | "LoadBalancer");
        let count = service["spec"]["ports"].as_array().map_or(0, Vec::len);
        let mut given: Vec<(u16, String)> = Vec::new();
        for at in 0..count {
            let port = service["spec"]["ports"][at].clone();
            let number = port["nodePort"]
                .as_u64()
                .and_then(|p| u16::try_from(p).ok())
                .unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            if !can_have {
                if let Some(entry) = service["spec"]["ports"][at].as_object_mut() {
                    entry.remove("nodePort");
                }
                continue;
            }
            let chosen = if number != 0 {
                // TCP and UDP may share a number within one Service.
                let shared = given.iter().any(|(n, p)| *n == number && *p != protocol);
                if !shared && !held.contains(&number) {
                    self.claim_given_port(registry, service, at, number, dry_run)
                        .await?;
                    if !dry_run {
                        reservation.taken_ports.push(number);
                    }
                }
                number
            } else if !wants {
                continue;
            } else if let Some(kept) = old.and_then(|o| matching_port(o, &port, &protocol))
                && !given.iter().any(|(n, p)| *n == kept && *p == protocol)
            {
                kept
            } else {
                let port = self.claim_any_port(registry, dry_run).await?;
                if !dry_run {
                    reservation.taken_ports.push(port);
                }
                port
            };
            service["spec"]["ports"][at]["nodePort"] = json!(chosen);
            given.push((chosen, protocol));
        }
        let health = service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
        if wants_health_port(service) && health == 0 {
            let kept = old
                .and_then(|o| o["spec"]["healthCheckNodePort"].as_u64())
                .filter(|p| *p != 0);
            let port = match kept {
                Some(port) => port,
                None => {
                    let port = self.claim_any_port(registry, dry_run).await?;
                    if !dry_run {
                        reservation.taken_ports.push(port);
                    }
                    u64::from(port)
                }
            };
            service["spec"]["healthCheckNodePort"] = json!(port);
        } else if !wants_health_port(service)
            && let Some(spec) = service["spec"].as_object_mut()
        {
            spec.remove("healthCheckNodePort");
        }
        Ok(())
    }

    async fn claim_given_port(
        &self,
        registry: &Registry,
        service: &Value,
        at: usize,
        port: u16,
        dry_run: bool,
    ) -> Result<(), Status> {
        let refuse = |detail: String| {
            let path = Path::new("spec").child("ports").index(at).child("nodePort");
            let error = FieldError::invalid(&path, port, detail);
            Status::invalid(
                &GroupKind::new("", "Service"),
                metadata::text(service, "name"),
                &[error],
            )
        };
        if !self.ports.contains(&port) {
            return Err(refuse(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.ports.start(),
                self.ports.end()
            )));
        }
        if claim_port(registry, port, dry_run).await? {
            Ok(())
        } else {
            Err(refuse("provided port is already allocated".to_owned()))
        }
    }

    async fn claim_any_port(&self, registry: &Registry, dry_run: bool) -> Result<u16, Status> {
        for _ in 0..16 {
            let port = rand::rng().random_range(self.ports.clone());
            if claim_port(registry, port, dry_run).await? {
                return Ok(port);
            }
        }
        for port in self.ports.clone() {
            if claim_port(registry, port, dry_run).await? {
                return Ok(port);
            }
        }
        Err(Status::internal("failed to allocate a nodePort: range is full"))
    }

    /// Gives back what a deleted Service had.
    pub async fn release(&self, registry: &Registry, service: &Value) {
        let ports: Vec<u16> = node_ports(service).into_iter().collect();
        drop_claims(registry, &cluster_ips(service), &ports).await;
    }

    /// Makes claims and Services agree; run at start, before requests are served.
    pub async fn repair(&self, registry: &Registry) -> Result<(), Status> {
        let services = registry.resources().resource("", "services").list(None);
        let mut ports: BTreeSet<u16> = BTreeSet::new();
        let mut ips: BTreeSet<IpAddr> = BTreeSet::new();
        for service in services {
            let service = service.parse();
            for ip in cluster_ips(&service) {
                ips.insert(ip);
                if !is_claimed(registry, ip) {
                    claim_ip(registry, &service, ip, false).await?;
                }
            }
            for port in node_ports(&service) {
                ports.insert(port);
                claim_port(registry, port, false).await?;
            }
        }
        let claims = registry
            .resources()
            .resource("networking.k8s.io", "ipaddresses")
            .list(None);
        let lost = claims
            .iter()
            .filter(|c| c.label("ipaddress.kubernetes.io/managed-by").is_some());
        let lost: Vec<IpAddr> = lost
            .filter_map(|c| c.name().parse().ok())
            .filter(|ip| !ips.contains(ip))
            .collect();
        let range = registry
            .inner
            .store
            .range(RangeRequest::prefix(PORT_CLAIMS))
            .await;
        let claimed = range.map_err(|e| store_status(&e))?.kvs;
        let unused: Vec<u16> = claimed
            .iter()
            .filter_map(|kv| {
                std::str::from_utf8(&kv.key[PORT_CLAIMS.len()..])
                    .ok()?
                    .parse()
                    .ok()
            })
            .filter(|p| !ports.contains(p))
            .collect();
        drop_claims(registry, &lost, &unused).await;
        Ok(())
    }
}

/// The port that the old Service had for the same port and protocol.
fn matching_port(old: &Value, port: &Value, protocol: &str) -> Option<u16> {
    let ports = old["spec"]["ports"].as_array()?;
    let same = ports
        .iter()
        .find(|p| p["port"] == port["port"] && p["protocol"].as_str().unwrap_or("TCP") == protocol)?;
    same["nodePort"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
}

/// An update that does not say anything about addresses keeps them.
fn keep_cluster_ips(service: &mut Value, old: &Value) {
    if service["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
    {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old["spec"].get(field) {
                service["spec"][field] = value.clone();
            }
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if service["spec"].get(field).is_none_or(Value::is_null)
            && let Some(value) = old["spec"].get(field)
        {
            service["spec"][field] = value.clone();
        }
    }
}

fn is_claimed(registry: &Registry, ip: IpAddr) -> bool {
    registry
        .resources()
        .resource("networking.k8s.io", "ipaddresses")
        .get("", &ip.to_string())
        .is_some()
}

async fn claim_ip(registry: &Registry, service: &Value, ip: IpAddr, dry_run: bool) -> Result<bool, Status> {
    if is_claimed(registry, ip) {
        return Ok(false);
    }
    let cache = registry
        .resources()
        .caches()
        .kind("networking.k8s.io", "ipaddresses");
    let key = cache.spec().key("", &ip.to_string());
    if dry_run {
        return Ok(registry
            .inner
            .store
            .get(&key, None)
            .await
            .map_err(|e| store_status(&e))?
            .is_none());
    }
    let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
    let object = json!({
        "metadata": {
            "name": ip.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": model::now(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {
            "resource": "services",
            "namespace": metadata::text(service, "namespace"),
            "name": metadata::text(service, "name"),
        }},
    });
    let bytes = StoredForm::encode(cache.spec(), &object);
    let outcome = registry
        .inner
        .store
        .put(key, bytes, Precondition::Absent, None)
        .await;
    Ok(matches!(
        outcome.map_err(|e| store_status(&e))?,
        WriteOutcome::Committed { .. }
    ))
}

async fn claim_port(registry: &Registry, port: u16, dry_run: bool) -> Result<bool, Status> {
    let store = &registry.inner.store;
    let key = port_key(port);
    if dry_run {
        return Ok(store
            .get(&key, None)
            .await
            .map_err(|e| store_status(&e))?
            .is_none());
    }
    let outcome = store
        .put(key, Bytes::from_static(b"{}"), Precondition::Absent, None)
        .await;
    Ok(matches!(
        outcome.map_err(|e| store_status(&e))?,
        WriteOutcome::Committed { .. }
    ))
}

fn size(cidr: &IpNet) -> u128 {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}

fn nth(cidr: &IpNet, at: u128) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(base) => {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            Ipv4Addr::from(u32::from(base).wrapping_add(at)).into()
        }
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(at)).into(),
    }
}
