//! What could be better about a plan: findings that warn, in the words that `berth check` has for
//! them too.

use std::collections::BTreeSet;

use super::Plan;
use super::devices::Assigned;
use crate::advice::{Code, Finding, placement, system};
use crate::config::{Config, CpuChoice, InterruptCpus, SeveralNodes};
use crate::host::{Capability, HostProfile, IdSet};
use crate::units::PageSize;

pub(super) fn find(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    plan: &Plan,
) -> Vec<Finding> {
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
) -> Vec<Finding> {
    let nodes: Vec<u32> = plan.memory.pages.iter().filter_map(|pages| pages.node).collect();
    let all: IdSet = nodes.iter().copied().collect();
    let word = if nodes.len() == 1 { "node" } else { "nodes" };
    let far = assigned.iter().filter_map(|device| Some((device.address, device.function.node?)));
    far.filter(|(_, node)| host.memory.numa && !nodes.contains(node))
        .map(|(device, node)| {
            let step = if config.placement.node.is_some() {
                Some("set placement.node to \"auto\"")
            } else if host.memory.nodes.get(&node).is_none_or(|facts| facts.total == 0) {
                None
            } else if config.placement.several_nodes != SeveralNodes::Split {
                Some("set placement.several_nodes to \"split\", or give it to a machine of its own")
            } else {
                None
            };
            let source = format!("/sys/bus/pci/devices/{device}/numa_node");
            let seen = format!("{device} is on node {node}, the memory on {word} {all}");
            Finding::warn(Code::CpuFar, source, seen).of(device).steps(step.map(str::to_owned))
        })
        .collect()
}

/// vCPUs whose memory accesses cross to another node.
fn far_cpus(config: &Config, host: &HostProfile, plan: &Plan) -> Option<Finding> {
    let nodes: Vec<Option<u32>> = plan.memory.pages.iter().map(|pages| pages.node).collect();
    let far = plan.vcpus.iter().filter(|vcpu| vcpu.node.is_some() && !nodes.contains(&vcpu.node));
    let far: IdSet = far.map(|vcpu| vcpu.cpu).collect();
    let all: IdSet = nodes.iter().copied().flatten().collect();
    let word = if nodes.len() == 1 { "node" } else { "nodes" };
    let has_cpus = |node: u32| host.memory.nodes.get(&node).is_some_and(|n| !n.cpus.is_empty());
    (!far.is_empty()).then(|| {
        let step = if config.placement.cpus.named().is_some() {
            Some("set placement.cpus to \"auto\"")
        } else if config.placement.node.is_some_and(|node| !has_cpus(node)) {
            Some("set placement.node to a node with CPUs")
        } else {
            None
        };
        let seen = format!("CPUs {far} are not on {word} {all}, where the memory is");
        Finding::warn(Code::CpuFar, "/sys/devices/system/node/node*/cpulist", seen)
            .steps(step.map(str::to_owned))
    })
}

fn shared_with_machines(host: &HostProfile, vcpus: &IdSet) -> Vec<Finding> {
    let shared = |machine: &crate::host::RunningMachine| {
        let cores: IdSet = machine.vcpus.iter().map(|cpu| host.cpus.core_of(cpu)).collect();
        let shared = vcpus.iter().filter(|&cpu| cores.contains(host.cpus.core_of(cpu)));
        let shared: IdSet = shared.collect();
        (!shared.is_empty()).then(|| {
            let (name, pid) = (&machine.name, machine.pid);
            let seen =
                format!("machine {name} (process {pid}) has vCPUs on the cores of CPUs {shared}");
            Finding::warn(Code::CpuSharedByMachines, format!("/proc/{pid}/task"), seen)
                .step("set placement.cpus to \"auto\", which leaves them to it")
        })
    };
    host.machines.iter().filter_map(shared).collect()
}

fn first_core(host: &HostProfile, plan: &Plan, vcpus: &IdSet) -> Option<Finding> {
    let first = host.cpus.core_of(0);
    let there: IdSet = vcpus.iter().filter(|&cpu| host.cpus.core_of(cpu) == first).collect();
    let seen = format!("CPUs {there} are on the core of CPU 0, where the host's own work starts");
    (!there.is_empty() && host.cpus.online.len() > plan.vcpus.len()).then(|| {
        Finding::warn(Code::CpuOfHost, "/sys/devices/system/cpu/cpu0/topology", seen)
            .step("lower vcpus, or name other CPUs in placement.cpus")
    })
}

fn own_threads(plan: &Plan, vcpus: &IdSet) -> Option<Finding> {
    let own: IdSet = plan.vmm_cpus.iter().copied().collect();
    let shared = own.intersection(vcpus);
    (!shared.is_empty()).then(|| {
        let seen = format!("berth's own threads have no CPU but those of vCPUs, {shared}");
        Finding::warn(Code::CpuOfVmm, "/proc/self/status", seen)
            .step("lower vcpus, or widen berth's affinity (taskset) or cpuset.cpus of its cgroup")
    })
}

/// Threads of a core of which the guest must not know, or their APIC IDs would be too large.
fn hidden_siblings(plan: &Plan) -> Option<Finding> {
    let cpus: IdSet = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    let shared = |vcpu: &super::VcpuPlan| vcpu.siblings.iter().any(|cpu| cpus.contains(*cpu));
    let told = plan.vcpus.iter().any(|vcpu| vcpu.place.thread > 0);
    let seen = "some vCPUs share a core, and there are too many to tell the guest which";
    (plan.vcpus.iter().any(shared) && !told)
        .then(|| Finding::warn(Code::SmtHidden, "berth plan", seen))
}

/// Other processes on the vCPUs' cores.
fn scheduler(config: &Config, host: &HostProfile, plan: &Plan, vcpus: &IdSet) -> Option<Finding> {
    const SOURCE: &str = "/sys/devices/system/cpu/isolated";
    let beside = plan.vcpus.iter().flat_map(|vcpu| vcpu.siblings.iter().copied());
    let cores: IdSet = beside.chain(vcpus.iter()).collect();
    let open = cores.difference(&host.cpus.isolated);
    if open.is_empty() {
        return None;
    }
    let seen = format!("the host may run others on the vCPUs' cores, CPUs {open}");
    let finding = Finding::warn(Code::CpuNotIsolated, SOURCE, seen);
    let isolated = &host.cpus.isolated.difference(&host.cpus.partitioned);
    // What is isolated already is the nearest remedy, where vCPUs can have it.
    if isolated.len() >= vcpus.len() && !vcpus.difference(isolated).is_empty() {
        return Some(match config.placement.cpus {
            CpuChoice::Auto => finding.step("set placement.cpus to \"isolated\""),
            CpuChoice::Isolated | CpuChoice::Named(_) => {
                finding.step(format!("name isolated CPUs in placement.cpus: {isolated}"))
            }
        });
    }
    let finding = finding
        .step("for guests that must not be disturbed; berth's pins alone do for others:")
        .steps(placement::isolate(host, &cores));
    Some(match config.placement.cpus {
        CpuChoice::Auto => finding.step("then set placement.cpus to \"isolated\""),
        CpuChoice::Isolated | CpuChoice::Named(_) => finding,
    })
}

/// Pages that are larger are easier to translate.
fn pages(host: &HostProfile, plan: &Plan) -> Option<Finding> {
    let size = plan.memory.page_size;
    let gib = 1 << 30;
    if size == PageSize::Size1G || host.cpus.gigabyte_pages == Some(false) {
        return None;
    }
    let seen = format!("memory is of {size} pages: 1 GiB ones are easier to translate");
    let finding = Finding::warn(Code::SmallPages, "berth plan", seen);
    if !plan.memory.size.is_multiple_of(gib) {
        return Some(finding.step(format!(
            "set memory.size_mib to {}, and memory.page_size to \"1G\"",
            plan.memory.size.next_multiple_of(gib) >> 20
        )));
    }
    let wanted: Vec<(u32, u64)> = plan
        .memory
        .pages
        .iter()
        .map(|part| {
            let pages = (part.pages * size.bytes()).div_ceil(gib);
            let node = part.node.unwrap_or_default();
            let pool = host.memory.nodes.get(&node).and_then(|n| n.pools.get(&PageSize::Size1G));
            let (total, free) = pool.map_or((0, 0), |pool| (pool.total, pool.free));
            (node, total + pages.saturating_sub(free))
        })
        .collect();
    let is_there = |(node, pages): &(u32, u64)| {
        let pool = host.memory.nodes.get(node).and_then(|n| n.pools.get(&PageSize::Size1G));
        pool.is_some_and(|pool| pool.total >= *pages)
    };
    let finding = finding.step("set memory.page_size to \"1G\"");
    Some(if wanted.iter().all(is_there) {
        finding
    } else {
        finding
            .step("and have such pages reserved when the host boots:")
            .steps(crate::advice::memory::at_boot(host, &wanted))
    })
}

fn interrupts(config: &Config, host: &HostProfile, plan: &Plan, vcpus: &IdSet) -> Vec<Finding> {
    let warn = |seen: String| Finding::warn(Code::IrqOnVcpu, "berth plan", seen);
    let mut found = Vec::new();
    let steered: IdSet = plan.pci.functions.iter().flat_map(|f| f.interrupt_cpus.clone()).collect();
    if plan.pci.functions.is_empty() {
        return found;
    }
    let on_vcpus = steered.intersection(vcpus);
    if !on_vcpus.is_empty() {
        let seen =
            format!("interrupts of the devices are to go to CPUs {on_vcpus}, which are vCPUs'");
        found.push(warn(seen).step("set placement.interrupt_cpus to \"auto\""));
    }
    if steered.is_empty() {
        let off = config.placement.interrupt_cpus == InterruptCpus::Off;
        let seen = "interrupts of the devices may land on the vCPUs' CPUs".to_owned();
        found.push(warn(seen).step(if off {
            "set placement.interrupt_cpus to \"auto\""
        } else {
            "lower vcpus, so that a CPU is left for them"
        }));
        return found;
    }
    if !host.process.has(Capability::DacOverride) {
        let seen =
            "interrupts of the devices may land on the vCPUs' CPUs: only root may steer them";
        found.push(warn(seen.to_owned()).step(
            "run berth as root, or keep all new ones away in /proc/irq/default_smp_affinity",
        ));
    } else if host.irqbalance.is_yes() && !vcpus.difference(&host.cpus.isolated).is_empty() {
        let seen = "irqbalance runs and moves the devices' interrupts, until berth puts them back";
        let source = "/sys/fs/cgroup/system.slice, /run/irqbalance";
        found.push(
            Finding::warn(Code::Irqbalance, source, seen)
                .steps(system::irqbalance(&host.system, vcpus)),
        );
    }
    found
}

/// Cards that their slot holds back. All functions of a card have its link.
fn links(assigned: &[Assigned]) -> Vec<Finding> {
    let mut cards = BTreeSet::new();
    let slow = |device: &Assigned| {
        let link = device.function.link.filter(|_| !device.function.is_virtual)?;
        let at = device.address;
        let is_new = cards.insert(at.slot());
        let advice = is_new.then(|| crate::advice::link(at, &link)).flatten()?;
        Some(Finding::warned(Code::LinkReduced, advice).of(at))
    };
    assigned.iter().filter_map(slow).collect()
}
