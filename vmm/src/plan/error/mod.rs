//! Why there is no plan: what on this host does not fit the config.

mod code;
mod help;
mod words;

use std::ops::Range;
use std::path::PathBuf;

use berth_devices::pci::HostBdf;
use berth_devices::vfio::IommuBackend;

use super::text::{Bytes, list, range};
use crate::advice::Steps;
use crate::advice::limits::{CgroupResource, SizeLimit};
use crate::host::{Access, CgroupLimit, FileState, HostProfile, HostUse, IdSet, Unfit};
use crate::units::{ConsoleKind, PageSize};
use words::{by, elsewhere, have, of, what, which};

/// Why there is no plan.
///
/// All variants are refusals by the host: the same config may work elsewhere, or after what
/// [`help`](Self::help) says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "variants are documented, and a field is what it is called")]
pub enum PlanError {
    /// berth does not run on such hosts.
    #[error("this is a host of another kind ({architecture}), and berth runs on x86-64 hosts only")]
    Foreign { architecture: String },
    /// A file that the config names cannot be used.
    #[error("{role} {path} {state}", path = path.display())]
    File { role: &'static str, path: PathBuf, state: FileState },
    /// Nothing that takes the console is there.
    #[error("console {kind} {path} {reason}", path = path.display())]
    ConsoleFile { kind: ConsoleKind, path: PathBuf, reason: &'static str },
    /// The kernel is a file, but no kernel that berth boots.
    #[error("kernel {path} is {found}", path = path.display())]
    NotAKernel { path: PathBuf, found: &'static str },
    /// The kernel would cut its command line.
    #[error("cmdline is {length} bytes long, and the kernel reads {max}")]
    CommandLineTooLong { length: usize, max: usize },
    /// Kernel and initrd do not fit into guest RAM.
    #[error("kernel and initrd need {need}, and the guest has {size}", need = Bytes(*need), size = Bytes(*size))]
    MemoryTooSmall { need: u64, size: u64 },

    /// The CPUs cannot run a guest.
    #[error("the host's CPUs offer no virtualization")]
    NoVirtualization,
    /// KVM cannot be used.
    #[error("/dev/kvm {access}")]
    Kvm { access: Access },
    /// KVM makes no virtual machine.
    #[error("/dev/kvm opens, and KVM makes no virtual machine: {reason}")]
    KvmRefuses { reason: String },

    /// A device of the config is not there.
    #[error("there is no PCI function {device} on this host")]
    NoSuchDevice { device: HostBdf, near: Vec<HostBdf> },
    /// A device of the config is a bridge.
    #[error("{device} is a bridge, and only endpoints can be passed through")]
    Bridge { device: HostBdf },
    /// The host has no IOMMU.
    #[error("the host has no IOMMU: its firmware describes none")]
    NoIommu,
    /// The host has an IOMMU but does not use it.
    #[error("the host's IOMMU is off{by}", by = by(parameter))]
    IommuOff { parameter: Option<String> },
    /// The IOMMU is on, but not in front of this device.
    #[error("{device} is behind none of the host's IOMMUs")]
    NotBehindIommu { device: HostBdf },
    /// A device is not bound to vfio-pci.
    #[error("{device} is bound to {driver}, and passthrough needs vfio-pci", driver = driver.as_deref().unwrap_or("no driver"))]
    NotBound { device: HostBdf, driver: Option<String> },
    /// A device does not work in any guest.
    #[error("{device} is unfit: {why}")]
    Unfit { device: HostBdf, unfit: Unfit, why: String },
    /// The host uses a device that berth is to take for the run.
    #[error("{device} is in use: {uses}", uses = list(uses.iter().map(|one| format!("it {one}"))))]
    InUse { device: HostBdf, uses: Vec<HostUse> },
    /// A device that berth is to take for the run has virtual functions, which hang on its driver.
    #[error("{device} has {count} virtual functions, which go with its driver")]
    HasVirtualFunctions { device: HostBdf, count: usize },
    /// A device that is no virtual function has no port in a card's switch.
    #[error(
        "{device} is no virtual function, and only these have mac, vlan, trust and spoof_check"
    )]
    NotVirtual { device: HostBdf },
    /// A device that has to be reset cannot be.
    #[error("{device} has no reset, and \"reset\": \"required\" asks for one")]
    NoReset { device: HostBdf, others: Vec<HostBdf> },
    /// No virtual function is free.
    #[error("none of the {count} VFs of {physical} is free")]
    NoFreeVf { physical: HostBdf, exists: bool, count: usize, obstacles: Vec<String> },
    /// An environment variable that should name devices is not set.
    #[error("`devices` takes addresses from ${name}, which is not set")]
    VariableUnset { name: String },
    /// It does not hold PCI addresses.
    #[error("`devices` takes addresses from ${name}, and `{text}` in it is none")]
    VariableMalformed { name: String, text: String },
    /// It names fewer devices than the config wants from it.
    #[error("`devices` takes more addresses from ${name} than are in it")]
    VariableExhausted { name: String },
    /// Two devices of the config are the same function.
    #[error("`devices` names {device} twice")]
    DeviceTwice { device: HostBdf },
    /// Others of the device's group are in use by the host.
    #[error(
        "IOMMU group {group} of {device} is shared with what the host uses: {culprits}",
        culprits = list(culprits.iter().map(|(bdf, driver)| format!("{bdf} ({driver})")))
    )]
    GroupNotViable { device: HostBdf, group: u32, culprits: Vec<(HostBdf, String)> },
    /// A device could send any interrupt to the host.
    #[error(
        "the host does not remap interrupts: a guest could send any interrupt through its device"
    )]
    NoInterruptRemapping { parameter: Option<String>, backend: IommuBackend },
    /// VFIO's container cannot be used.
    #[error("/dev/vfio/vfio {access}")]
    Vfio { access: Access },
    /// A device's group cannot be opened.
    #[error("cannot use {device}: /dev/vfio/{group} {access}")]
    Group { device: HostBdf, group: u32, access: Access },
    /// iommufd cannot be used.
    #[error("/dev/iommu {access}")]
    Iommufd { access: Access },
    /// The kernel makes no device files.
    #[error("{device} has no file in /dev/vfio/devices, which iommufd needs")]
    NoDeviceFile { device: HostBdf },
    /// A device's own file cannot be opened.
    #[error("cannot use {device}: {file} {access}")]
    DeviceFile { device: HostBdf, file: String, access: Access },

    /// The node is not on this host.
    #[error("the host has no NUMA node {node}")]
    NoSuchNode { node: u32, with_memory: IdSet },
    /// The node has no memory.
    #[error("NUMA node {node} has no memory{of}", of = of(device))]
    NodeWithoutMemory { node: u32, device: Option<HostBdf>, with_memory: IdSet },
    /// The process's cpuset excludes the node's memory.
    #[error("this process may not use memory of NUMA node {node}, only of {allowed}")]
    NodeNotAllowed { node: u32, allowed: IdSet },
    /// Devices on several nodes, and the config does not want that.
    #[error(
        "the devices are on several NUMA nodes ({devices}), which placement.several_nodes refuses",
        devices = list(devices.iter().map(|(bdf, node)| format!("{bdf} on {node}")))
    )]
    SeveralNodes { devices: Vec<(HostBdf, u32)> },
    /// More vCPUs than CPUs.
    #[error(
        "{vcpus} vCPUs need {vcpus} {what}, and node {node} has {count} that this process may use{which}{machines}",
        what = what(*whole_cores, *only_isolated),
        count = cpus.len(),
        which = which(cpus),
        machines = have(machines)
    )]
    TooFewCpus {
        vcpus: usize,
        node: u32,
        whole_cores: bool,
        only_isolated: bool,
        cpus: IdSet,
        isolated: IdSet,
        machines: Vec<(String, u32, IdSet)>,
        elsewhere: IdSet,
    },
    /// Not one CPU per vCPU.
    #[error("placement.cpus names {cpus} CPUs for {vcpus} vCPUs")]
    CpuCount { cpus: usize, vcpus: u8 },
    /// Somebody else would wait for a vCPU that never gives its CPU away.
    #[error("cpu.dedicated keeps CPUs from all others, and {shared}")]
    CpuShared { shared: String, steps: Vec<String> },
    /// A CPU is not there.
    #[error("placement.cpus names CPU {cpu}, and CPUs {online} are online")]
    CpuNotOnline { cpu: u32, online: IdSet },
    /// A CPU for interrupts is not there.
    #[error("placement.interrupt_cpus names CPU {cpu}, and CPUs {online} are online")]
    InterruptCpuNotOnline { cpu: u32, online: IdSet },
    /// A CPU is not for this process.
    #[error("placement.cpus names CPU {cpu}, and this process may use {allowed}")]
    CpuNotAllowed { cpu: u32, allowed: IdSet },

    /// A CPU is in a cpuset partition that berth is not in.
    #[error(
        "placement.cpus names CPU {cpu}, which a cpuset partition of other processes has to itself"
    )]
    CpuPartitioned { cpu: u32 },

    /// The kernel has no pools of this page size.
    #[error("the host's kernel has no pool of {size} pages")]
    NoPool { size: PageSize, gigabyte_pages: Option<bool> },
    /// The node's pool is short.
    #[error(
        "the guest needs {need} free {size} pages on node {node}, which has {free} of {total}{others}",
        others = elsewhere(others)
    )]
    TooFewPages {
        size: PageSize,
        need: u64,
        node: u32,
        free: u64,
        total: u64,
        others: Vec<(u32, u64)>,
    },
    /// The pool's pages are promised to others.
    #[error(
        "the guest needs {need} free {size} pages, and all but {unreserved} are promised to other processes"
    )]
    PagesPromised { size: PageSize, need: u64, unreserved: u64 },
    /// The node's memory is short.
    #[error("the guest needs {need}, and node {node} has {available} available", need = Bytes(*need), available = Bytes(*available))]
    TooLittleMemory { need: u64, node: u32, available: u64 },
    /// The IOMMU keeps RAM away from addresses that pages of this size cannot leave out.
    #[error("the host's IOMMU reserves {reserved}, and RAM of {size} pages cannot leave that out", reserved = range(reserved))]
    ReservedLow { reserved: Range<u64>, size: PageSize },
    /// Guest addresses run out.
    #[error("{what} would end at {end:#x}, and {limit} addresses have {bits} bits")]
    AddressSpace { what: &'static str, end: u64, limit: &'static str, bits: u8 },

    /// The guest's bus is full.
    #[error("{count} devices do not fit on a bus, which takes 31")]
    TooManyDevices { count: usize },
    /// BARs do not fit.
    #[error("BAR {bar} of {device} ({size}) does not fit into {window}", size = Bytes(*size))]
    WindowFull { device: HostBdf, bar: u8, size: u64, window: &'static str },

    /// A cgroup allows too little.
    #[error("{need} are needed, and {file} leaves {room}", need = resource.amount(*need), room = resource.amount(limit.room), file = limit.file)]
    CgroupLimit { resource: CgroupResource, need: u64, limit: CgroupLimit },
    /// Not enough memory may be locked.
    #[error("pinning guest memory for DMA locks {need}, and RLIMIT_MEMLOCK is {limit}", need = Bytes(*need), limit = Bytes(*limit))]
    MemlockLimit { need: u64, limit: u64 },
    /// Not enough files may be open.
    #[error("up to {need} files are open at once, and RLIMIT_NOFILE is {limit}")]
    OpenFilesLimit { need: u64, limit: u64 },
    /// A size that the machine needs is more than the process may have.
    #[error("{} {need}, and {} is {limit}", resource.consumer(), resource.name(), need = Bytes(*need), limit = Bytes(*limit))]
    SizeLimit { resource: SizeLimit, need: u64, limit: u64 },
}

/// Why there is no plan, with what to do about it on that host.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    /// Why.
    pub error: Box<PlanError>,
    /// What to do about it, step by step; commands stand in backticks.
    pub help: Steps,
}

impl PlanError {
    /// With what to do about it on `host`, which has been [looked around](HostProfile::look_around).
    pub fn explained(self, host: &HostProfile) -> Refusal {
        Refusal { help: self.help(host), error: Box::new(self) }
    }
}
