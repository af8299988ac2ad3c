//! Nodes of the guest's memory: what the config says, else the devices', else those of its CPUs,
//! else one with room.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use berth_devices::pci::HostBdf;

use super::super::devices::Assigned;
use super::super::{Note, PlanError, Share};
use super::{node_of, usable};
use crate::config::{Config, SeveralNodes};
use crate::host::{HostProfile, IdSet, Node};

/// At least one.
pub(super) fn shares(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    notes: &mut Vec<Note>,
) -> Result<Vec<Share>, PlanError> {
    let of_devices = by_frequency(assigned);
    let policy = config.placement.several_nodes;
    if policy == SeveralNodes::Refuse && of_devices.len() > 1 {
        let devices = assigned.iter().filter_map(|d| Some((d.address, d.function.node?)));
        return Err(PlanError::SeveralNodes { devices: devices.collect() });
    }
    let mut nodes = Vec::new();
    if policy == SeveralNodes::Split && config.placement.node.is_none() {
        for &node in &of_devices {
            let near = nearest(host, node, |near| near.total > 0);
            if !nodes.contains(&near) {
                nodes.push(near);
            }
        }
    }
    if nodes.len() < 2 {
        nodes = vec![one(config, host, assigned, &of_devices, notes)];
    }
    for &node in &nodes {
        let device = assigned.iter().find(|device| device.function.node == Some(node));
        let device = device.filter(|_| config.placement.node.is_none());
        check(host, device.map(|device| device.address), node)?;
    }
    Ok(share_out(config, host, &nodes))
}

/// Evenly, what does not divide to the first ones. A node without a page of memory is none of the
/// machine's.
fn share_out(config: &Config, host: &HostProfile, nodes: &[u32]) -> Vec<Share> {
    let page = config.memory.page_size.bytes();
    let pages = config.memory.size_mib.bytes() / page;
    let count = nodes.len().min(usize::try_from(pages).unwrap_or(usize::MAX)).max(1);
    let vcpus = usize::from(config.vcpus.get());
    let usable = usable(host);
    let share = |(index, &node): (usize, &u32)| {
        let (index64, count64) = (index as u64, count as u64);
        let vcpus = vcpus / count + usize::from(index < vcpus % count);
        Share {
            node,
            cpu_node: cpu_node(host, node, &usable, vcpus),
            memory: (pages / count64 + u64::from(index64 < pages % count64)) * page,
            vcpus,
        }
    };
    nodes.iter().take(count).enumerate().map(share).collect()
}

/// The devices' nodes, that of most devices first; the earliest of equals.
fn by_frequency(assigned: &[Assigned]) -> Vec<u32> {
    let mut counts = BTreeMap::new();
    for (position, node) in assigned.iter().filter_map(|device| device.function.node).enumerate() {
        counts.entry(node).or_insert((0, Reverse(position))).0 += 1;
    }
    let mut nodes: Vec<_> = counts.into_iter().collect();
    nodes.sort_by_key(|(_, rank)| Reverse(*rank));
    nodes.into_iter().map(|(node, _)| node).collect()
}

fn one(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    of_devices: &[u32],
    notes: &mut Vec<Note>,
) -> u32 {
    if let Some(node) = config.placement.node {
        return node;
    }
    if let Some(&node) = of_devices.first() {
        return nearest(host, node, |near| near.total > 0);
    }
    let first = config.placement.cpus.named().and_then(<[u32]>::first);
    let node = first.and_then(|&cpu| node_of(host, cpu)).unwrap_or_else(|| roomiest(config, host));
    if !assigned.is_empty() && host.memory.nodes.len() > 1 {
        notes.push(Note::NodeGuessed { node });
    }
    node
}

/// `device` is why this node was chosen.
fn check(host: &HostProfile, device: Option<HostBdf>, node: u32) -> Result<(), PlanError> {
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
        Some(_) => Ok(()),
    }
}

/// The node of vCPUs for memory on `node`: the same, unless that has no CPUs at all, as nodes of
/// only memory or of only devices.
fn cpu_node(host: &HostProfile, node: u32, usable: &IdSet, vcpus: usize) -> u32 {
    if !host.memory.nodes[&node].cpus.is_empty() {
        return node;
    }
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
fn roomiest(config: &Config, host: &HostProfile) -> u32 {
    let usable = usable(host).difference(&super::taken_by_machines(host));
    let size = config.memory.size_mib.bytes();
    let rank = |id: u32| {
        let node = &host.memory.nodes[&id];
        let cpus = node.cpus.intersection(&usable).len();
        (
            node.total > 0 && may_use_memory(host, id),
            // Memory without CPUs, such as CXL's, is slower: for those who name it.
            !node.cpus.is_empty(),
            node.has_room(config.memory.page_size, size),
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
