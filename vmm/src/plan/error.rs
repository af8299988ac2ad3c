//! Why there is no plan: what on this host does not fit the config.

use std::ops::Range;
use std::path::PathBuf;

use berth_devices::pci::Bdf;
use berth_devices::vfio::IommuBackend;

use super::limits::SizeLimit;
use super::text::{Bytes, list, range};
use crate::host::{Access, CpuVendor, FileState, HostUse, IdSet};
use crate::units::PageSize;

/// Why there is no plan.
///
/// All variants are refusals by the host: the same config may work elsewhere, or after what
/// [`help`](Self::help) says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A file that the config names cannot be used.
    #[error("{role} {path} {state}", path = path.display())]
    File {
        /// `kernel` or `initrd`.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What is there.
        state: FileState,
    },
    /// The console's file cannot be written.
    #[error("console file {path} {reason}", path = path.display())]
    ConsoleFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The kernel is a file, but no kernel that berth boots.
    #[error("kernel {path} is {found}", path = path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The kernel would cut its command line.
    #[error("cmdline is {length} bytes long, and the kernel reads {max}")]
    CommandLineTooLong {
        /// Bytes in the config.
        length: usize,
        /// Bytes that the kernel takes.
        max: usize,
    },
    /// Kernel and initrd do not fit into guest RAM.
    #[error("kernel and initrd need {need}, and the guest has {size}", need = Bytes(*need), size = Bytes(*size))]
    MemoryTooSmall {
        /// Bytes that they need.
        need: u64,
        /// Bytes of RAM.
        size: u64,
    },

    /// The CPUs cannot run a guest.
    #[error("the host's CPUs offer no virtualization")]
    NoVirtualization {
        /// Their maker.
        vendor: CpuVendor,
    },
    /// KVM cannot be used.
    #[error("/dev/kvm {access}")]
    Kvm {
        /// Why.
        access: Access,
        /// The CPUs' maker.
        vendor: CpuVendor,
    },

    /// A device of the config is not there.
    #[error("there is no PCI function {device} on this host")]
    NoSuchDevice {
        /// Its address.
        device: Bdf,
        /// Functions with the most similar addresses, most similar first.
        near: Vec<Bdf>,
    },
    /// A device of the config is a bridge.
    #[error("{device} is a bridge, and only endpoints can be passed through")]
    Bridge {
        /// Its address.
        device: Bdf,
    },
    /// The host has no IOMMU.
    #[error("the host has no IOMMU: its firmware describes none")]
    NoIommu {
        /// The CPUs' maker.
        vendor: CpuVendor,
    },
    /// The host has an IOMMU but does not use it.
    #[error("the host's IOMMU is off{by}", by = by(parameter))]
    IommuOff {
        /// The CPUs' maker.
        vendor: CpuVendor,
        /// The kernel parameter that turned it off.
        parameter: Option<String>,
    },
    /// The IOMMU is on, but not in front of this device.
    #[error("{device} is behind none of the host's IOMMUs")]
    NotBehindIommu {
        /// Its address.
        device: Bdf,
    },
    /// A device is not bound to vfio-pci.
    #[error("{device} is bound to {driver}, and passthrough needs vfio-pci", driver = driver.as_deref().unwrap_or("no driver"))]
    NotBound {
        /// Its address.
        device: Bdf,
        /// Its driver.
        driver: Option<String>,
    },
    /// The host uses a device that berth is to take for the run.
    #[error("{device} is in use: {uses}", uses = list(uses.iter().map(|one| format!("it {one}"))))]
    InUse {
        /// Its address.
        device: Bdf,
        /// What it is used for.
        uses: Vec<HostUse>,
    },
    /// A device that berth is to take for the run has virtual functions, which hang on its driver.
    #[error("{device} has {count} virtual functions, which go with its driver")]
    HasVirtualFunctions {
        /// Its address.
        device: Bdf,
        /// How many.
        count: usize,
    },
    /// A virtual function whose physical function is VFIO's needs a token to be opened.
    #[error(
        "{device} is a virtual function of {physical}, which vfio-pci has: to open it takes a VF token, and berth has none"
    )]
    VfToken {
        /// Its address.
        device: Bdf,
        /// The physical function.
        physical: Bdf,
    },
    /// A device that is no virtual function has no port in a card's switch.
    #[error(
        "{device} is no virtual function, and only these have mac, vlan, trust and spoof_check"
    )]
    NotVirtual {
        /// Its address.
        device: Bdf,
    },
    /// A device that has to be reset cannot be.
    #[error("{device} has no reset, and \"reset\": \"required\" asks for one")]
    NoReset {
        /// Its address.
        device: Bdf,
        /// What a hot reset of it would hit; empty when there is none.
        others: Vec<Bdf>,
    },
    /// No virtual function is free.
    #[error("none of the {count} VFs of {physical} is free")]
    NoFreeVf {
        /// The physical function.
        physical: Bdf,
        /// Whether that is there.
        exists: bool,
        /// How many it has.
        count: usize,
    },
    /// An environment variable that should name devices is not set.
    #[error("devices wants addresses from ${name}, which is not set")]
    VariableUnset {
        /// Its name.
        name: String,
    },
    /// It does not hold PCI addresses.
    #[error("devices wants addresses from ${name}, and `{text}` in it is none")]
    VariableMalformed {
        /// Its name.
        name: String,
        /// What is wrong in it.
        text: String,
    },
    /// It names fewer devices than the config wants from it.
    #[error("devices wants more addresses from ${name} than are in it")]
    VariableExhausted {
        /// Its name.
        name: String,
    },
    /// Two devices of the config are the same function.
    #[error("two of devices are {device}")]
    DeviceTwice {
        /// Its address.
        device: Bdf,
    },
    /// Others of the device's group are in use by the host.
    #[error(
        "IOMMU group {group} of {device} is shared with what the host uses: {culprits}",
        culprits = list(culprits.iter().map(|(bdf, driver)| format!("{bdf} ({driver})")))
    )]
    GroupNotViable {
        /// The device.
        device: Bdf,
        /// Its group.
        group: u32,
        /// Members in use, with their drivers.
        culprits: Vec<(Bdf, String)>,
    },
    /// A device could send any interrupt to the host.
    #[error(
        "the host does not remap interrupts: a guest could send any interrupt through its device"
    )]
    NoInterruptRemapping {
        /// The kernel parameter that turned it off.
        parameter: Option<String>,
        /// What could do without.
        backend: IommuBackend,
    },
    /// VFIO's container cannot be used.
    #[error("/dev/vfio/vfio {access}")]
    Vfio {
        /// Why.
        access: Access,
    },
    /// A device's group cannot be opened.
    #[error("cannot use {device}: /dev/vfio/{group} {access}")]
    Group {
        /// The device.
        device: Bdf,
        /// Its group.
        group: u32,
        /// Why.
        access: Access,
    },
    /// iommufd cannot be used.
    #[error("/dev/iommu {access}")]
    Iommufd {
        /// Why.
        access: Access,
    },
    /// The kernel makes no device files.
    #[error("{device} has no file in /dev/vfio/devices, which iommufd needs")]
    NoDeviceFile {
        /// The device.
        device: Bdf,
    },
    /// A device's own file cannot be opened.
    #[error("cannot use {device}: {file} {access}")]
    DeviceFile {
        /// The device.
        device: Bdf,
        /// Its file.
        file: String,
        /// Why.
        access: Access,
    },

    /// The node is not on this host.
    #[error("the host has no NUMA node {node}")]
    NoSuchNode {
        /// The node.
        node: u32,
        /// Nodes with memory.
        with_memory: IdSet,
    },
    /// The node has no memory.
    #[error("NUMA node {node} has no memory{of}", of = of(device))]
    NodeWithoutMemory {
        /// The node.
        node: u32,
        /// The device that is on it, when that is why it was chosen.
        device: Option<Bdf>,
        /// Nodes with memory.
        with_memory: IdSet,
    },
    /// The process's cpuset excludes the node's memory.
    #[error("this process may not use memory of NUMA node {node}, only of {allowed}")]
    NodeNotAllowed {
        /// The node.
        node: u32,
        /// Nodes of the cpuset.
        allowed: IdSet,
    },
    /// Devices on several nodes, and the config does not want that.
    #[error(
        "the devices are on several NUMA nodes ({devices}), which placement.several_nodes refuses",
        devices = list(devices.iter().map(|(bdf, node)| format!("{bdf} on {node}")))
    )]
    SeveralNodes {
        /// Devices with their nodes.
        devices: Vec<(Bdf, u32)>,
    },
    /// More vCPUs than CPUs.
    #[error(
        "{vcpus} vCPUs need {vcpus} {what}, and node {node} has {count} that this process may use{which}{machines}",
        what = what(*whole_cores, *only_isolated),
        count = cpus.len(),
        which = which(cpus),
        machines = have(machines)
    )]
    TooFewCpus {
        /// Number of vCPUs.
        vcpus: usize,
        /// The node of the guest's memory.
        node: u32,
        /// Each wants a core alone.
        whole_cores: bool,
        /// Only isolated CPUs are wanted.
        only_isolated: bool,
        /// Usable CPUs of that node; a CPU for each core, when cores are wanted.
        cpus: IdSet,
        /// Isolated CPUs of that node, which only those get who ask for them.
        isolated: IdSet,
        /// Name, process and CPUs of other machines of berth on that node.
        machines: Vec<(String, u32, IdSet)>,
        /// Usable CPUs of all nodes.
        elsewhere: IdSet,
    },
    /// Not one CPU per vCPU.
    #[error("placement.cpus names {cpus} CPUs for {vcpus} vCPUs")]
    CpuCount {
        /// CPUs named.
        cpus: usize,
        /// Number of vCPUs.
        vcpus: u8,
    },
    /// A CPU is not there.
    #[error("placement.cpus names CPU {cpu}, and CPUs {online} are online")]
    CpuNotOnline {
        /// The CPU.
        cpu: u32,
        /// CPUs that are online.
        online: IdSet,
    },
    /// A CPU for interrupts is not there.
    #[error("placement.interrupt_cpus names CPU {cpu}, and CPUs {online} are online")]
    InterruptCpuNotOnline {
        /// The CPU.
        cpu: u32,
        /// CPUs that are online.
        online: IdSet,
    },
    /// A CPU is not for this process.
    #[error("placement.cpus names CPU {cpu}, and this process may use {allowed}")]
    CpuNotAllowed {
        /// The CPU.
        cpu: u32,
        /// CPUs of the process.
        allowed: IdSet,
    },

    /// A CPU is in a cpuset partition that berth is not in.
    #[error(
        "placement.cpus names CPU {cpu}, which a cpuset partition of other processes has to itself"
    )]
    CpuPartitioned {
        /// The CPU.
        cpu: u32,
    },

    /// The kernel has no pools of this page size.
    #[error("the host's kernel has no pool of {size} pages")]
    NoPool {
        /// The page size.
        size: PageSize,
        /// Whether the CPUs can map 1 GiB pages.
        gigabyte_pages: Option<bool>,
    },
    /// The node's pool is short.
    #[error(
        "the guest needs {need} free {size} pages on node {node}, which has {free} of {total}{others}",
        others = elsewhere(others)
    )]
    TooFewPages {
        /// The page size.
        size: PageSize,
        /// Pages needed.
        need: u64,
        /// The node.
        node: u32,
        /// Its free pages.
        free: u64,
        /// All its pages.
        total: u64,
        /// Free pages of other nodes that have some.
        others: Vec<(u32, u64)>,
    },
    /// The pool's pages are promised to others.
    #[error(
        "the guest needs {need} free {size} pages, and all but {unreserved} are promised to other processes"
    )]
    PagesPromised {
        /// The page size.
        size: PageSize,
        /// Pages needed.
        need: u64,
        /// Pages nobody was promised.
        unreserved: u64,
    },
    /// The node's memory is short.
    #[error("the guest needs {need}, and node {node} has {available} available", need = Bytes(*need), available = Bytes(*available))]
    TooLittleMemory {
        /// Bytes needed.
        need: u64,
        /// The node.
        node: u32,
        /// Bytes available.
        available: u64,
    },
    /// The IOMMU keeps RAM away from addresses that pages of this size cannot leave out.
    #[error("the host's IOMMU reserves {reserved}, and RAM of {size} pages cannot leave that out", reserved = range(reserved))]
    ReservedLow {
        /// Addresses that DMA cannot use.
        reserved: Range<u64>,
        /// The page size.
        size: PageSize,
    },
    /// Guest addresses run out.
    #[error("{what} would end at {end:#x}, and {limit} addresses have {bits} bits")]
    AddressSpace {
        /// `guest RAM` or `64-bit BARs`.
        what: &'static str,
        /// First address behind it.
        end: u64,
        /// Whose addresses they are.
        limit: &'static str,
        /// Their width.
        bits: u8,
    },

    /// The guest's bus is full.
    #[error("{count} devices do not fit on a bus, which takes 31")]
    TooManyDevices {
        /// Devices of the config; functions that stay together count once.
        count: usize,
    },
    /// BARs do not fit.
    #[error("BAR {bar} of {device} ({size}) does not fit into {window}", size = Bytes(*size))]
    WindowFull {
        /// The device.
        device: Bdf,
        /// The register.
        bar: u8,
        /// Its size in bytes.
        size: u64,
        /// The window, in words.
        window: &'static str,
    },

    /// Not enough memory may be locked.
    #[error("pinning guest memory for DMA locks {need}, and RLIMIT_MEMLOCK is {limit}", need = Bytes(*need), limit = Bytes(*limit))]
    MemlockLimit {
        /// Bytes needed.
        need: u64,
        /// Hard limit in bytes.
        limit: u64,
    },
    /// Not enough files may be open.
    #[error("up to {need} files are open at once, and RLIMIT_NOFILE is {limit}")]
    OpenFilesLimit {
        /// Files needed.
        need: u64,
        /// Hard limit.
        limit: u64,
    },
    /// A size that the machine needs is more than the process may have.
    #[error("{resource} {need}, and {} is {limit}", resource.name(), need = Bytes(*need), limit = Bytes(*limit))]
    SizeLimit {
        /// Which.
        resource: SizeLimit,
        /// Bytes needed.
        need: u64,
        /// Hard limit in bytes.
        limit: u64,
    },
}

fn by(parameter: &Option<String>) -> String {
    parameter.as_ref().map_or_else(String::new, |p| format!(", by the kernel parameter `{p}`"))
}

fn of(device: &Option<Bdf>) -> String {
    device.map_or_else(String::new, |device| format!(", and {device} is on it"))
}

fn what(whole_cores: bool, only_isolated: bool) -> &'static str {
    match (whole_cores, only_isolated) {
        (false, false) => "CPUs",
        (false, true) => "isolated CPUs",
        (true, false) => "cores",
        (true, true) => "isolated cores",
    }
}

fn have(machines: &[(String, u32, IdSet)]) -> String {
    if machines.is_empty() {
        return String::new();
    }
    let have = |(name, pid, cpus): &(String, u32, IdSet)| {
        format!("machine {name} (process {pid}) has {cpus}")
    };
    format!("; {}", list(machines.iter().map(have)))
}

fn which(cpus: &IdSet) -> String {
    if cpus.is_empty() { String::new() } else { format!(" ({cpus})") }
}

fn elsewhere(others: &[(u32, u64)]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let others = others.iter().map(|(node, free)| format!("node {node} has {free} free"));
    format!("; {}", list(others))
}
