//! What could be better about a plan, and what makes it so.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Plan;
use super::devices::Assigned;
use crate::config::{Config, CpuChoice, InterruptCpus, SeveralNodes};
use crate::host::{Capability, HostProfile, IdSet};
use crate::units::PageSize;

/// Something that could be better.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    /// What.
    pub what: String,
    /// What makes it better; `None` when nothing on this host does.
    pub fix: Option<String>,
}

fn shortfall(what: impl Into<String>, fix: impl Into<String>) -> Shortfall {
    Shortfall { what: what.into(), fix: Some(fix.into()) }
}

pub(super) fn find(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    plan: &Plan,
) -> Vec<Shortfall> {
    let vcpus: IdSet = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    let mut found = far_devices(config, host, assigned, plan);
    found.extend(far_cpus(config, host, plan));
    found.extend(plan.locality.shortfalls(config));
    found.extend(shared_with_machines(host, &vcpus));
    found.extend(first_core(host, plan, &vcpus));
    found.extend(own_threads(plan, &vcpus));
    found.extend(hidden_siblings(plan));
    found.extend(scheduler(config, host, plan, &vcpus));
    found.extend(pages(host, plan));
    found.extend(interrupts(config, host, plan, &vcpus));
    found.extend(links(assigned));
    found
}

/// Devices whose memory accesses cross to another node.
fn far_devices(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    plan: &Plan,
) -> Vec<Shortfall> {
    let nodes: Vec<u32> = plan.memory.pages.iter().filter_map(|pages| pages.node).collect();
    let all: IdSet = nodes.iter().copied().collect();
    let word = if nodes.len() == 1 { "node" } else { "nodes" };
    let far = assigned.iter().filter_map(|device| Some((device.address, device.function.node?)));
    far.filter(|(_, node)| host.memory.numa && !nodes.contains(node))
        .map(|(device, node)| Shortfall {
            what: format!("{device} is on node {node}, the memory on {word} {all}"),
            fix: if config.placement.node.is_some() {
                Some("set placement.node to \"auto\"".to_owned())
            } else if host.memory.nodes.get(&node).is_none_or(|facts| facts.total == 0) {
                None
            } else if config.placement.several_nodes != SeveralNodes::Split {
                Some(
                    "set placement.several_nodes to \"split\", or give it to a machine of its own"
                        .to_owned(),
                )
            } else {
                None
            },
        })
        .collect()
}

/// vCPUs whose memory accesses cross to another node.
fn far_cpus(config: &Config, host: &HostProfile, plan: &Plan) -> Option<Shortfall> {
    let nodes: Vec<Option<u32>> = plan.memory.pages.iter().map(|pages| pages.node).collect();
    let far = plan.vcpus.iter().filter(|vcpu| vcpu.node.is_some() && !nodes.contains(&vcpu.node));
    let far: IdSet = far.map(|vcpu| vcpu.cpu).collect();
    let all: IdSet = nodes.iter().copied().flatten().collect();
    let word = if nodes.len() == 1 { "node" } else { "nodes" };
    let has_cpus = |node: u32| host.memory.nodes.get(&node).is_some_and(|n| !n.cpus.is_empty());
    (!far.is_empty()).then(|| Shortfall {
        what: format!("CPUs {far} are not on {word} {all}, where the memory is"),
        fix: if config.placement.cpus.named().is_some() {
            Some("set placement.cpus to \"auto\"".to_owned())
        } else if config.placement.node.is_some_and(|node| !has_cpus(node)) {
            Some("set placement.node to a node with CPUs".to_owned())
        } else {
            None
        },
    })
}

fn shared_with_machines(host: &HostProfile, vcpus: &IdSet) -> Vec<Shortfall> {
    let shared = |machine: &crate::host::RunningMachine| {
        let cores: IdSet = machine.vcpus.iter().map(|cpu| host.cpus.core_of(cpu)).collect();
        let shared = vcpus.iter().filter(|&cpu| cores.contains(host.cpus.core_of(cpu)));
        let shared: IdSet = shared.collect();
        (!shared.is_empty()).then(|| {
            let (name, pid) = (&machine.name, machine.pid);
            shortfall(
                format!("machine {name} (process {pid}) has vCPUs on the cores of CPUs {shared}"),
                "set placement.cpus to \"auto\", which leaves them to it",
            )
        })
    };
    host.machines.iter().filter_map(shared).collect()
}

fn first_core(host: &HostProfile, plan: &Plan, vcpus: &IdSet) -> Option<Shortfall> {
    let first = host.cpus.core_of(0);
    let there: IdSet = vcpus.iter().filter(|&cpu| host.cpus.core_of(cpu) == first).collect();
    let what = format!("CPUs {there} are on the core of CPU 0, where the host's own work starts");
    (!there.is_empty() && host.cpus.online.len() > plan.vcpus.len())
        .then(|| shortfall(what, "lower vcpus, or name other CPUs in placement.cpus"))
}

fn own_threads(plan: &Plan, vcpus: &IdSet) -> Option<Shortfall> {
    let own: IdSet = plan.vmm_cpus.iter().copied().collect();
    let shared = own.intersection(vcpus);
    (!shared.is_empty()).then(|| {
        shortfall(
            format!("berth's own threads have no CPU but those of vCPUs, {shared}"),
            "lower vcpus, or widen berth's affinity (taskset) or cpuset.cpus of its cgroup",
        )
    })
}

/// Threads of a core of which the guest must not know, or their APIC IDs would be too large.
fn hidden_siblings(plan: &Plan) -> Option<Shortfall> {
    let cpus: IdSet = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    let shared = |vcpu: &super::VcpuPlan| vcpu.siblings.iter().any(|cpu| cpus.contains(*cpu));
    let told = plan.vcpus.iter().any(|vcpu| vcpu.place.thread > 0);
    (plan.vcpus.iter().any(shared) && !told).then(|| Shortfall {
        what: "some vCPUs share a core, and there are too many to tell the guest which".to_owned(),
        fix: None,
    })
}

/// Other processes on the vCPUs' cores.
fn scheduler(config: &Config, host: &HostProfile, plan: &Plan, vcpus: &IdSet) -> Option<Shortfall> {
    let beside = plan.vcpus.iter().flat_map(|vcpu| vcpu.siblings.iter().copied());
    let cores: IdSet = beside.chain(vcpus.iter()).collect();
    let open = cores.difference(&host.cpus.isolated);
    (!open.is_empty()).then(|| {
        let then = match config.placement.cpus {
            CpuChoice::Auto => ", and set placement.cpus to \"isolated\"",
            CpuChoice::Isolated | CpuChoice::Named(_) => "",
        };
        shortfall(
            format!("the host may run others on the vCPUs' cores, CPUs {open}"),
            format!(
                "boot it with `isolcpus=managed_irq,domain,{cores} nohz_full={cores} \
                 rcu_nocbs={cores}`{then}"
            ),
        )
    })
}

fn pages(host: &HostProfile, plan: &Plan) -> Option<Shortfall> {
    let size = plan.memory.page_size;
    if size == PageSize::Size1G || host.cpus.gigabyte_pages == Some(false) {
        return None;
    }
    let gib = 1 << 30;
    if !plan.memory.size.is_multiple_of(gib) {
        return Some(shortfall(
            format!("memory is of {size} pages: 1 GiB ones are easier to translate"),
            format!(
                "set memory.size_mib to {}, and memory.page_size to \"1G\"",
                plan.memory.size.next_multiple_of(gib) >> 20
            ),
        ));
    }
    let reserve = plan.memory.pages.iter().map(|pages| {
        let bytes = pages.pages * size.bytes();
        let node = pages.node.map_or_else(String::new, |node| format!("{node}:"));
        format!("{node}{}", bytes.div_ceil(gib))
    });
    let reserve = reserve.collect::<Vec<_>>().join(",");
    Some(shortfall(
        format!("memory is of {size} pages: 1 GiB ones are easier to translate"),
        format!(
            "set memory.page_size to \"1G\", and boot the host with `hugepagesz=1G \
             hugepages={reserve}`"
        ),
    ))
}

fn interrupts(config: &Config, host: &HostProfile, plan: &Plan, vcpus: &IdSet) -> Vec<Shortfall> {
    let mut found = Vec::new();
    let steered: IdSet = plan.pci.functions.iter().flat_map(|f| f.interrupt_cpus.clone()).collect();
    if plan.pci.functions.is_empty() {
        return found;
    }
    let on_vcpus = steered.intersection(vcpus);
    if !on_vcpus.is_empty() {
        found.push(shortfall(
            format!("interrupts of the devices are to go to CPUs {on_vcpus}, which are vCPUs'"),
            "set placement.interrupt_cpus to \"auto\"",
        ));
    }
    if steered.is_empty() {
        let off = config.placement.interrupt_cpus == InterruptCpus::Off;
        found.push(shortfall(
            "interrupts of the devices may land on the vCPUs' CPUs",
            if off {
                "set placement.interrupt_cpus to \"auto\""
            } else {
                "lower vcpus, so that a CPU is left for them"
            },
        ));
        return found;
    }
    if !host.process.has(Capability::DacOverride) {
        found.push(shortfall(
            "interrupts of the devices may land on the vCPUs' CPUs: only root may steer them",
            "run berth as root, or keep all new ones away in /proc/irq/default_smp_affinity",
        ));
    } else if host.irqbalance == Some(true) && !vcpus.difference(&host.cpus.isolated).is_empty() {
        found.push(shortfall(
            "irqbalance runs and moves the devices' interrupts, until berth puts them back",
            format!("set IRQBALANCE_BANNED_CPULIST={vcpus} in its configuration, and restart it"),
        ));
    }
    found
}

/// Cards that their slot holds back. All functions of a card have its link.
fn links(assigned: &[Assigned]) -> Vec<Shortfall> {
    let mut cards = BTreeSet::new();
    let slow = |device: &Assigned| {
        let link = device.function.link.filter(|_| !device.function.is_virtual)?;
        (cards.insert(device.address.slot()) && link.negotiated != link.capable).then(|| {
            shortfall(
                format!(
                    "{} has a link of {}, and is capable of {}",
                    device.address, link.negotiated, link.capable
                ),
                "move the card to a slot with more lanes, or look for the slot's speed in the \
                 firmware's setup",
            )
        })
    };
    assigned.iter().filter_map(slow).collect()
}
