//! How fast CPUs run and how deep they sleep: cpufreq's policies and cpuidle's states
//! (kernel, `Documentation/admin-guide/pm/`: `cpufreq.rst`, `cpuidle.rst`).

use serde::Serialize;

use super::cpus::CPU;
use super::id_set::IdSet;
use super::root::Root;

/// What the kernel does to save power on CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuPower {
    /// In the order of their numbers; none where the kernel scales no frequencies.
    pub policies: Vec<FrequencyPolicy>,
    /// The driver of idle states, `none` where there is none; `None` when it is not to be seen.
    pub idle_driver: Option<String>,
    /// States that some CPU may enter, and from which it is slow to wake, lightest first.
    pub deep_states: Vec<IdleState>,
}

/// CPUs whose frequency is scaled together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FrequencyPolicy {
    /// Those CPUs.
    pub cpus: IdSet,
    /// Such as `acpi-cpufreq`, `intel_pstate`, `amd-pstate-epp`.
    pub driver: String,
    /// Such as `performance`.
    pub governor: String,
    /// What CPUs that choose their frequency themselves are told to prefer.
    pub preference: Option<String>,
}

/// A state that idle CPUs enter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdleState {
    /// Such as `C6`.
    pub name: String,
    /// Microseconds until a CPU in it runs again, at worst.
    pub latency: u32,
    /// CPUs on which nothing keeps it from being entered.
    pub cpus: IdSet,
}

/// Microseconds from which a state is deep. An interrupt reaches a running guest within some ten;
/// C1 and C1E of all x86 CPUs wake faster, package states slower (kernel, `drivers/idle/intel_idle.c`).
pub const DEEP: u32 = 100;

impl CpuPower {
    pub(super) fn read(root: &Root, online: &IdSet) -> Self {
        Self {
            policies: policies(root, online),
            idle_driver: root.glance(format!("{CPU}/cpuidle/current_driver")),
            deep_states: deep_states(root, online),
        }
    }

    /// The policy of `cpu`.
    pub fn policy(&self, cpu: u32) -> Option<&FrequencyPolicy> {
        self.policies.iter().find(|policy| policy.cpus.contains(cpu))
    }
}

fn policies(root: &Root, online: &IdSet) -> Vec<FrequencyPolicy> {
    let mut policies = Vec::new();
    let mut known = IdSet::default();
    for cpu in online.iter() {
        let text = |name: &str| root.glance(format!("{CPU}/cpu{cpu}/cpufreq/{name}"));
        if known.contains(cpu) {
            continue;
        }
        let Some(governor) = text("scaling_governor") else {
            continue;
        };
        // Separated by spaces, unlike all other lists.
        let cpus = text("affected_cpus").unwrap_or_default();
        let cpus: IdSet = cpus.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        let cpus = cpus.intersection(online).union(&IdSet::from_iter([cpu]));
        known = known.union(&cpus);
        policies.push(FrequencyPolicy {
            cpus,
            governor,
            driver: text("scaling_driver").unwrap_or_default(),
            preference: text("energy_performance_preference"),
        });
    }
    policies
}

fn deep_states(root: &Root, online: &IdSet) -> Vec<IdleState> {
    let of_all = limit_of_all(root);
    let mut states: Vec<IdleState> = Vec::new();
    for cpu in online.iter() {
        let folder = format!("{CPU}/cpu{cpu}");
        let names = root.names(format!("{folder}/cpuidle")).unwrap_or_default();
        if names.is_empty() {
            continue;
        }
        let limit = limit_of_one(root, &folder).min(of_all);
        for name in names {
            let text = |file: &str| root.glance(format!("{folder}/cpuidle/{name}/{file}"));
            let latency: u32 = text("latency").and_then(|us| us.parse().ok()).unwrap_or(0);
            let disabled = || text("disable").is_some_and(|value| value != "0");
            if latency < DEEP || latency > limit || disabled() {
                continue;
            }
            let name = text("name").unwrap_or(name);
            let found = states.iter_mut().find(|s| s.name == name && s.latency == latency);
            match found {
                Some(state) => state.cpus = state.cpus.union(&IdSet::from_iter([cpu])),
                None => states.push(IdleState { name, latency, cpus: IdSet::from_iter([cpu]) }),
            }
        }
    }
    states.sort_by_key(|state| state.latency);
    states
}

/// Microseconds that processes hold all CPUs to. The file holds a number of 32 bits; without a
/// request it is 2000 seconds (kernel, `include/linux/pm_qos.h`). Only root may read it.
fn limit_of_all(root: &Root) -> u32 {
    let bytes = root.head("/dev/cpu_dma_latency", 4).ok().flatten();
    let number = bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    number.unwrap_or(u32::MAX)
}

/// Microseconds that one CPU is held to: 0 is any number of them, `n/a` none.
fn limit_of_one(root: &Root, folder: &str) -> u32 {
    match root.glance(format!("{folder}/power/pm_qos_resume_latency_us")).as_deref() {
        Some("n/a") => 0,
        Some(limit) => limit.parse().ok().filter(|limit| *limit != 0).unwrap_or(u32::MAX),
        None => u32::MAX,
    }
}
