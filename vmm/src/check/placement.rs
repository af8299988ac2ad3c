//! The vCPUs' CPUs, against what else the host does with them.

use super::{Case, Code, Finding};
use crate::advice;
use crate::host::IdSet;

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let mut findings = vec![allowed(case)];
    if let Some(plan) = case.plan() {
        let vcpus: IdSet = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
        findings.extend(near(case));
        findings.push(siblings(case, &vcpus));
        findings.extend(case.shortfalls(
            Code::CpuNotIsolated,
            "/sys/devices/system/cpu/isolated",
            format!("the vCPUs' cores are isolated: CPUs {vcpus}"),
        ));
        let plans_own = [
            Code::CpuSharedByMachines,
            Code::CpuPackagesSeveral,
            Code::CpuOfHost,
            Code::CpuOfVmm,
            Code::SmtHidden,
        ];
        let others = plan.shortfalls.iter().filter(|finding| plans_own.contains(&finding.code));
        findings.extend(others.cloned());
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

/// Devices, memory and vCPUs on one node, or on the machine's nodes.
fn near(case: &Case) -> Vec<Finding> {
    let Some(plan) = case.plan() else { return Vec::new() };
    let homes: IdSet = plan.memory.pages.iter().filter_map(|pages| pages.node).collect();
    let devices = case.endpoints().filter(|(_, listed)| listed.function.node.is_some());
    if homes.is_empty() || devices.count() == 0 {
        return Vec::new();
    }
    let nodes = if homes.len() == 1 { "node" } else { "nodes" };
    let good = format!("vCPUs, memory and devices are on {nodes} {homes}");
    case.shortfalls(Code::CpuFar, "/sys/bus/pci/devices/*/numa_node", good)
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
        let seen = "no other thread of the vCPUs' cores runs anything else";
        return Finding::pass(code, SOURCE, seen);
    }
    Finding::warn(code, SOURCE, format!("the host runs on CPUs {shared}, siblings of vCPUs'"))
        .steps(advice::placement::idle_siblings(&shared))
}
