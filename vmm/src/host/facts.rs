//! Everything that decides whether a host is ready, beyond what a plan needs.

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::HostBdf;
use serde::Serialize;

use super::{
    Attach, CpuPower, Functions, HostError, HostProfile, IOMMU_GROUPS, Identity, Modules,
    PCI_DRIVERS, Persisted, Query, Root, Settings, Taking, persisted, query::Candidates,
};

/// What `berth check` judges.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// What a plan needs, with every function of the host.
    pub host: HostProfile,
    /// What the kernel does to save power on CPUs.
    pub cpu_power: CpuPower,
    /// Kernel modules.
    pub modules: Modules,
    /// The kernel's settings.
    pub settings: Settings,
    /// Functions that go to vfio-pci at boot, each with the card that is at its address now.
    pub persisted: Vec<(Persisted, Option<Identity>)>,
    /// Devices that were asked about by name.
    pub devices: Vec<HostBdf>,
    /// What VFIO said when groups were put into an IOMMU domain, as a start does.
    pub attached: BTreeMap<u32, Attach>,
    /// Whether this is the host that berth runs on.
    pub live: bool,
    /// What a snapshot lacks of what berth reads.
    pub lacks: Vec<&'static str>,
    /// Whether its files of procfs are there and empty, as tar makes them.
    pub has_empty_proc: bool,
}

/// What plans are made from, and every host that berth runs on has. A snapshot may not.
const FOR_PLAN: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/interrupts",
    "/proc/self/limits",
    "/proc/self/status",
    "/sys/bus/pci/devices",
    PCI_DRIVERS,
    "/sys/devices/system/cpu/online",
    "/sys/firmware/acpi/tables",
    IOMMU_GROUPS,
    "/sys/kernel/mm/hugepages",
];

/// What only the checks look at.
const FOR_CHECK: [&str; 5] = [
    "/proc/cmdline",
    "/proc/irq/default_smp_affinity",
    "/proc/self/mountinfo",
    "/proc/sys/kernel/osrelease",
    "/etc/os-release",
];

impl Facts {
    /// Reads what concerns `query`, and `devices` besides.
    ///
    /// # Errors
    /// A file of sysfs or procfs cannot be read or holds something else than the kernel writes.
    pub fn read(root: &Root, query: &Query, devices: &[HostBdf]) -> Result<Self, HostError> {
        let mut query = query.clone();
        for &device in devices {
            query.add(device, Taking::No);
        }
        let candidates = Candidates::find(root, &query);
        let all: Vec<HostBdf> = candidates.functions.keys().copied().collect();
        let functions = Functions::survey(root, &candidates)?;
        let mut host = HostProfile::read_for(root, &query, candidates, functions)?;
        host.look_around(root);
        let listed = || all.iter().filter_map(|device| host.functions.get(*device));
        let modaliases: BTreeSet<&str> = listed().map(|listed| listed.modalias.as_str()).collect();
        let interrupts = listed().flat_map(|listed| listed.interrupts.iter().copied());
        let groups = host.functions.groups.keys().copied();
        Ok(Self {
            modules: Modules::read(root, &host.system.release, &modaliases),
            settings: Settings::read(root, interrupts, groups),
            persisted: persisted::read(root)
                .into_iter()
                .map(|one| {
                    let now = Identity::read(root, one.address);
                    (one, now)
                })
                .collect(),
            cpu_power: CpuPower::read(root, &host.cpus.online),
            lacks: root.lacks(),
            has_empty_proc: root.has_empty_proc(),
            attached: Attach::try_groups(root, &host, &all),
            live: root.is_live(),
            devices: devices.to_vec(),
            host,
        })
    }
}

impl Facts {
    /// Whether a snapshot has the drivers of functions.
    pub fn has_drivers(&self) -> bool {
        !self.lacks.contains(&PCI_DRIVERS)
    }

    /// Whether a snapshot has IOMMU groups.
    pub fn has_groups(&self) -> bool {
        !self.lacks.contains(&IOMMU_GROUPS)
    }
}

impl Root {
    /// What a snapshot lacks of what every host has; nothing of this host itself.
    pub fn lacks(&self) -> Vec<&'static str> {
        self.lacking(FOR_PLAN.into_iter().chain(FOR_CHECK))
    }

    /// What a snapshot lacks of what plans are made from.
    pub fn lacks_for_plan(&self) -> Vec<&'static str> {
        self.lacking(FOR_PLAN.into_iter())
    }

    fn lacking(&self, expected: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
        if self.is_live() {
            return Vec::new();
        }
        let is_there = |path: &&str| {
            self.exists(path) && (!path.starts_with("/proc") || self.glance(path).is_some())
        };
        expected.filter(|path| !is_there(path)).collect()
    }

    /// Whether files of procfs were captured without what is in them.
    fn has_empty_proc(&self) -> bool {
        let expected = FOR_PLAN.into_iter().chain(FOR_CHECK);
        let of_proc = expected.filter(|path| path.starts_with("/proc"));
        !self.is_live()
            && of_proc.filter(|path| self.exists(path) && self.glance(path).is_none()).count() > 1
    }

    /// Looks whether all of that is there, so that a snapshot has it even where nothing is in it.
    pub(super) fn touch_expected(&self) {
        for path in FOR_PLAN.into_iter().chain(FOR_CHECK) {
            self.exists(path);
        }
    }
}
