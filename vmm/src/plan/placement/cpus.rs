//! Which host CPU each vCPU is pinned to, and which are left to others.

use super::super::{Avoided, PlanError, Share};
use super::choose::choose;
use super::cores::{cores, siblings};
use super::{taken_by_machines, usable};
use crate::config::{Config, CpuChoice, Smt};
use crate::host::{HostProfile, IdSet};

/// The CPU of each vCPU, by index.
pub(super) fn pin(
    config: &Config,
    host: &HostProfile,
    shares: &[Share],
) -> Result<Vec<u32>, PlanError> {
    if let CpuChoice::Named(cpus) = &config.placement.cpus {
        return named(config, host, cpus);
    }
    let mut pins = Vec::new();
    for share in shares {
        // Two nodes without CPUs may have a third one's.
        let taken: IdSet = pins.iter().copied().collect();
        pins.extend(of_node(config, host, share, &taken)?);
    }
    Ok(pins)
}

/// The config's CPUs. Isolated ones count as allowed: the kernel leaves them out of every
/// affinity that is not set on purpose, and naming them is on purpose.
fn named(config: &Config, host: &HostProfile, cpus: &[u32]) -> Result<Vec<u32>, PlanError> {
    if cpus.len() != usize::from(config.vcpus.get()) {
        return Err(PlanError::CpuCount { cpus: cpus.len(), vcpus: config.vcpus.get() });
    }
    let usable = usable(host);
    let on_purpose = host.cpus.isolated.difference(&host.cpus.partitioned);
    for &cpu in cpus {
        if !host.cpus.online.contains(cpu) {
            return Err(PlanError::CpuNotOnline { cpu, online: host.cpus.online.clone() });
        }
        if host.cpus.partitioned.contains(cpu) {
            return Err(PlanError::CpuPartitioned { cpu });
        }
        if !usable.contains(cpu) && !on_purpose.contains(cpu) {
            return Err(PlanError::CpuNotAllowed { cpu, allowed: usable });
        }
    }
    Ok(cpus.to_vec())
}

/// What the config lets vCPUs take, of all nodes.
fn pool(config: &Config, host: &HostProfile) -> IdSet {
    match config.placement.cpus {
        CpuChoice::Isolated => {
            let isolated = host.cpus.isolated.intersection(&host.cpus.online);
            isolated.difference(&host.cpus.partitioned)
        }
        CpuChoice::Auto | CpuChoice::Named(_) => usable(host),
    }
}

/// What CPUs of other vCPUs keep from further ones: themselves, or their cores.
fn beside(config: &Config, host: &HostProfile, taken: &IdSet) -> IdSet {
    match config.placement.smt {
        Smt::Idle => {
            taken.iter().flat_map(|cpu| siblings(host, cpu).iter().collect::<Vec<_>>()).collect()
        }
        Smt::Auto | Smt::Siblings => taken.clone(),
    }
}

fn of_node(
    config: &Config,
    host: &HostProfile,
    share: &Share,
    taken: &IdSet,
) -> Result<Vec<u32>, PlanError> {
    let facts = &host.memory.nodes[&share.cpu_node];
    let pool = pool(config, host);
    let free = pool.difference(&taken_by_machines(host)).difference(&beside(config, host, taken));
    let here = free.intersection(&facts.cpus);
    let smt = config.placement.smt;
    let chosen = choose(smt, &cores(host, &here), share.vcpus);
    chosen.ok_or_else(|| PlanError::TooFewCpus {
        vcpus: share.vcpus,
        node: share.cpu_node,
        whole_cores: smt == Smt::Idle,
        only_isolated: config.placement.cpus == CpuChoice::Isolated,
        isolated: facts.cpus.intersection(&host.cpus.isolated).difference(&here),
        machines: host
            .machines
            .iter()
            .map(|machine| (machine.clone(), machine.vcpus.intersection(&facts.cpus)))
            .filter(|(_, cpus)| !cpus.is_empty())
            .map(|(machine, cpus)| (machine.name, machine.pid, cpus))
            .collect(),
        elsewhere: usable(host),
        cpus: if smt == Smt::Idle {
            cores(host, &here).iter().map(|core| core.threads[0]).collect()
        } else {
            here
        },
    })
}

/// CPUs of the machine's nodes that are not its, and why. What the config names is nobody's choice.
/// `taken` are its vCPUs', `ours` berth's own besides.
pub(super) fn avoided(
    config: &Config,
    host: &HostProfile,
    shares: &[Share],
    taken: &IdSet,
    ours: &IdSet,
) -> Vec<Avoided> {
    if matches!(config.placement.cpus, CpuChoice::Named(_)) {
        return Vec::new();
    }
    let nodes = shares.iter().filter_map(|share| host.memory.nodes.get(&share.cpu_node));
    let here: IdSet = nodes.flat_map(|node| node.cpus.iter()).collect();
    let mut left = here.intersection(&host.cpus.online).difference(ours);
    let mut avoided = Vec::new();
    let mut leave = |cpus: IdSet, why: String| {
        let cpus = cpus.intersection(&left);
        left = left.difference(&cpus);
        if !cpus.is_empty() {
            avoided.push(Avoided { cpus: cpus.iter().collect(), why });
        }
    };
    for machine in &host.machines {
        let (name, pid) = (&machine.name, machine.pid);
        leave(machine.vcpus.clone(), format!("vCPUs of machine {name}, process {pid}"));
    }
    leave(taken_by_machines(host), "on cores of other machines' vCPUs".to_owned());
    leave(
        host.cpus.partitioned.clone(),
        "of a cpuset partition that other processes have to themselves".to_owned(),
    );
    let usable = usable(host);
    if config.placement.cpus == CpuChoice::Isolated {
        leave(
            host.cpus.online.difference(&host.cpus.isolated),
            "not isolated, and placement.cpus asks for isolated ones".to_owned(),
        );
    } else {
        let isolated = host.cpus.isolated.difference(&usable);
        leave(isolated, "isolated: for those that ask for them in placement.cpus".to_owned());
        leave(
            host.cpus.online.difference(&usable),
            "outside of this process's affinity or cpuset".to_owned(),
        );
    }
    let cores: IdSet = taken.iter().map(|cpu| host.cpus.core_of(cpu)).collect();
    if !cores.contains(host.cpus.core_of(0)) {
        let first = host.cpus.online.iter();
        let first = first.filter(|&cpu| host.cpus.core_of(cpu) == host.cpus.core_of(0));
        leave(first.collect(), "the core of CPU 0, where the host's own work starts".to_owned());
    }
    for kind in &host.cpus.core_kinds {
        if kind.cpus.intersection(taken).is_empty() {
            leave(kind.cpus.clone(), format!("{}: the vCPUs are on others", kind.name));
        }
    }
    let beside = host.cpus.online.iter().filter(|&cpu| cores.contains(host.cpus.core_of(cpu)));
    leave(beside.collect(), "on the vCPUs' cores, not used".to_owned());
    avoided
}
