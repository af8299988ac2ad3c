//! Where berth's own threads and the interrupts of its devices go: near, and in no vCPU's way.

use std::cmp::Reverse;

use super::cores::cores;
use super::{taken_by_machines, usable};
use crate::config::{Config, InterruptCpus, Smt};
use crate::host::{HostProfile, IdSet};

/// vCPUs that a core of berth's own serves. Few cores, so that other machines find free ones; more
/// for many vCPUs, which have as many queues that interrupt.
const VCPUS_PER_CORE: usize = 8;

/// CPUs for berth's own threads. When vCPUs have all that this process may use, berth shares.
pub(super) fn cpus(config: &Config, host: &HostProfile, node: u32, vcpus: &IdSet) -> Vec<u32> {
    let usable = usable(host);
    let choice = near(config, host, node, vcpus, &usable);
    let last = if usable.is_empty() { vcpus } else { &usable };
    choice.unwrap_or_else(|| last.iter().collect())
}

/// CPUs for the interrupts of a device on `node`; `None` leaves them where the kernel puts them.
pub(in crate::plan) fn interrupt_cpus(
    config: &Config,
    host: &HostProfile,
    node: u32,
    vcpus: &IdSet,
) -> Option<Vec<u32>> {
    match &config.placement.interrupt_cpus {
        InterruptCpus::Auto => {
            // Interrupts may go where this process may not run, but neither to isolated CPUs nor
            // to those of a cpuset partition, which somebody wants to have alone.
            let open = host.cpus.online.difference(&host.cpus.isolated);
            let open = open.difference(&host.cpus.partitioned);
            near(config, host, node, vcpus, &usable(host))
                .or_else(|| near(config, host, node, vcpus, &open))
        }
        InterruptCpus::Off => None,
        InterruptCpus::Named(cpus) => Some(cpus.clone()),
    }
}

/// A few of `usable` that are no machine's vCPU's: on `node` and in the vCPUs' package, on cores
/// without vCPUs, else on the node, else anywhere; without `nohz_full=` where there are any, because
/// a second task starts their ticks again.
///
/// The core of CPU 0 is first choice, where the host's own work is anyway, then what other machines
/// use for the same, then cores of the vCPUs' own L3 caches, then of others that are not all free:
/// what is whole stays so for machines that fill it. Then come the highest, because vCPUs begin with
/// the lowest.
fn near(
    config: &Config,
    host: &HostProfile,
    node: u32,
    vcpus: &IdSet,
    usable: &IdSet,
) -> Option<Vec<u32>> {
    let others: IdSet = host.machines.iter().flat_map(|machine| machine.vcpus.iter()).collect();
    let free = usable.difference(vcpus).difference(&others);
    let busy: IdSet = vcpus.iter().map(|cpu| host.cpus.core_of(cpu)).collect();
    let machines = taken_by_machines(host);
    let idle: IdSet = free
        .difference(&machines)
        .iter()
        .filter(|&cpu| !busy.contains(host.cpus.core_of(cpu)))
        .collect();
    let on_node = |cpus: &IdSet| match host.memory.nodes.get(&node) {
        Some(facts) => cpus.intersection(&facts.cpus),
        None => cpus.clone(),
    };
    let in_packages = |cpus: &IdSet| cpus.intersection(&around(host.cpus.packages.values(), vcpus));
    let here = on_node(&idle);
    // Siblings of vCPUs are to be idle, or else better than another node.
    let choices = match config.placement.smt {
        Smt::Idle => vec![in_packages(&here), here, idle],
        Smt::Auto | Smt::Siblings => {
            vec![in_packages(&here), here, on_node(&free), idle, free]
        }
    };
    let chosen = choices.into_iter().find(|cpus| !cpus.is_empty())?;
    let ticking = chosen.difference(&host.cpus.nohz_full);
    let mut cores = cores(host, if ticking.is_empty() { &chosen } else { &ticking });
    let caches = |cpus: &IdSet| around(host.cpus.l3_caches.iter(), cpus);
    let (own, begun) = (caches(vcpus), caches(&others.union(&IdSet::from_iter([0]))));
    cores.sort_by_key(|core| {
        let first = core.threads[0];
        let cache = (!own.contains(first), !begun.contains(first));
        (!core.is_first, !core.is_shared, cache, Reverse(first))
    });
    cores.truncate(vcpus.len().div_ceil(VCPUS_PER_CORE));
    let mut cpus: Vec<u32> = cores.into_iter().flat_map(|core| core.threads).collect();
    cpus.sort_unstable();
    Some(cpus)
}

/// All CPUs of those `sets` that have one of `vcpus`.
fn around<'a>(sets: impl Iterator<Item = &'a IdSet>, vcpus: &IdSet) -> IdSet {
    let near = sets.filter(|set| set.iter().any(|cpu| vcpus.contains(cpu)));
    near.flat_map(IdSet::iter).collect()
}
