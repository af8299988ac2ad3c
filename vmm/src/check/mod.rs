//! `berth check`: whether a host is ready, as a list of findings.
//!
//! Pure: facts go in, findings come out, so that every fault can be tried on a host made by hand
//! or captured. Each concept has a file of its own, with one function per fault. What the facts do
//! not tell is a finding of its own kind and never a guess. [`fix`] acts, and only when asked to.

mod binding;
mod cpu;
mod cpu_power;
mod device;
mod display;
pub mod fix;
mod fleet;
mod group;
mod host_interrupts;
mod iommu;
mod kernel;
mod limits;
mod memory;
mod placement;
mod vfio;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_devices::pci::HostBdf;
use serde::Serialize;

pub use crate::advice::{Code, Finding, Fix, Severity};
pub use fleet::{Fleet, Pages, Reason, Row, Share, snapshots_in};

use crate::config::{BindMode, Config, DeviceAddress, DeviceConfig};
use crate::host::{Cgroup, Facts, HostFunction, HostProfile, IommuGroup, KvmAnswer};
use crate::plan::{Plan, PlanError, choose};
use crate::units::PageSize;

/// What the checks look at.
pub(crate) struct Case<'a> {
    facts: &'a Facts,
    config: Option<&'a Config>,
    /// The devices in question, and how each comes to vfio-pci.
    devices: BTreeMap<HostBdf, BindMode>,
    plan: Option<Result<Plan, PlanError>>,
}

impl<'a> Case<'a> {
    fn new(facts: &'a Facts, config: Option<&'a Config>) -> Self {
        let plan = config.map(|config| {
            Plan::new(config, &facts.host)
                .or_else(|_| Plan::new(config, &ready(config, &facts.host)))
        });
        Self { facts, config, devices: in_question(facts, config), plan }
    }

    /// The machine's plan, as it would be if all was ready.
    fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()?.as_ref().ok()
    }

    /// The devices in question that are there.
    fn present(&self) -> impl Iterator<Item = (HostBdf, &'a HostFunction)> {
        let functions = &self.facts.host.functions.read;
        self.devices.keys().filter_map(|device| Some((*device, functions.get(device)?)))
    }

    /// Whether `berth run` takes it from its driver.
    fn is_bound_for_run(&self, device: HostBdf) -> bool {
        self.devices.get(&device) == Some(&BindMode::Auto)
    }

    /// The devices in question that could be passed through.
    fn endpoints(&self) -> impl Iterator<Item = (HostBdf, &'a HostFunction)> {
        self.present().filter(|(_, listed)| !listed.function.is_bridge())
    }

    /// The IOMMU groups of the devices in question.
    fn groups(&self) -> impl Iterator<Item = &'a IommuGroup> {
        let groups: BTreeSet<u32> =
            self.present().filter_map(|(_, found)| found.function.group).collect();
        groups.into_iter().filter_map(|group| self.facts.host.functions.groups.get(&group))
    }

    /// What the plan found of `code` that could be better, with a pass where it found nothing.
    fn shortfalls(&self, code: Code, source: &str, good: impl Into<String>) -> Vec<Finding> {
        let Some(plan) = self.plan() else { return Vec::new() };
        let of_code = plan.shortfalls.iter().filter(|finding| finding.code == code);
        let found: Vec<Finding> = of_code.cloned().collect();
        if found.is_empty() { vec![Finding::pass(code, source, good)] } else { found }
    }
}

/// Devices that were asked for, and the config's: those that a run would get, or where there is
/// none for it, those that the config names.
fn in_question(facts: &Facts, config: Option<&Config>) -> BTreeMap<HostBdf, BindMode> {
    let asked = facts.devices.iter().map(|device| (*device, BindMode::Manual));
    let named = |device: &DeviceConfig| match device.address {
        DeviceAddress::Is(address) => Some((address, device.bind)),
        DeviceAddress::FreeVf { .. } | DeviceAddress::Environment { .. } => None,
    };
    let of_config = config.map_or_else(Vec::new, |config| match choose(config, &facts.host) {
        Ok(chosen) => chosen.into_iter().map(|(address, device)| (address, device.bind)).collect(),
        Err(_) => config.devices.iter().filter_map(named).collect(),
    });
    asked.chain(of_config).collect()
}

/// The host as it would be with its devices bound, its files open and its pages reserved: what
/// findings of their own tell would otherwise hide where vCPUs and memory go.
fn ready(config: &Config, host: &HostProfile) -> HostProfile {
    use crate::host::Access::Unknown;

    let mut host = host.clone();
    (host.kvm, host.vfio, host.iommufd) = (Unknown, Unknown, Unknown);
    host.kvm_answer = KvmAnswer::Unknown;
    host.group_files.clear();
    host.device_files.clear();
    host.iommu.interrupt_remapping = None;
    (host.process.memlock, host.process.open_files) = (None, None);
    for function in host.functions.read.values_mut().map(|found| &mut found.function) {
        if !function.is_bridge() {
            function.driver = Some("vfio-pci".to_owned());
            function.group = function.group.or(Some(u32::MAX));
        }
    }
    host.cgroup = Cgroup::default();
    host.assume_memory(true);
    for function in host.functions.read.values_mut() {
        function.function.unfit.clear();
    }
    let size = config.memory.page_size;
    if size != PageSize::Size4K {
        let pages = config.memory.size_mib.bytes() / size.bytes();
        host.memory.reserved.insert(size, 0);
        for node in host.memory.nodes.values_mut().filter(|node| node.total > 0) {
            let pool = node.pools.entry(size).or_default();
            pool.free = pool.free.max(pages);
        }
    }
    host
}

/// Every check, in the order in which a person would make them.
const CHECKS: [fn(&Case) -> Vec<Finding>; 16] = [
    |case| vec![cpu::snapshot(case), cpu::architecture(case)],
    cpu::check,
    kernel::check,
    iommu::check,
    host_interrupts::check_remapping,
    vfio::check,
    device::check,
    binding::check,
    group::check,
    memory::check,
    limits::check,
    placement::check,
    cpu_power::check,
    host_interrupts::landing,
    memory::host,
    plan,
];

/// What findings come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing failed, and what decides was seen.
    Ready,
    /// Something failed.
    NotReady,
    /// Nothing failed that was seen, and not all was seen that decides.
    NotSeenEnough,
}

impl Verdict {
    /// Faults that keep a machine from running. Device files are left out: no snapshot has them,
    /// and on the host itself they are opened.
    const DECIDES: [Code; 14] = [
        Code::SnapshotIncomplete,
        Code::HostForeign,
        Code::CpuNoVirt,
        Code::KernelOld,
        Code::IommuAbsent,
        Code::IommuOff,
        Code::IntremapOff,
        Code::VfioNoModule,
        Code::DeviceNoIommu,
        Code::DeviceNotBound,
        Code::GroupNotViable,
        Code::HugepagesShort,
        Code::MemlockLow,
        Code::FilesLow,
    ];

    fn of(findings: &[Finding]) -> Self {
        match Self::decisive(findings) {
            Some(finding) if finding.severity == Severity::Fail => Self::NotReady,
            Some(_) => Self::NotSeenEnough,
            None => Self::Ready,
        }
    }

    /// The first finding that keeps a host from being ready: one that failed, else one that was
    /// not seen and decides.
    fn decisive(findings: &[Finding]) -> Option<&Finding> {
        let is_unseen = |finding: &&Finding| {
            finding.severity == Severity::Unknown && Self::DECIDES.contains(&finding.code)
        };
        let failed = findings.iter().find(|finding| finding.severity == Severity::Fail);
        failed.or_else(|| findings.iter().find(is_unseen))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::NotReady => "not ready",
            Self::NotSeenEnough => "not seen enough",
        })
    }
}

/// What `berth check` found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether a machine can run.
    pub verdict: Verdict,
    /// The same in a word: nothing failed, and enough was seen.
    pub ready: bool,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
    /// What a snapshot lacks of what berth reads.
    pub lacks: Vec<&'static str>,
}

impl Report {
    /// Judges `facts`, for the machine of `config` if there is one.
    pub fn new(facts: &Facts, config: Option<&Config>) -> Self {
        Self::of(&Case::new(facts, config))
    }

    fn of(case: &Case) -> Self {
        let findings: Vec<Finding> = if case.facts.host.foreign().is_some() {
            // What a host of another kind lacks says nothing.
            vec![cpu::architecture(case)]
        } else {
            CHECKS.iter().flat_map(|check| check(case)).collect()
        };
        let verdict = Verdict::of(&findings);
        let ready = verdict == Verdict::Ready;
        Self { verdict, ready, findings, lacks: case.facts.lacks.clone() }
    }

    /// What decided the verdict, where that is not "ready".
    fn decisive(&self) -> Option<&Finding> {
        Verdict::decisive(&self.findings)
    }

    /// What berth can do about the findings, in an order that works.
    pub fn fixes(&self) -> Vec<Fix> {
        let mut fixes: Vec<Fix> = Vec::new();
        for fix in self.findings.iter().filter_map(|finding| finding.fix.clone()) {
            if !fixes.contains(&fix) {
                fixes.push(fix);
            }
        }
        fixes.sort_by_key(Fix::order);
        fixes
    }
}

/// What the plan refuses although everything else is ready.
fn plan(case: &Case) -> Vec<Finding> {
    let finding = match &case.plan {
        None => return Vec::new(),
        // A finding of their own tells more of these.
        Some(Err(
            PlanError::NoSuchDevice { .. }
            | PlanError::Bridge { .. }
            | PlanError::NoVirtualization
            | PlanError::Kvm { .. }
            | PlanError::KvmRefuses { .. },
        )) => return Vec::new(),
        Some(Ok(_)) => Finding::pass(Code::PlanRefused, "berth plan", "the machine fits this host"),
        Some(Err(error)) => Finding::fail(Code::PlanRefused, "berth plan", error.to_string())
            .steps(error.help(&case.facts.host)),
    };
    vec![finding]
}

#[cfg(test)]
mod tests;
