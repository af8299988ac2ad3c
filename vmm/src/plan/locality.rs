//! What the CPUs of a machine have in common: L3 caches, packages, kinds of cores.

use std::fmt;

use serde::Serialize;

use super::VcpuPlan;
use crate::advice::{Code, Finding};
use crate::config::Config;
use crate::host::{HostProfile, IdSet};

/// What the vCPUs' CPUs have in common, as far as the host tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Locality {
    /// L3 caches that they share, each by all CPUs that share it; none when the host does not say.
    pub l3_caches: Vec<IdSet>,
    /// Packages that they are in; none when the host does not say.
    pub packages: IdSet,
    /// Kinds of cores that they are on, fastest first; one when all of the host's are alike, none
    /// when nothing tells.
    pub core_kinds: Vec<KindShare>,
    /// How many kinds the host has.
    #[serde(skip)]
    kinds_of_host: usize,
    /// Nodes that they are on. A machine that is split over nodes is in their packages on purpose.
    #[serde(skip)]
    nodes: usize,
}

/// The vCPUs' CPUs on cores of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindShare {
    /// What such cores are called, in the plural.
    pub name: String,
    /// Those CPUs.
    pub cpus: IdSet,
}

impl Locality {
    pub(super) fn of(host: &HostProfile, vcpus: &[VcpuPlan]) -> Self {
        let cpus: IdSet = vcpus.iter().map(|vcpu| vcpu.cpu).collect();
        let has_some = |set: &IdSet| !set.intersection(&cpus).is_empty();
        let packages = host.cpus.packages.iter().filter(|(_, set)| has_some(set));
        let kinds = host.cpus.core_kinds.iter().filter(|kind| has_some(&kind.cpus));
        let share = |kind: &crate::host::CoreKind| KindShare {
            name: kind.name.clone(),
            cpus: kind.cpus.intersection(&cpus),
        };
        Self {
            l3_caches: host.cpus.l3_caches.iter().filter(|set| has_some(set)).cloned().collect(),
            packages: packages.map(|(number, _)| *number).collect(),
            core_kinds: kinds.map(share).collect(),
            kinds_of_host: host.cpus.core_kinds.len(),
            nodes: vcpus.iter().filter_map(|vcpu| vcpu.node).collect::<IdSet>().len().max(1),
        }
    }

    /// Kinds of cores, where they are not all of one.
    pub fn mix(&self) -> Option<String> {
        let share = |kind: &KindShare| format!("CPUs {} are {}", kind.cpus, kind.name);
        let shares: Vec<String> = self.core_kinds.iter().map(share).collect();
        (shares.len() > 1).then(|| shares.join(", "))
    }

    /// What could be nearer.
    pub(super) fn shortfalls(&self, config: &Config) -> Vec<Finding> {
        const KINDS: &str = "/sys/devices/cpu_{core,atom}/cpus, \
                             /sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq";
        const PACKAGES: &str = "/sys/devices/system/cpu/cpu*/topology/physical_package_id";
        let step = match config.placement.cpus.named() {
            Some(_) => "set placement.cpus to \"auto\"",
            None => "lower vcpus, or free CPUs that other machines or partitions have",
        };
        let mut found = Vec::new();
        if let Some(mix) = self.mix() {
            let seen = format!("{mix}: the guest takes them to be alike");
            let step = match config.placement.cpus.named() {
                Some(_) => "set placement.cpus to \"auto\", or name CPUs of one kind",
                None => step,
            };
            found.push(Finding::warn(Code::CpuKindsMixed, KINDS, seen).step(step));
        }
        if self.packages.len() > self.nodes {
            let seen = format!("the vCPUs are in packages {}", self.packages);
            found.push(Finding::warn(Code::CpuPackagesSeveral, PACKAGES, seen).step(step));
        }
        found
    }
}

/// As the rest of a line.
impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.l3_caches.as_slice() {
            [] => write!(f, "L3 caches unknown")?,
            [one] => write!(f, "one L3 cache, that of CPUs {one}")?,
            several => write!(f, "{} L3 caches", several.len())?,
        }
        match self.packages.len() {
            0 => write!(f, "; packages unknown")?,
            1 => write!(f, "; package {}", self.packages)?,
            _ => write!(f, "; packages {}", self.packages)?,
        }
        match self.core_kinds.as_slice() {
            [one] if self.kinds_of_host > 1 => write!(f, "; {}", one.name)?,
            [] | [_] => {}
            _ => write!(f, "; cores of several kinds: {}", self.mix().unwrap_or_default())?,
        }
        Ok(())
    }
}
