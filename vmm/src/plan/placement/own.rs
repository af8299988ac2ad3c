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
            // Interrupts may go where this process may not run, but not to isolated CPUs.
            let open = host.cpus.online.difference(&host.cpus.isolated);
            near(config, host, node, vcpus, &usable(host))
                .or_else(|| near(config, host, node, vcpus, &open))
        }
        InterruptCpus::Off => None,
        InterruptCpus::Named(cpus) => Some(cpus.clone()),
    }
}

/// A few of `usable` that are no machine's vCPU's: on `node` and on cores without vCPUs, else on
/// the node, else anywhere. The core of CPU 0 is first choice, where the host's own work is
/// anyway, then what other machines use for the same, then the highest: vCPUs begin with the
/// lowest.
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
    let here = |cpus: &IdSet| match host.memory.nodes.get(&node) {
        Some(facts) => cpus.intersection(&facts.cpus),
        None => cpus.clone(),
    };
    // Siblings of vCPUs are to be idle, or else better than another node.
    let choices = match config.placement.smt {
        Smt::Idle => vec![here(&idle), idle],
        Smt::Auto | Smt::Siblings => vec![here(&idle), here(&free), idle, free],
    };
    let chosen = choices.into_iter().find(|cpus| !cpus.is_empty())?;
    let mut cores = cores(host, &chosen);
    cores.sort_by_key(|core| (!core.is_first, !core.is_shared, Reverse(core.threads[0])));
    cores.truncate(vcpus.len().div_ceil(VCPUS_PER_CORE));
    let mut cpus: Vec<u32> = cores.into_iter().flat_map(|core| core.threads).collect();
    cpus.sort_unstable();
    Some(cpus)
}
