//! What slows the vCPUs' CPUs down: frequencies kept low, deep sleep, cores of several kinds.

use super::{Case, Code, Finding};
use crate::advice::parameters;
use crate::host::{FrequencyPolicy, IdSet};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let Some(plan) = case.plan() else {
        return Vec::new();
    };
    let vcpus: IdSet = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    vec![frequency(case, &vcpus), idle(case, &vcpus), kinds(case, &vcpus)]
}

/// Why a policy keeps CPUs slow.
///
/// Most drivers take `powersave` for the lowest frequency there is (kernel,
/// `admin-guide/pm/cpufreq.rst`). With `intel_pstate` and `amd-pstate-epp`, which leave the choice to
/// the CPU, it is the usual setting and scales with the load; what counts is the preference then
/// (kernel, `admin-guide/pm/intel_pstate.rst`, `amd-pstate.rst`, "Active Mode").
fn slowness(policy: &FrequencyPolicy) -> Option<String> {
    let FrequencyPolicy { driver, governor, .. } = policy;
    let cpu_chooses = matches!(driver.as_str(), "intel_pstate" | "amd-pstate-epp");
    let saves = |preference: &&String| matches!(preference.as_str(), "power" | "balance_power");
    match policy.preference.as_ref().filter(saves) {
        Some(preference) if cpu_chooses && governor != "performance" => {
            Some(format!("{driver} prefers `{preference}`"))
        }
        _ if governor == "powersave" && !cpu_chooses => {
            Some(format!("governor powersave of {driver} keeps the lowest frequency"))
        }
        _ => None,
    }
}

fn frequency(case: &Case, vcpus: &IdSet) -> Finding {
    const SOURCE: &str = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor";
    let code = Code::CpuGovernor;
    let power = &case.facts.cpu_power;
    let unseen: IdSet = vcpus.iter().filter(|&cpu| power.policy(cpu).is_none()).collect();
    if !unseen.is_empty() {
        let seen = format!("no frequency of CPUs {unseen} is scaled that the kernel tells of");
        return Finding::unknown(code, SOURCE, seen);
    }
    let mut slow = IdSet::default();
    let mut why = Vec::new();
    for policy in &power.policies {
        let cpus = policy.cpus.intersection(vcpus);
        if let Some(reason) = slowness(policy).filter(|_| !cpus.is_empty()) {
            slow = slow.union(&cpus);
            if !why.contains(&reason) {
                why.push(reason);
            }
        }
    }
    if slow.is_empty() {
        let mut governors: Vec<&str> =
            vcpus.iter().filter_map(|cpu| Some(power.policy(cpu)?.governor.as_str())).collect();
        governors.sort_unstable();
        governors.dedup();
        let seen = format!("the vCPUs' CPUs run as fast as asked for: {}", governors.join(", "));
        return Finding::pass(code, SOURCE, seen);
    }
    Finding::warn(code, SOURCE, format!("CPUs {slow}: {}", why.join("; ")))
        .step(format!("`cpupower -c {slow} frequency-set -g performance`"))
        .step("and again at each boot: tuned's profiles or cpupower.service do that")
}

fn idle(case: &Case, vcpus: &IdSet) -> Finding {
    const SOURCE: &str = "/sys/devices/system/cpu/cpu*/cpuidle/state*/latency";
    let code = Code::CpuIdleDeep;
    let power = &case.facts.cpu_power;
    let Some(driver) = &power.idle_driver else {
        return Finding::unknown(code, SOURCE, "the CPUs' idle states cannot be seen");
    };
    let mut sleepy = IdSet::default();
    let mut states = Vec::new();
    for state in &power.deep_states {
        let cpus = state.cpus.intersection(vcpus);
        if !cpus.is_empty() {
            sleepy = sleepy.union(&cpus);
            states.push(format!("{} ({} us)", state.name, state.latency));
        }
    }
    if sleepy.is_empty() {
        return Finding::pass(code, SOURCE, "the vCPUs' CPUs wake up within 100 us");
    }
    let parameter = match driver.as_str() {
        "intel_idle" => "intel_idle.max_cstate=1",
        _ => "processor.max_cstate=1",
    };
    let cpus: Vec<String> = sleepy.iter().map(|cpu| cpu.to_string()).collect();
    Finding::warn(
        code,
        SOURCE,
        format!("CPUs {sleepy} may go to {} while a vCPU waits", states.join(", ")),
    )
    .step(format!("`cpupower -c {sleepy} idle-set -D 100`"))
    .step(format!(
        "or `for cpu in {}; do echo 99 > \
         /sys/devices/system/cpu/cpu$cpu/power/pm_qos_resume_latency_us; done`",
        cpus.join(" ")
    ))
    .step("or for all CPUs, from boot on:")
    .steps(parameters::change(&case.facts.host, parameter, None))
}

fn kinds(case: &Case, vcpus: &IdSet) -> Finding {
    const SOURCE: &str =
        "/sys/devices/cpu_{core,atom}/cpus, /sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq";
    let code = Code::CpuKindsMixed;
    let kinds = &case.facts.host.cpus.core_kinds;
    let used: Vec<_> = kinds
        .iter()
        .map(|kind| (kind.cpus.intersection(vcpus), kind))
        .filter(|(cpus, _)| !cpus.is_empty())
        .collect();
    let host = |count: usize| format!("all {count} vCPUs are on cores that are alike");
    match (kinds.as_slice(), used.as_slice()) {
        ([], _) | (_, []) => {
            Finding::unknown(code, SOURCE, "whether all cores are of one kind cannot be seen")
        }
        ([_], _) => Finding::pass(code, SOURCE, host(vcpus.len())),
        (_, [(_, kind)]) => {
            Finding::pass(code, SOURCE, format!("the vCPUs are on {} only", kind.name))
        }
        // The plan says what of that could be otherwise.
        (_, several) => {
            let text = |(cpus, kind): &(IdSet, &crate::host::CoreKind)| {
                format!("CPUs {cpus} are {}", kind.name)
            };
            let seen: Vec<String> = several.iter().map(text).collect();
            let shortfalls = case.shortfalls(code, SOURCE, seen.join(", "));
            shortfalls.into_iter().next().expect("there is a plan, as there are vCPUs")
        }
    }
}
