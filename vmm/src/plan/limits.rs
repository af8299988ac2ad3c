//! What the process needs from its resource limits.

use berth_devices::pci::BarKind;

use super::{Limits, MemoryPlan, Note, PciPlan, PlanError};
use crate::advice::limits::{SizeLimit, cgroup_limit, cgroup_needs};
use crate::config::Config;
use crate::host::{Capability, HostProfile};
use crate::units::PageSize;

/// A vector's eventfd, twice more while a route of it is replaced.
const FILES_PER_VECTOR: u64 = 3;

/// Group and device, each twice, and eventfds for INTx and its unmasking, for errors and for
/// device requests, with a spare.
const FILES_PER_FUNCTION: u64 = 9;

/// A hot-plug slot's interrupt, and what tells that the guest has switched it off.
const FILES_PER_HOT_PLUG_SLOT: u64 = 2;

/// A vCPU's file and what wakes it.
const FILES_PER_VCPU: u64 = 2;

/// Standard streams, logs, KVM, the VM, the container, the memfd, epoll, timers, console and
/// control, the guest's files at boot, libraries' own.
const FILES_FIXED: u64 = 64;

/// Threads that fill memory while the guest runs: a few CPUs clear as much as memory takes.
pub const FILLERS: u64 = 4;

/// Control, console, and the two children that give devices back and steer interrupts.
const THREADS_FIXED: u64 = 4 + FILLERS;

/// Threads that a machine has at most.
pub fn threads(vcpus: u64) -> u64 {
    THREADS_FIXED + vcpus
}

pub(super) fn plan(
    config: &Config,
    host: &HostProfile,
    memory: &MemoryPlan,
    pci: &PciPlan,
    notes: &mut Vec<Note>,
) -> Result<Limits, PlanError> {
    let vectors: u64 = pci.functions.iter().map(|f| u64::from(f.msix_vectors)).sum();
    let ports = pci.roots.iter().flat_map(|root| &root.ports);
    let hot_plug_slots = ports.filter(|port| port.hot_plug).count() as u64;
    let bars = pci.functions.iter().flat_map(|function| &function.bars);
    let bars = bars.filter(|bar| bar.kind != BarKind::Io).map(|bar| bar.size).sum();
    let limits = Limits {
        // VFIO pins all RAM and counts every page of it, hugetlb or not, against the limit that
        // mlock(2) has; BARs are reserved pages, which it does not count
        // (`vfio_pin_pages_remote` in drivers/vfio/vfio_iommu_type1.c).
        memlock: if memory.locked || !pci.functions.is_empty() { memory.size } else { 0 },
        open_files: FILES_FIXED
            + FILES_PER_VCPU * u64::from(config.vcpus.get())
            + FILES_PER_FUNCTION * pci.functions.len() as u64
            + FILES_PER_HOT_PLUG_SLOT * hot_plug_slots
            + FILES_PER_VECTOR * vectors,
        // The memfd of huge pages.
        file_size: if memory.page_size == PageSize::Size4K { 0 } else { memory.size },
        address_space: memory.size + bars,
        bars,
    };
    let threads = threads(config.vcpus.get().into());
    for (resource, need) in cgroup_needs(memory.page_size, memory.size, threads) {
        if let Some(limit) = cgroup_limit(host, resource).filter(|limit| limit.room < need) {
            return Err(PlanError::CgroupLimit { resource, need, limit: limit.clone() });
        }
    }
    let process = &host.process;
    let short = |need: u64, limit: Option<u64>| limit.filter(|limit| *limit < need);
    if !process.has(Capability::IpcLock)
        && let Some(limit) = short(limits.memlock, process.memlock)
    {
        return Err(PlanError::MemlockLimit { need: limits.memlock, limit });
    }
    if let Some(limit) = short(limits.open_files, process.open_files) {
        return Err(PlanError::OpenFilesLimit { need: limits.open_files, limit });
    }
    for (resource, need, limit) in [
        (SizeLimit::File, limits.file_size, process.file_size),
        (SizeLimit::AddressSpace, limits.address_space, process.address_space),
    ] {
        if let Some(limit) = short(need, limit) {
            return Err(PlanError::SizeLimit { resource, need, limit });
        }
    }
    if let Some(seconds) = process.cpu_time {
        notes.push(Note::CpuTimeLimited { seconds });
    }
    Ok(limits)
}
