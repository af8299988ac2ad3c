//! Sockets, cores and threads as the guest sees them: as the host's CPUs are that it has.

use std::collections::BTreeMap;

use berth_arch::topology::{CpuPlace, Topology};

use super::super::{PinReason, VcpuPlan};
use super::cores::siblings;
use super::node_of;
use crate::host::{HostProfile, IdSet};

/// The largest APIC ID that every guest can have; 255 addresses all CPUs.
const LAST_APIC_ID: u32 = 254;

/// vCPUs on these CPUs, by index. Those that share a core of the host share one in the guest;
/// those on different nodes are in different sockets.
pub(super) fn arrange(host: &HostProfile, pins: &[u32], named: bool) -> Vec<VcpuPlan> {
    let node = |cpu: u32| node_of(host, cpu).filter(|_| host.memory.numa);
    let mut places = Vec::new();
    let mut sockets: Vec<Option<u32>> = Vec::new();
    let mut number_of_sockets = 0;
    // By socket and the host's core: the guest's core, and threads so far.
    let mut cores: BTreeMap<(u32, u32), (u32, u32)> = BTreeMap::new();
    let mut cores_of_socket: BTreeMap<u32, u32> = BTreeMap::new();
    for &cpu in pins {
        let node = node(cpu);
        let known = (0..).zip(&sockets).find(|(_, other)| **other == node);
        let socket = known.map_or(number_of_sockets, |(socket, _)| socket);
        if socket == number_of_sockets {
            sockets.push(node);
            number_of_sockets += 1;
        }
        let (core, threads) = cores.entry((socket, host.cpus.core_of(cpu))).or_insert_with(|| {
            let next = cores_of_socket.entry(socket).or_default();
            *next += 1;
            (*next - 1, 0)
        });
        places.push(CpuPlace { socket, core: *core, thread: *threads });
        *threads += 1;
    }
    let mut topology = Topology::of(places);
    if topology.apic_ids().iter().any(|id| *id > LAST_APIC_ID) {
        topology = Topology::flat(u32::try_from(pins.len()).unwrap_or(u32::MAX));
    }
    let taken: IdSet = pins.iter().copied().collect();
    let plan = |(index, &cpu): (u8, &u32)| {
        let beside = siblings(host, cpu).difference(&IdSet::from_iter([cpu]));
        let apic_id = u8::try_from(topology.apic_id(index.into()));
        VcpuPlan {
            index,
            apic_id: apic_id.expect("flat IDs are indices, others end at LAST_APIC_ID"),
            place: topology.place(index.into()),
            cpu,
            node: node(cpu),
            why: if named {
                PinReason::Named
            } else if beside.intersection(&taken).is_empty() {
                PinReason::OwnCore
            } else {
                PinReason::SharedCore
            },
            siblings: beside.iter().collect(),
        }
    };
    (0..).zip(pins).map(plan).collect()
}
