//! CPUs by the core that they are threads of.

use std::collections::BTreeMap;

use crate::host::{HostProfile, IdSet};

/// Threads of one core that may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Core {
    /// In ascending order; never empty.
    pub(super) threads: Vec<u32>,
    /// These are all of its threads that are online.
    pub(super) whole: bool,
    /// The host's own interrupts and timers start there, because CPU 0 is one of its threads.
    pub(super) is_first: bool,
    /// Other machines have threads and interrupts of their own there.
    pub(super) is_shared: bool,
}

/// The cores of `cpus`, by their lowest CPU.
pub(super) fn cores(host: &HostProfile, cpus: &IdSet) -> Vec<Core> {
    let mut by_core: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for cpu in cpus.iter() {
        by_core.entry(host.cpus.core_of(cpu)).or_default().push(cpu);
    }
    let core = |(core, threads): (u32, Vec<u32>)| {
        let online = siblings(host, threads[0]);
        let shared = host.machines.iter().any(|machine| {
            // What may run anywhere has no place.
            machine.own.len() < host.cpus.online.len()
                && !machine.own.intersection(&online).is_empty()
        });
        Core {
            whole: online.len() == threads.len(),
            is_first: core == host.cpus.core_of(0),
            is_shared: shared,
            threads,
        }
    };
    by_core.into_iter().map(core).collect()
}

/// Online threads of the core of `cpu`, itself included.
pub(super) fn siblings(host: &HostProfile, cpu: u32) -> IdSet {
    let all = host.cpus.siblings.get(&cpu).cloned().unwrap_or_default();
    let online = all.intersection(&host.cpus.online);
    if online.is_empty() { IdSet::from_iter([cpu]) } else { online }
}
