//! What the node has, and what of it pods may use.

use crate::config::KubeletConfig;
use crate::machine::Machine;
use crate::quantity::{self, ResourceList};

/// Everything the node has.
pub(crate) fn capacity(config: &KubeletConfig, machine: &Machine) -> ResourceList {
    ResourceList::from([
        ("cpu".to_owned(), quantity::from_milli(machine.cpus * 1000)),
        ("memory".to_owned(), quantity::from_bytes(machine.memory)),
        (
            "ephemeral-storage".to_owned(),
            quantity::from_bytes(machine.storage),
        ),
        (
            "pods".to_owned(),
            quantity::from_milli(i64::from(config.max_pods) * 1000),
        ),
        ("hugepages-1Gi".to_owned(), quantity::from_milli(0)),
        ("hugepages-2Mi".to_owned(), quantity::from_milli(0)),
    ])
}

/// Capacity without what is reserved for daemons and what eviction keeps free.
pub(crate) fn allocatable(config: &KubeletConfig, machine: &Machine) -> ResourceList {
    let mut list = capacity(config, machine);
    let reserved = |resource: &str, of: fn(&str) -> Option<i128>| -> i128 {
        [&config.system_reserved, &config.kube_reserved]
            .into_iter()
            .filter_map(|list| list.get(resource))
            .filter_map(|text| of(text))
            .sum()
    };
    let to_bytes = |milli: i128| u64::try_from(milli / 1000).unwrap_or_default();
    let cpu = i128::from(machine.cpus) * 1000 - reserved("cpu", quantity::milli);
    list.insert(
        "cpu".into(),
        quantity::from_milli(i64::try_from(cpu.max(0)).unwrap_or_default()),
    );
    let keep = config.eviction_hard.memory_available.of(machine.memory);
    let memory = machine
        .memory
        .saturating_sub(keep)
        .saturating_sub(to_bytes(reserved("memory", quantity::milli)));
    list.insert("memory".into(), quantity::from_bytes(memory));
    let keep = config.eviction_hard.nodefs_available.of(machine.storage);
    let storage = machine
        .storage
        .saturating_sub(keep)
        .saturating_sub(to_bytes(reserved("ephemeral-storage", quantity::milli)));
    list.insert(
        "ephemeral-storage".into(),
        k8s_openapi::apimachinery::pkg::api::resource::Quantity(storage.to_string()),
    );
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reservations_and_eviction_are_taken_off() {
        let cri = crate::cri::Cri::connect("/nowhere").unwrap();
        let mut config = KubeletConfig::new("n", std::path::Path::new("/nowhere"), cri);
        config.system_reserved = [
            ("cpu".to_owned(), "250m".to_owned()),
            ("memory".to_owned(), "1Gi".to_owned()),
        ]
        .into();
        config.kube_reserved = [("cpu".to_owned(), "250m".to_owned())].into();
        let machine = Machine {
            cpus: 2,
            memory: 4 << 30,
            storage: 1000,
            ..Machine::default()
        };
        let (all, free) = (capacity(&config, &machine), allocatable(&config, &machine));
        let show = |list: &ResourceList, name: &str| list[name].0.clone();
        assert_eq!(
            (show(&all, "cpu"), show(&free, "cpu")),
            ("2".into(), "1500m".into())
        );
        assert_eq!(
            (show(&all, "memory"), show(&free, "memory")),
            ("4194304Ki".into(), "3043328Ki".into())
        );
        assert_eq!(
            (show(&free, "ephemeral-storage"), show(&free, "pods")),
            ("900".into(), "110".into())
        );
    }
}
