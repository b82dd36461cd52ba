//! Applies changed Services to the kernel. Blocks for the length of a netlink exchange.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;

use keelson_client::NamespacedName;
use keelson_nftables::{Batch, Conntrack, Data, Element, Family, NfTables, proto};
use keelson_sys::netns::NetNs;

use crate::Config;
use crate::model::{ServiceModel, Target};
use crate::render::{Rendered, render};
use crate::table::Table;

/// Why the kernel could not be brought in step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's network namespace could not be entered.
    #[error("network namespace of the node: {0}")]
    Namespace(#[source] io::Error),
    /// nf_tables or conntrack.
    #[error(transparent)]
    Nft(#[from] keelson_nftables::Error),
}

/// A Service in each family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Models {
    /// IPv4.
    pub v4: ServiceModel,
    /// IPv6.
    pub v6: ServiceModel,
}

/// What a synchronisation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Messages in the transactions.
    pub messages: usize,
    /// The table was made anew.
    pub full: bool,
    /// Tracked UDP connections that were deleted.
    pub flows_deleted: usize,
}

/// The kernel side of the proxy.
#[derive(Debug)]
pub struct Proxier {
    config: Config,
    nft: NfTables,
    conntrack: Conntrack,
    tables: Vec<(bool, Table)>,
    models: HashMap<NamespacedName, Models>,
    /// The kernel's state is not known to be ours: the next synchronisation makes the tables anew.
    unknown: bool,
    /// Elements of dynamic sets from before a full synchronisation.
    remembered: HashMap<Family, HashMap<String, Vec<Element>>>,
}

impl Proxier {
    /// Connects to the kernel. The first [`Proxier::sync`] replaces the tables in one transaction each; tracked connections and
    /// the clients' affinities outlive it.
    pub fn new(config: Config) -> Result<Self, Error> {
        let netns = match &config.netns {
            None => NetNs::current(),
            Some(path) => NetNs::open(path),
        }
        .map_err(Error::Namespace)?;
        let (nft, conntrack) = netns
            .run(|| Ok(NfTables::open().and_then(|n| Ok((n, Conntrack::open()?)))))
            .map_err(Error::Namespace)??;
        let families = if config.ipv6 {
            vec![false, true]
        } else {
            vec![false]
        };
        let tables = families
            .into_iter()
            .map(|v6| (v6, Table::new(&config, v6)))
            .collect();
        let mut proxier = Proxier {
            config,
            nft,
            conntrack,
            tables,
            models: HashMap::new(),
            unknown: true,
            remembered: HashMap::new(),
        };
        proxier.remember_affinities()?;
        Ok(proxier)
    }

    /// Reads what rules have learned, so that it can be put into the tables that are made anew.
    fn remember_affinities(&mut self) -> Result<(), Error> {
        for (_, table) in &self.tables {
            let family = table.family();
            let by_set = self.remembered.entry(family).or_default();
            for set in self.nft.sets(family, &self.config.table)? {
                if !set.contains("-affinity-") {
                    continue;
                }
                let elements = self.nft.elements(family, &self.config.table, &set)?;
                let kept = elements.into_iter().filter_map(|e| {
                    Some(Element {
                        key: e.key,
                        data: Some(Data::Bytes(e.data?)),
                        expires: Some(e.expires?),
                    })
                });
                by_set.insert(set, kept.collect());
            }
        }
        Ok(())
    }

    /// The models that the kernel has, by Service.
    pub fn models(&self) -> &HashMap<NamespacedName, Models> {
        &self.models
    }

    /// Brings the kernel in step with changed Services (`None`: gone). After an error the next call, with whatever changes,
    /// makes the tables anew.
    pub fn sync(&mut self, changes: Vec<(NamespacedName, Option<Models>)>) -> Result<Synced, Error> {
        let mut synced = Synced::default();
        let mut batches = Vec::new();
        for (v6, table) in &mut self.tables {
            let rendered: Vec<(NamespacedName, Rendered)> = changes
                .iter()
                .map(|(service, models)| {
                    let model = models.as_ref().map(|m| if *v6 { &m.v6 } else { &m.v4 });
                    let new = model
                        .map(|m| render(&self.config, m, *v6, table.rendered(service)))
                        .unwrap_or_default();
                    (service.clone(), new)
                })
                .collect();
            batches.push(table.update(rendered));
        }
        if !self.unknown {
            self.unknown = true;
            let mut applied = Ok(());
            for batch in batches {
                synced.messages += batch.len();
                applied = applied.and_then(|()| self.nft.commit(batch));
            }
            match applied {
                Ok(()) => self.unknown = false,
                // Somebody else changed our table: nothing is lost by making it anew.
                Err(error) => {
                    tracing::warn!(%error, "incremental synchronisation failed; replacing the tables");
                    self.remember_affinities()?;
                }
            }
        }
        if self.unknown {
            synced.full = true;
            let empty = HashMap::new();
            for (_, table) in &self.tables {
                let batch: Batch = table.full(self.remembered.get(&table.family()).unwrap_or(&empty));
                synced.messages += batch.len();
                self.nft.commit(batch)?;
            }
            self.unknown = false;
            self.remembered.clear();
        }
        synced.flows_deleted = self.forget_udp_flows(&changes)?;
        for (service, models) in changes {
            match models {
                Some(models) => self.models.insert(service, models),
                None => self.models.remove(&service),
            };
        }
        Ok(synced)
    }

    /// Deletes tracked UDP connections to frontends of changed Services that lead to none of their endpoints: the
    /// endpoint is gone, or there was none when the flow began.
    fn forget_udp_flows(&mut self, changes: &[(NamespacedName, Option<Models>)]) -> Result<usize, Error> {
        let mut deleted = 0;
        for (v6, _) in &self.tables {
            let mut frontends: HashMap<(IpAddr, u16), HashSet<Target>> = HashMap::new();
            let mut node_ports: HashMap<u16, HashSet<Target>> = HashMap::new();
            for (service, models) in changes {
                let side = |m: &Models| if *v6 { m.v6.clone() } else { m.v4.clone() };
                let old = self.models.get(service).map(side).unwrap_or_default();
                let new = models.as_ref().map(side).unwrap_or_default();
                if old == new {
                    continue;
                }
                for (port, current) in old
                    .ports
                    .iter()
                    .map(|p| (p, false))
                    .chain(new.ports.iter().map(|p| (p, true)))
                {
                    if port.proto != proto::UDP {
                        continue;
                    }
                    let serving = if current {
                        port.serving.clone()
                    } else {
                        Default::default()
                    };
                    for ip in port.cluster_ips.iter().chain(&port.external_ips) {
                        frontends.entry((*ip, port.port)).or_default().extend(&serving);
                    }
                    if port.node_port != 0 {
                        node_ports.entry(port.node_port).or_default().extend(&serving);
                    }
                }
            }
            if frontends.is_empty() && node_ports.is_empty() {
                continue;
            }
            deleted += self.conntrack.delete(*v6, proto::UDP, |flow| {
                let translated = flow.reply_source != flow.destination;
                match (
                    frontends.get(&flow.destination),
                    node_ports.get(&flow.destination.1),
                ) {
                    (Some(serving), _) => !serving.contains(&flow.reply_source),
                    // A node port is only ours on addresses of the node: judge what was translated, or was not answered.
                    (None, Some(serving)) => {
                        !serving.contains(&flow.reply_source) && (translated || !serving.is_empty())
                    }
                    (None, None) => false,
                }
            })?;
        }
        Ok(deleted)
    }

    /// Removes the tables (`kube-proxy --cleanup`).
    pub fn remove(&mut self) -> Result<(), Error> {
        self.unknown = true;
        for (_, table) in &self.tables {
            let mut batch = Batch::new(table.family(), &self.config.table);
            batch.add_table().delete_table();
            self.nft.commit(batch)?;
        }
        Ok(())
    }
}
