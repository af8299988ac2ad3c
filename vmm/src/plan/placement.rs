//! Which node the guest's memory is on, and which CPUs run its vCPUs and berth itself.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::devices::Assigned;
use super::{PlanError, VcpuPlan, memory};
use crate::config::Config;
use crate::host::{HostProfile, IdSet, Node};

/// Where a machine lives.
pub(super) struct Placement {
    /// Node of its memory.
    pub(super) node: u32,
    /// CPU of each vCPU.
    pub(super) vcpus: Vec<VcpuPlan>,
    /// CPUs of berth's own threads.
    pub(super) vmm_cpus: Vec<u32>,
}

pub(super) fn place(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    notes: &mut Vec<String>,
) -> Result<Placement, PlanError> {
    let node = node(config, host, assigned, notes)?;
    let usable = host.process.cpus.intersection(&host.cpus.online);
    let cpu_node = cpu_node(config, host, node, &usable);
    let cpus = match &config.placement.cpus {
        Some(cpus) => explicit_cpus(config, host, cpus)?,
        None => node_cpus(config, host, cpu_node, &usable)?,
    };
    let vcpus: Vec<VcpuPlan> = (0..)
        .zip(&cpus)
        .map(|(index, &cpu)| VcpuPlan {
            index,
            cpu,
            node: node_of(host, cpu).filter(|_| host.memory.numa),
        })
        .collect();
    let far: IdSet = vcpus
        .iter()
        .filter(|vcpu| vcpu.node.is_some_and(|other| other != node))
        .map(|vcpu| vcpu.cpu)
        .collect();
    if !far.is_empty() {
        notes.push(format!("CPUs {far} are not on node {node}, where the memory is"));
    }
    Ok(Placement {
        node,
        vmm_cpus: vmm_cpus(host, cpu_node, &usable, &cpus.into_iter().collect()),
        vcpus,
    })
}

/// Node of the guest's memory: what the config says, else the devices', else the first explicit
/// CPU's, else one with room.
fn node(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    notes: &mut Vec<String>,
) -> Result<u32, PlanError> {
    let devices =
        || assigned.iter().filter_map(|device| Some((device.address, device.function.node?)));
    let (node, device) = if let Some(node) = config.placement.node {
        (node, None)
    } else if let Some(node) = most_frequent(devices().map(|(_, node)| node)) {
        let device = devices().find(|(_, n)| *n == node).map(|(bdf, _)| bdf);
        (nearest(host, node, |near| near.total > 0), device)
    } else {
        let first = config.placement.cpus.iter().flatten().next();
        let node = first
            .and_then(|&cpu| node_of(host, cpu))
            .unwrap_or_else(|| roomiest_node(config, host));
        if !config.devices.is_empty() && host.memory.nodes.len() > 1 {
            notes.push(format!(
                "the firmware names no NUMA node for the devices; node {node} was chosen"
            ));
        }
        (node, None)
    };
    for (bdf, other) in devices().filter(|(_, other)| *other != node) {
        notes.push(format!("{bdf} is on node {other}, the memory on node {node}"));
    }

    let with_memory = || {
        let nodes = host.memory.nodes.iter();
        nodes.filter(|(_, node)| node.total > 0).map(|(id, _)| *id).collect()
    };
    match host.memory.nodes.get(&node) {
        None => Err(PlanError::NoSuchNode { node, with_memory: with_memory() }),
        Some(facts) if facts.total == 0 => {
            Err(PlanError::NodeWithoutMemory { node, device, with_memory: with_memory() })
        }
        Some(_) if !may_use_memory(host, node) => {
            Err(PlanError::NodeNotAllowed { node, allowed: host.process.nodes.clone() })
        }
        Some(_) => Ok(node),
    }
}

/// The most frequent node; the earliest of equals.
fn most_frequent(nodes: impl Iterator<Item = u32>) -> Option<u32> {
    let mut counts = BTreeMap::new();
    for (position, node) in nodes.enumerate() {
        counts.entry(node).or_insert((0, Reverse(position))).0 += 1;
    }
    counts.into_iter().max_by_key(|(_, rank)| *rank).map(|(node, _)| node)
}

/// The node of vCPUs for memory on `node`: the same, unless that has no CPUs at all, as nodes of
/// only memory or of only devices.
fn cpu_node(config: &Config, host: &HostProfile, node: u32, usable: &IdSet) -> u32 {
    if !host.memory.nodes[&node].cpus.is_empty() {
        return node;
    }
    let vcpus = usize::from(config.vcpus.get());
    nearest(host, node, |near| near.cpus.intersection(usable).len() >= vcpus)
}

/// `node` when it is `good`, else the good node that is nearest, by its number among equals; else
/// `node`, for the refusal that follows to speak of.
fn nearest(host: &HostProfile, node: u32, good: impl Fn(&Node) -> bool) -> u32 {
    let nodes = &host.memory.nodes;
    // Without a node there are no distances, and without distances any other is as near.
    let Some(here) = nodes.get(&node) else {
        return node;
    };
    let candidates = nodes.iter().filter(|(_, near)| good(near)).map(|(id, _)| *id);
    let rank = |id: &u32| (*id != node, here.distance(*id), *id);
    candidates.min_by_key(rank).unwrap_or(node)
}

/// The first node with CPUs and memory for all of the guest, or the nearest thing to it, for the
/// refusal that follows to speak of.
fn roomiest_node(config: &Config, host: &HostProfile) -> u32 {
    let usable = host.process.cpus.intersection(&host.cpus.online);
    let rank = |id: u32| {
        let node = &host.memory.nodes[&id];
        let cpus = node.cpus.intersection(&usable).len();
        (
            node.total > 0 && may_use_memory(host, id),
            memory::has_room(config, node),
            cpus >= usize::from(config.vcpus.get()),
            Reverse(id),
        )
    };
    let nodes = host.memory.nodes.keys().copied();
    nodes.max_by_key(|&id| rank(id)).unwrap_or(0)
}

/// Not to know the cpuset's nodes allows all.
fn may_use_memory(host: &HostProfile, node: u32) -> bool {
    host.process.nodes.is_empty() || host.process.nodes.contains(node)
}

fn node_of(host: &HostProfile, cpu: u32) -> Option<u32> {
    let mut nodes = host.memory.nodes.iter();
    nodes.find(|(_, node)| node.cpus.contains(cpu)).map(|(id, _)| *id)
}

/// The config's CPUs. Isolated ones count as allowed: the kernel leaves them out of every
/// affinity that is not set on purpose, and naming them is on purpose.
fn explicit_cpus(config: &Config, host: &HostProfile, cpus: &[u32]) -> Result<Vec<u32>, PlanError> {
    if cpus.len() != usize::from(config.vcpus.get()) {
        return Err(PlanError::CpuCount { cpus: cpus.len(), vcpus: config.vcpus.get() });
    }
    for &cpu in cpus {
        if !host.cpus.online.contains(cpu) {
            return Err(PlanError::CpuNotOnline { cpu, online: host.cpus.online.clone() });
        }
        if !host.process.cpus.contains(cpu) && !host.cpus.isolated.contains(cpu) {
            return Err(PlanError::CpuNotAllowed { cpu, allowed: host.process.cpus.clone() });
        }
    }
    Ok(cpus.to_vec())
}

/// One CPU of the node per vCPU: a core each while there are cores, then their siblings. The core
/// of CPU 0 comes last, because the host's own interrupts and timers start there.
fn node_cpus(
    config: &Config,
    host: &HostProfile,
    node: u32,
    usable: &IdSet,
) -> Result<Vec<u32>, PlanError> {
    let facts = &host.memory.nodes[&node];
    let here = facts.cpus.intersection(usable);
    let vcpus = usize::from(config.vcpus.get());
    if here.len() < vcpus {
        return Err(PlanError::TooFewCpus {
            vcpus: config.vcpus.get(),
            node,
            isolated: facts.cpus.intersection(&host.cpus.isolated).difference(&here),
            elsewhere: usable.clone(),
            cpus: here,
        });
    }
    let mut threads_of_core = BTreeMap::new();
    let mut ranked: Vec<_> = here
        .iter()
        .map(|cpu| {
            let core = host.cpus.core_of(cpu);
            let thread = threads_of_core.entry(core).or_insert(0);
            *thread += 1;
            (*thread, core == host.cpus.core_of(0), cpu)
        })
        .collect();
    ranked.sort_unstable();
    let mut cpus: Vec<u32> = ranked.into_iter().take(vcpus).map(|(.., cpu)| cpu).collect();
    cpus.sort_unstable();
    Ok(cpus)
}

/// CPUs that no vCPU has: on the node and on other cores, else on the node, else anywhere. When
/// vCPUs have them all, berth shares.
fn vmm_cpus(host: &HostProfile, node: u32, usable: &IdSet, vcpu_cpus: &IdSet) -> Vec<u32> {
    let free = usable.difference(vcpu_cpus);
    let here = free.intersection(&host.memory.nodes[&node].cpus);
    let busy_cores: IdSet = vcpu_cpus.iter().map(|cpu| host.cpus.core_of(cpu)).collect();
    let idle: IdSet =
        here.iter().filter(|&cpu| !busy_cores.contains(host.cpus.core_of(cpu))).collect();
    let choice = [&idle, &here, &free, usable]
        .into_iter()
        .find(|cpus| !cpus.is_empty())
        .unwrap_or(vcpu_cpus);
    choice.iter().collect()
}
