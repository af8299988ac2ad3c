//! Hosts made by hand.

use berth_devices::pci::BarKind;
use std::collections::BTreeMap;

use berth_devices::pci::{HostBdf, Link, LinkSpeed, LinkWidth, Payload};
use berth_devices::vfio::ResetMethod;

use crate::host::iommu::ReservedRegion;
use crate::host::memory::Pool;
use crate::host::{
    Access, Cgroup, CommandLine, CpuVendor, Cpus, Depth, FileFacts, FileState, Functions, HostBar,
    HostFunction, HostProfile, IdSet, Iommu, IommuGroup, KernelFacts, KernelFormat, KernelLog,
    KvmAnswer, LinuxVersion, Memory, Node, PciFunction, Process, System,
};
use crate::units::{PageSize, Seen};

const MIB: u64 = 1 << 20;

pub(super) fn bdf(text: &str) -> HostBdf {
    text.parse().expect("an address")
}

/// The same, with what the host does with it.
pub(super) fn found<'a>(host: &'a mut HostProfile, address: &str) -> &'a mut HostFunction {
    host.functions.read.get_mut(&bdf(address)).expect("a function")
}

fn looked_at(function: PciFunction) -> HostFunction {
    HostFunction { depth: Depth::Take, ..HostFunction::of(function) }
}

/// A function of the host, to be changed.
pub(super) fn function<'a>(host: &'a mut HostProfile, address: &str) -> &'a mut PciFunction {
    &mut found(host, address).function
}

/// Adds an endpoint without BARs to a group.
pub(super) fn member(host: &mut HostProfile, address: &str, group: u32, driver: Option<&str>) {
    let address = bdf(address);
    let function = PciFunction {
        group: Some(group),
        driver: driver.map(str::to_owned),
        bars: Vec::new(),
        ..igb(None, group)
    };
    host.functions.read.insert(address, looked_at(function));
    let group = host.functions.groups.entry(group).or_default();
    group.members.push(address);
}

fn bar(index: u8, kind: BarKind, size: u64) -> HostBar {
    HostBar { index, kind, size }
}

const MEMORY32: BarKind = BarKind::Memory32 { prefetchable: false };
const MEMORY64: BarKind = BarKind::Memory64 { prefetchable: false };
const PREFETCHABLE64: BarKind = BarKind::Memory64 { prefetchable: true };

/// A card for four lanes in a slot that has two.
const LINK: Link = Link {
    negotiated: LinkWidth { speed: LinkSpeed::Gt5, lanes: 2 },
    capable: LinkWidth { speed: LinkSpeed::Gt5, lanes: 4 },
    payload_supported: Payload::from_code(2),
    payload: Payload::from_code(1),
};

pub(super) fn igb(node: Option<u32>, group: u32) -> PciFunction {
    PciFunction {
        vendor: 0x8086,
        device: 0x10c9,
        class: 0x02_0000,
        driver: Some("vfio-pci".to_owned()),
        driver_override: Some("vfio-pci".to_owned()),
        node,
        group: Some(group),
        iommu_unit: Some("dmar0".to_owned()),
        device_file: None,
        is_virtual: false,
        link: Some(LINK),
        interrupt_pin: 1,
        bars: vec![
            bar(0, MEMORY32, 128 << 10),
            bar(1, MEMORY32, 128 << 10),
            bar(2, BarKind::Io, 32),
            bar(3, MEMORY64, 16 << 10),
        ],
        rom_size: 0,
        unfit: Vec::new(),
        msix_vectors: Some(10),
        reset_methods: vec![ResetMethod::Flr, ResetMethod::Bus],
    }
}

fn virtual_function(group: u32) -> PciFunction {
    PciFunction {
        device: 0x10ca,
        is_virtual: true,
        interrupt_pin: 0,
        bars: vec![bar(0, PREFETCHABLE64, 16 << 10), bar(3, PREFETCHABLE64, 256)],
        msix_vectors: Some(3),
        ..igb(Some(1), group)
    }
}

fn group(members: &[&str]) -> IommuGroup {
    IommuGroup {
        members: members.iter().map(|address| bdf(address)).collect(),
        reserved: vec![ReservedRegion { range: 0xfee0_0000..=0xfeef_ffff, kind: "msi".to_owned() }],
    }
}

pub(super) fn node(cpus: IdSet, gib: u64, pages_1g: u64) -> Node {
    let pool = |pages| Pool { total: pages, free: pages, surplus: 0 };
    Node {
        cpus,
        total: gib << 30,
        available: (gib - pages_1g - 1) << 30,
        pools: BTreeMap::from([(PageSize::Size2M, pool(0)), (PageSize::Size1G, pool(pages_1g))]),
        distances: BTreeMap::new(),
    }
}

/// CPUs `0..cores`, with siblings `cores..2 * cores` when `threads`.
fn cpus(cores: u32, threads: bool) -> Cpus {
    let online: IdSet = (0..if threads { 2 * cores } else { cores }).collect();
    let siblings = online.iter().map(|cpu| {
        let core = cpu % cores;
        (cpu, [core, core + cores].into_iter().filter(|&cpu| online.contains(cpu)).collect())
    });
    Cpus {
        siblings: siblings.collect(),
        vendor: CpuVendor::Intel,
        virtualization: Some(true),
        gigabyte_pages: Some(true),
        physical_bits: Some(46),
        online,
        ..Cpus::default()
    }
}

fn file(path: &str, size: u64) -> FileFacts {
    FileFacts { path: path.into(), state: FileState::File { size } }
}

/// A host with room for everything, run by root, without devices.
pub(super) fn host(cpus: Cpus, memory: Memory) -> HostProfile {
    HostProfile {
        architecture: Some("x86_64".to_owned()),
        cgroup: Cgroup::default(),
        linux: Some(LinuxVersion(6, 12)),
        process: Process {
            cpus: cpus.online.clone(),
            nodes: memory.nodes.keys().copied().collect(),
            memlock: Some(8 << 20),
            open_files: Some(524_288),
            file_size: None,
            address_space: None,
            cpu_time: None,
            capabilities: u64::MAX,
        },
        iommu: Iommu {
            units: vec!["dmar0".to_owned()],
            in_firmware: Some(true),
            vendor: None,
            address_bits: Some(48),
            interrupt_remapping: Some(true),
            unsafe_interrupts: false,
            unsafe_interrupts_iommufd: false,
        },
        machines: Vec::new(),
        irqbalance: Seen::No,
        system: System { id: "linux".to_owned(), ..System::default() },
        log: KernelLog::default(),
        command_line: CommandLine::from("quiet"),
        kvm_answer: KvmAnswer::Unknown,
        functions: Functions { vfio_pci: true, ..Functions::default() },
        environment: BTreeMap::new(),
        kvm: Access::Granted,
        vfio: Access::Granted,
        group_files: BTreeMap::new(),
        iommufd: Access::Missing,
        device_files: BTreeMap::new(),
        kernel: Some(KernelFacts {
            file: file("/boot/vmlinuz", 12 * MIB),
            format: Some(KernelFormat::BzImage {
                entry64: true,
                cmdline_max: 2047,
                init_size: 40 << 20,
            }),
        }),
        initrd: Some(file("/boot/initrd", 30 * MIB)),
        console_refusal: None,
        cpus,
        memory,
    }
}

pub(super) fn assign(host: &mut HostProfile, functions: Vec<(&str, PciFunction)>) {
    for (address, function) in functions {
        if let Some(number) = function.group {
            host.functions.groups.insert(number, group(&[address]));
            host.group_files.insert(number, Access::Granted);
        }
        host.functions.addresses.push(bdf(address));
        host.functions.read.insert(bdf(address), looked_at(function));
    }
}

/// Two sockets of four cores with two threads each; a NIC of two functions and three virtual ones
/// on the second.
pub(super) fn server() -> HostProfile {
    let nodes = [
        (0, node((0..4).chain(8..12).collect(), 32, 8)),
        (1, node((4..8).chain(12..16).collect(), 32, 8)),
    ];
    let memory = Memory {
        numa: true,
        nodes: BTreeMap::from(nodes),
        reserved: BTreeMap::from([(PageSize::Size2M, 0), (PageSize::Size1G, 0)]),
    };
    let mut host = host(cpus(8, true), memory);
    let sockets = host.memory.nodes.iter().map(|(id, node)| (*id, node.cpus.clone()));
    host.cpus.packages = sockets.collect();
    host.cpus.l3_caches = host.cpus.packages.values().cloned().collect();
    let port = PciFunction {
        class: 0x06_0400,
        driver: Some("pcieport".to_owned()),
        bars: Vec::new(),
        ..igb(Some(1), 13)
    };
    assign(
        &mut host,
        vec![
            ("0000:40:01.0", port),
            ("0000:41:00.0", igb(Some(1), 14)),
            ("0000:41:00.1", igb(Some(1), 15)),
            ("0000:42:10.0", virtual_function(16)),
            ("0000:42:10.2", virtual_function(17)),
        ],
    );
    host
}

/// One socket, a kernel without NUMA, a user without capabilities and a card with a large BAR.
pub(super) fn desktop() -> HostProfile {
    let all: IdSet = (0..4).collect();
    let memory = Memory {
        numa: false,
        nodes: BTreeMap::from([(0, node(all, 16, 0))]),
        reserved: BTreeMap::from([(PageSize::Size2M, 0)]),
    };
    let mut host = host(cpus(4, false), memory);
    host.cpus.physical_bits = Some(39);
    host.iommu.address_bits = Some(39);
    host.process.capabilities = 0;
    host.process.memlock = None;
    let card = PciFunction {
        vendor: 0x10ee,
        device: 0x9038,
        class: 0x12_0000,
        bars: vec![
            bar(0, PREFETCHABLE64, 64 << 30),
            bar(2, MEMORY64, 64 << 10),
            bar(4, MEMORY32, 4096),
        ],
        msix_vectors: None,
        reset_methods: Vec::new(),
        ..igb(None, 1)
    };
    assign(&mut host, vec![("0000:01:00.1", card)]);
    host
}

/// The nested lab: two nodes with a CPU each, an igb on the second.
pub(super) fn lab() -> HostProfile {
    let nodes = [(0, node(IdSet::from_iter([0]), 3, 1)), (1, node(IdSet::from_iter([1]), 3, 1))];
    let memory = Memory {
        numa: true,
        nodes: BTreeMap::from(nodes),
        reserved: BTreeMap::from([(PageSize::Size2M, 0), (PageSize::Size1G, 0)]),
    };
    let mut host = host(cpus(2, false), memory);
    host.cpus.vendor = CpuVendor::Amd;
    host.cpus.physical_bits = Some(40);
    assign(&mut host, vec![("0000:21:00.0", igb(Some(1), 12))]);
    host
}
