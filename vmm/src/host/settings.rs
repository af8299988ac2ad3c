//! Settings of the kernel that disturb a guest or decide where its interrupts land.

use std::collections::BTreeMap;

use serde::Serialize;

use super::IdSet;
use super::root::Root;
use super::system::chosen;
use crate::units::Seen;

/// Settings of the running kernel; `None` is what cannot be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Whether ksmd merges pages.
    pub ksm: Seen,
    /// Which shared memory gets huge pages unasked: `always`, `within_size`, `advise`, `never`, ...
    pub shmem_huge: Option<String>,
    /// Whether the kernel unmaps pages to learn who uses them.
    pub numa_balancing: Seen,
    /// Drivers of balloons that have a device: this host's own hypervisor takes its memory back.
    pub balloons: Vec<String>,
    /// Whether irqbalance runs.
    pub irqbalance: Seen,
    /// CPUs that irqbalance was told to leave alone.
    pub irqbalance_banned: Option<String>,
    /// CPUs that new interrupts go to.
    pub default_irq_cpus: Option<IdSet>,
    /// CPUs of the interrupts that were asked for, by number.
    pub irq_cpus: BTreeMap<u32, IdSet>,
    /// The name under which the firmware's frame buffer holds memory of a display (/proc/iomem).
    pub boot_framebuffer: Option<String>,
    /// How IOMMU groups are translated for the host itself, with the number of groups:
    /// `identity`, `DMA`, `DMA-FQ`.
    pub domains: BTreeMap<String, usize>,
}

impl Settings {
    /// `interrupts` and `groups` are those to look at.
    pub(super) fn read(
        root: &Root,
        interrupts: impl Iterator<Item = u32>,
        groups: impl Iterator<Item = u32>,
    ) -> Self {
        let cpus = |path: String| root.glance(path)?.parse().ok();
        let mut domains = BTreeMap::new();
        for group in groups {
            if let Some(kind) = root.glance(format!("/sys/kernel/iommu_groups/{group}/type")) {
                *domains.entry(kind).or_insert(0) += 1;
            }
        }
        Self {
            ksm: known(root, "/sys/kernel/mm/ksm/run", "/sys/kernel/mm", |value| value == "1"),
            shmem_huge: root
                .glance("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
                .and_then(|text| chosen(&text)),
            numa_balancing: known(
                root,
                "/proc/sys/kernel/numa_balancing",
                "/proc/sys/kernel",
                |value| value != "0",
            ),
            balloons: balloons(root),
            irqbalance: irqbalance(root),
            irqbalance_banned: banned(root),
            default_irq_cpus: root
                .glance("/proc/irq/default_smp_affinity")
                .and_then(|mask| IdSet::from_mask(&mask)),
            irq_cpus: interrupts
                .filter_map(|number| {
                    let folder = format!("/proc/irq/{number}");
                    let set = cpus(format!("{folder}/effective_affinity_list"))
                        .filter(|set: &IdSet| !set.is_empty())
                        .or_else(|| cpus(format!("{folder}/smp_affinity_list")))?;
                    Some((number, set))
                })
                .collect(),
            boot_framebuffer: boot_framebuffer(root),
            domains,
        }
    }
}

/// Whether the file at `path` says so. A kernel that lacks what it is about has no such file, and
/// `folder`; what was captured without that folder tells nothing.
fn known(root: &Root, path: &str, folder: &str, is_so: impl FnOnce(&str) -> bool) -> Seen {
    match root.glance(path) {
        Some(value) => is_so(&value).into(),
        None if !root.exists(path) && root.exists(folder) => Seen::No,
        None => Seen::Unknown,
    }
}

/// `BOOTFB` is the name that sysfb gives it, the others those of its drivers (kernel,
/// drivers/firmware/sysfb_simplefb.c, drivers/video/fbdev).
fn boot_framebuffer(root: &Root) -> Option<String> {
    const NAMES: [&str; 4] = ["BOOTFB", "efifb", "vesafb", "simplefb"];
    let text = root.glance("/proc/iomem")?;
    let mut names = text.lines().filter_map(|line| Some(line.split_once(" : ")?.1.trim()));
    names.find(|name| NAMES.contains(name)).map(str::to_owned)
}

fn balloons(root: &Root) -> Vec<String> {
    let has_device = |folder: &str| {
        let names = root.names(folder).unwrap_or_default();
        names.iter().any(|name| root.link(format!("{folder}/{name}")).is_some() && name != "module")
    };
    [
        ("virtio_balloon", "/sys/bus/virtio/drivers/virtio_balloon"),
        ("hv_balloon", "/sys/bus/vmbus/drivers/hv_balloon"),
    ]
    .into_iter()
    .filter(|(_, folder)| has_device(folder))
    .map(|(driver, _)| driver.to_owned())
    // VMware's has no device of its own.
    .chain(root.exists("/sys/module/vmw_balloon").then(|| "vmw_balloon".to_owned()))
    .collect()
}

/// By its folders rather than by looking through everybody's processes.
pub(super) fn irqbalance(root: &Root) -> Seen {
    const SERVICES: &str = "/sys/fs/cgroup/system.slice";
    if root.exists(format!("{SERVICES}/irqbalance.service")) || root.exists("/run/irqbalance") {
        return Seen::Yes;
    }
    if root.exists(SERVICES) { Seen::No } else { Seen::Unknown }
}

fn banned(root: &Root) -> Option<String> {
    let files = ["/etc/default/irqbalance", "/etc/sysconfig/irqbalance"];
    let text: String = files.iter().filter_map(|file| root.glance(file)).collect();
    let set = |line: &str| {
        let (key, value) = line.trim().split_once('=')?;
        let value = value.trim_matches(['"', '\'']);
        (key.starts_with("IRQBALANCE_BANNED_CPU") && !value.is_empty()).then(|| value.to_owned())
    };
    text.lines().find_map(set)
}
