//! The vCPUs' CPUs, against what else the host does with them.

use super::code::Code;
use super::remedy::kernel_parameters;
use super::{Case, Finding};
use crate::host::IdSet;

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let mut findings = vec![allowed(case)];
    if let Some(plan) = case.plan() {
        let vcpus: IdSet = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
        findings.extend(near(case));
        findings.push(siblings(case, &vcpus));
        findings.push(isolated(case, &vcpus));
    }
    findings
}

fn allowed(case: &Case) -> Finding {
    const SOURCE: &str = "/proc/self/status";
    let code = Code::CpuNotAllowed;
    let host = &case.facts.host;
    if case.facts.lacks.contains(&SOURCE) {
        return Finding::unknown(code, SOURCE, "what a process may use is not in the snapshot");
    }
    // The kernel leaves isolated CPUs out of every affinity that is not set on purpose.
    let denied = host.cpus.online.difference(&host.process.cpus).difference(&host.cpus.isolated);
    // A partition's CPUs are for the processes in it.
    let denied = denied.difference(&host.cpus.partitioned);
    if denied.is_empty() {
        return Finding::pass(code, SOURCE, format!("berth may use CPUs {}", host.process.cpus));
    }
    let seen = format!("berth may use CPUs {}, not {denied}", host.process.cpus);
    Finding::warn(code, SOURCE, seen).step(
        "widen berth's affinity (taskset) or cpuset.cpus of its cgroup, if it is to have them",
    )
}

/// Devices, memory and vCPUs on one node.
fn near(case: &Case) -> Option<Finding> {
    let code = Code::CpuFar;
    let plan = case.plan()?;
    let homes: IdSet = plan.memory.pages.iter().filter_map(|pages| pages.node).collect();
    let devices =
        case.endpoints().filter_map(|(device, listed)| Some((device, listed.function.node?)));
    let devices: Vec<_> = devices.collect();
    // Of a machine that is split over nodes, a device is near on any of them.
    if homes.len() > 1 && devices.iter().all(|(_, node)| homes.contains(*node)) {
        let source = "/sys/bus/pci/devices/*/numa_node";
        let seen = format!("vCPUs, memory and devices are on nodes {homes}");
        return Some(Finding::pass(code, source, seen));
    }
    let &(device, node) = devices.first()?;
    let source = format!("/sys/bus/pci/devices/{device}/numa_node");
    let far: IdSet = plan
        .vcpus
        .iter()
        .filter(|vcpu| vcpu.node.is_some_and(|other| other != node))
        .map(|vcpu| vcpu.cpu)
        .collect();
    let memory = plan.memory.node.filter(|other| *other != node);
    Some(if far.is_empty() && memory.is_none() {
        Finding::pass(code, source, format!("vCPUs, memory and {device} are on node {node}"))
    } else {
        let mut what = Vec::new();
        if !far.is_empty() {
            what.push(format!("CPUs {far}"));
        }
        what.extend(memory.map(|other| format!("the memory, on node {other}")));
        let seen = format!("{device} is on node {node}, and not so {}", what.join(" and "));
        Finding::warn(code, source, seen)
            .of(device)
            .step("leave placement to \"auto\", lower vcpus, or move the card to the other socket")
    })
}

fn siblings(case: &Case, vcpus: &IdSet) -> Finding {
    const SOURCE: &str = "/sys/devices/system/cpu/cpu*/topology/thread_siblings_list";
    let code = Code::CpuSmtShared;
    let cpus = &case.facts.host.cpus;
    let threads = vcpus.iter().filter_map(|cpu| cpus.siblings.get(&cpu));
    let threads: IdSet = threads.flat_map(|siblings| siblings.iter().collect::<Vec<_>>()).collect();
    let others = threads.difference(vcpus).intersection(&cpus.online);
    let shared = others.difference(&cpus.isolated);
    if shared.is_empty() {
        return Finding::pass(
            code,
            SOURCE,
            "no other thread of the vCPUs' cores runs anything else",
        );
    }
    let offline: Vec<String> = shared
        .iter()
        .map(|cpu| format!("`echo 0 > /sys/devices/system/cpu/cpu{cpu}/online`"))
        .take(4)
        .collect();
    let finding =
        Finding::warn(code, SOURCE, format!("the host runs on CPUs {shared}, siblings of vCPUs'"))
            .step("give them to the guest too: set placement.smt to \"siblings\"")
            .step("or leave them idle:")
            .steps(offline);
    if shared.len() > 4 { finding.step("and so on") } else { finding }
}

fn isolated(case: &Case, vcpus: &IdSet) -> Finding {
    const SOURCE: &str = "/sys/devices/system/cpu/isolated";
    let code = Code::CpuNotIsolated;
    let facts = case.facts;
    let cpus = &facts.host.cpus;
    let open = vcpus.difference(&cpus.isolated);
    if open.is_empty() {
        return Finding::pass(code, SOURCE, format!("the vCPUs' CPUs {vcpus} are isolated"));
    }
    let ours = cpus.isolated.difference(&cpus.partitioned);
    if !ours.is_empty() {
        let seen = format!("CPUs {ours} are isolated, and vCPUs are on {open}");
        return Finding::warn(code, SOURCE, seen)
            .step("set placement.cpus to \"isolated\"")
            .step(format!("or name isolated CPUs in placement.cpus: {ours}"));
    }
    let parameters =
        format!("isolcpus=managed_irq,domain,{vcpus} nohz_full={vcpus} rcu_nocbs={vcpus}");
    Finding::warn(code, SOURCE, format!("no CPU is isolated, and vCPUs are on {open}"))
        .step("for guests that must not be disturbed; berth's pins alone do for others:")
        .steps(kernel_parameters(&facts.system, &parameters, None))
}
