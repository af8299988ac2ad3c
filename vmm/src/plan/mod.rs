//! Every decision about a machine, made before any of it exists.
//!
//! `Plan::new` is pure: what the user wishes and what the host has go in, a complete plan or the
//! reason there is none comes out. `Machine::build` only executes it, `berth plan` prints it, and
//! tests try any host on it.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use berth_devices::pci::Bdf;
use serde::Serialize;

/// Everything that is decided about one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The machine's name; threads carry it.
    pub name: String,
    /// What the guest boots.
    pub boot: BootPlan,
    /// Where guest memory comes from and where the guest sees it.
    pub memory: MemoryPlan,
    /// One entry per vCPU, by index.
    pub vcpus: Vec<VcpuPlan>,
    /// Host CPUs for berth's own threads.
    pub vmm_cpus: Vec<u32>,
    /// The guest's PCI hierarchy.
    pub pci: PciPlan,
    /// Where the guest's serial console goes.
    pub console: ConsolePlan,
    /// How long the guest has between the power button and the end.
    pub shutdown_timeout: Duration,
    /// What the process needs from its limits.
    pub limits: Limits,
}

/// What the guest boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BootPlan {
    /// bzImage or ELF vmlinux.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
}

/// Size of the pages that back guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PageSize {
    /// Base pages, 4 KiB.
    #[serde(rename = "4K")]
    Size4K,
    /// hugetlb pages of 2 MiB.
    #[serde(rename = "2M")]
    Size2M,
    /// hugetlb pages of 1 GiB.
    #[serde(rename = "1G")]
    Size1G,
}

/// Where guest memory comes from and where the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Bytes of guest RAM, a multiple of the page size.
    pub size: u64,
    /// Pages that back it.
    pub page_size: PageSize,
    /// Host NUMA node it is bound to; `None` leaves it to the kernel's policy.
    pub node: Option<u32>,
    /// Guest RAM in address order; the parts are consecutive in the memfd.
    pub regions: Vec<RamRegion>,
}

/// One stretch of guest RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RamRegion {
    /// Guest physical addresses.
    pub guest: Range<u64>,
    /// Where it starts in the memfd, in bytes.
    pub file_offset: u64,
}

/// One vCPU and the host CPU that it is pinned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VcpuPlan {
    /// Index and APIC ID.
    pub index: u8,
    /// Host CPU.
    pub cpu: u32,
}

/// The guest's PCI hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PciPlan {
    /// Window for 32-bit BARs.
    pub window32: Range<u64>,
    /// Window for 64-bit BARs.
    pub window64: Range<u64>,
    /// Assigned functions, in the order of the config.
    pub functions: Vec<FunctionPlan>,
}

/// One assigned function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionPlan {
    /// Address on the host.
    pub host: Bdf,
    /// Address in the guest.
    pub guest: Bdf,
    /// IOMMU group on the host.
    pub group: u32,
    /// NUMA node on the host, where the host knows it.
    pub node: Option<u32>,
    /// BARs with the addresses that the guest's kernel finds in them.
    pub bars: Vec<BarPlan>,
    /// Vectors in the MSI-X table; 0 when the function has none.
    pub msix_vectors: u16,
}

/// Kind of a base address register (PCI Local Bus 3.0, section 6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// 32-bit memory.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// 64-bit memory; takes this register and the next.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

/// One BAR and the guest address it starts at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BarPlan {
    /// Register, 0..=5.
    pub index: u8,
    /// Kind of the register.
    pub kind: BarKind,
    /// Bytes, a power of two.
    pub size: u64,
    /// Guest physical address or I/O port, naturally aligned.
    pub address: u64,
}

/// Where the guest's serial console goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsolePlan {
    /// berth's own standard input and output.
    Stdio,
    /// A file, truncated at start.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// What the process needs from its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Bytes that count against RLIMIT_MEMLOCK for a process without CAP_IPC_LOCK.
    pub memlock: u64,
    /// Open files.
    pub open_files: u64,
}
