//! Every decision about a machine, made before any of it exists.
//!
//! `Plan::new` is pure: what the user wishes and what the host has go in, a complete plan or the
//! reason there is none comes out. `Machine::build` only executes it, `berth plan` prints it, and
//! tests try any host on it.

mod boot;
mod device_choice;
mod devices;
mod display;
mod error;
mod interrupts;
mod iommu;
mod limits;
mod locality;
mod memory;
mod note;
mod numa;
mod pci;
mod peer_to_peer;
mod placement;
mod query;
mod resets;
mod sandbox;
mod share;
mod shortfalls;
mod text;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use berth_arch::topology::CpuPlace;
use serde::{Serialize, Serializer};

pub use device_choice::choose;
pub use error::{PlanError, Refusal};
pub use iommu::IommuPlan;
pub use limits::{FILLERS, threads};
pub use locality::{KindShare, Locality};
pub use note::Note;
pub use numa::NumaPlan;
pub use pci::{BarPlan, FunctionPlan, PciPlan, PortPlan, RomPlan, RootPlan};
pub use sandbox::SandboxPlan;

use share::Share;

use crate::advice::Finding;
use crate::config::{Config, ConsoleConfig};
use crate::host::{HostProfile, MachineFiles, Query};
use crate::units::PageSize;

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
    /// vCPUs keep their CPUs while they idle.
    pub dedicated: bool,
    /// What the vCPUs' CPUs have in common.
    pub locality: Locality,
    /// Host CPUs for berth's own threads.
    pub vmm_cpus: Vec<u32>,
    /// CPUs of the machine's nodes that it leaves to others.
    pub avoided: Vec<Avoided>,
    /// The guest's proximity domains.
    pub numa: NumaPlan,
    /// How the devices' DMA is mapped; `None` without devices.
    pub iommu: Option<IommuPlan>,
    /// The guest's PCI hierarchy.
    pub pci: PciPlan,
    /// Where the guest's serial console goes.
    pub console: ConsolePlan,
    /// What keeps berth in.
    pub sandbox: SandboxPlan,
    /// How long the guest has between the power button and the end.
    pub shutdown_timeout: Duration,
    /// How long the guest has to let go of a device that the host wants back.
    pub unplug_timeout: Duration,
    /// What the process needs from its limits.
    pub limits: Limits,
    /// What could be better, with what makes it so.
    pub shortfalls: Vec<Finding>,
    /// Decisions that the user may want to know of, such as a node that was guessed.
    pub notes: Vec<Note>,
}

impl Plan {
    /// Decides everything about the machine that `config` describes on `host`.
    ///
    /// Pure: the same two give the same plan, and nothing on the host is touched.
    ///
    /// # Errors
    /// The first thing on the host that does not fit the config.
    pub fn new(config: &Config, host: &HostProfile) -> Result<Self, PlanError> {
        if let Some(architecture) = host.foreign() {
            return Err(PlanError::Foreign { architecture: architecture.to_owned() });
        }
        let mut notes = Vec::new();
        let boot = boot::plan(config, host)?;
        let chosen = choose(config, host)?;
        let mut assigned = devices::check(&chosen, host, &mut notes)?;
        let iommu = iommu::plan(config, host, &mut assigned, &mut notes)?;
        let placement = placement::place(config, host, &assigned, &mut notes)?;
        interrupts::steer(config, host, &placement, &mut assigned)?;
        let backend = iommu.as_ref().map(|iommu| iommu.backend);
        let memory = memory::plan(config, host, &placement.shares, &assigned, backend)?;
        let nodes = assigned.iter().map(|device| device.function.node);
        let numa = NumaPlan::new(&memory.pages, &placement.vcpus, nodes);
        let mut pci = pci::plan(&assigned, host, &memory, &numa, &mut notes)?;
        iommu::note_out_of_reach(&iommu, host, &pci, &mut notes);
        pci.largest_peer_bar = peer_to_peer::largest_bar(config, host, &iommu);
        peer_to_peer::note(config, host, &pci, &mut notes);
        let limits = limits::plan(config, host, &memory, &pci, &mut notes)?;
        let mut plan = Self {
            name: config.name.as_str().to_owned(),
            boot,
            memory,
            locality: Locality::of(host, &placement.vcpus),
            vcpus: placement.vcpus,
            dedicated: config.cpu.dedicated,
            vmm_cpus: placement.vmm_cpus,
            avoided: placement.avoided,
            numa,
            iommu,
            pci,
            console: match &config.console {
                ConsoleConfig::Stdio => ConsolePlan::Stdio,
                ConsoleConfig::Off => ConsolePlan::Off,
                ConsoleConfig::Fifo(path) => ConsolePlan::Fifo { path: path.clone() },
                ConsoleConfig::Socket(path) => ConsolePlan::Socket { path: path.clone() },
                ConsoleConfig::File(console) => ConsolePlan::File {
                    path: console.file.clone(),
                    limit: console.limit_mib.bytes(),
                    machine: Query::from(config).machine_files(),
                },
            },
            sandbox: SandboxPlan::new(config),
            shutdown_timeout: config.shutdown_timeout_s.duration(),
            unplug_timeout: config.unplug_timeout_s.duration(),
            limits,
            shortfalls: Vec::new(),
            notes,
        };
        plan.shortfalls = shortfalls::find(config, host, &assigned, &plan);
        placement::check_dedicated(&plan)?;
        Ok(plan)
    }
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

/// Where guest memory comes from and where the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Bytes of guest RAM, a multiple of the page size.
    pub size: u64,
    /// Pages that back it.
    pub page_size: PageSize,
    /// Host NUMA node that it, or the first part of it, is bound to; `None` leaves it to the
    /// kernel's policy.
    pub node: Option<u32>,
    /// How many pages each node gives, in the order of the guest's proximity domains.
    pub pages: Vec<NodePages>,
    /// Locked with mlock(2): neither hugetlb nor a device's pins keep it from being swapped.
    pub locked: bool,
    /// When it is filled.
    pub fill: Fill,
    /// Guest RAM in address order; the parts are consecutive in the memfd.
    pub regions: Vec<RamRegion>,
}

/// When guest memory is filled and mapped for the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "when")]
pub enum Fill {
    /// What the guest boots from before it starts, the rest while it runs. A device waits with its
    /// first access to memory until all is done.
    Behind,
    /// All of it before the guest starts.
    Before {
        /// Why.
        why: FillReason,
    },
}

/// Why guest memory is filled before the guest starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FillReason {
    /// The config asks for it.
    Asked,
    /// Its locked memory would be counted together with that of others.
    SharedUser,
    /// Only what berth may do before the guest starts lets it lock as much.
    LockLimit,
    /// A driver of the guest would wait for it longer than kernels think healthy.
    Large,
}

/// Pages that a node of the host gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NodePages {
    /// The node, where the kernel knows of nodes.
    pub node: Option<u32>,
    /// Pages.
    pub pages: u64,
    /// Pages of that size that are free there now.
    pub free: u64,
}

/// One stretch of guest RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RamRegion {
    /// Guest physical addresses.
    pub guest: Range<u64>,
    /// Where it starts in the file in memory that huge pages are, in bytes.
    pub file_offset: u64,
    /// Host NUMA node that it is bound to.
    pub node: Option<u32>,
}

/// One vCPU and the host CPU that it is pinned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VcpuPlan {
    /// Index.
    pub index: u8,
    /// APIC ID, which is also KVM's ID of it.
    pub apic_id: u8,
    /// Socket, core and thread as the guest sees them.
    #[serde(serialize_with = "place")]
    pub place: CpuPlace,
    /// Host CPU.
    pub cpu: u32,
    /// NUMA node of that CPU.
    pub node: Option<u32>,
    /// Why that one.
    pub why: PinReason,
    /// The other threads of its core on the host.
    pub siblings: Vec<u32>,
}

/// Why a vCPU has its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PinReason {
    /// The config names it.
    Named,
    /// No other vCPU is on its core.
    OwnCore,
    /// Another vCPU is on its core.
    SharedCore,
}

/// CPUs of the machine's nodes that are left to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Avoided {
    /// Host CPUs.
    pub cpus: Vec<u32>,
    /// Why.
    pub why: String,
}

fn place<S: Serializer>(place: &CpuPlace, serializer: S) -> Result<S::Ok, S::Error> {
    let CpuPlace { socket, core, thread } = place;
    serializer.collect_map([("socket", socket), ("core", core), ("thread", thread)])
}

/// Where the guest's serial console goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsolePlan {
    /// berth's own standard input and output.
    Stdio,
    /// A file, truncated at start.
    File {
        /// Its path.
        path: PathBuf,
        /// Most bytes that are written to it.
        limit: u64,
        /// What it must not be, looked at once more when it is open.
        #[serde(skip)]
        machine: MachineFiles,
    },
    /// A pipe with a name.
    Fifo {
        /// Its path.
        path: PathBuf,
    },
    /// A Unix socket that somebody listens at.
    Socket {
        /// Its path.
        path: PathBuf,
    },
    /// Nowhere.
    Off,
}

/// What the process needs from its limits. The hard limits allow it; berth raises the soft ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Bytes that count against RLIMIT_MEMLOCK for a process without CAP_IPC_LOCK: all RAM as
    /// soon as a device can reach it.
    pub memlock: u64,
    /// Open files.
    pub open_files: u64,
    /// Bytes of the largest file that it writes: guest RAM in huge pages is a file in memory.
    pub file_size: u64,
    /// Bytes of address space that guest RAM and the devices' memory take; berth's own come on top.
    pub address_space: u64,
    /// The devices' part of it.
    pub bars: u64,
}

#[cfg(test)]
mod tests;
