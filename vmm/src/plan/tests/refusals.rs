//! Every refusal with its remedy, in one text.

use std::collections::BTreeSet;

use berth_devices::pci::BarKind;
use berth_devices::vfio::ResetMethod;
use serde_json::{Value, json};

use super::hosts::{function, member, server};
use super::{config, golden, pool};
use crate::host::iommu::ReservedRegion;
use crate::host::memory::Pool;
use crate::host::{
    Access, CgroupLimit, CommandLine, Container, CpuVendor, FileState, Holder, HostFunction,
    HostProfile, HostUse, IdSet, KernelFacts, KernelFormat, KvmAnswer, Sriov, Unfit,
};
use crate::plan::{Plan, PlanError};
use crate::units::{Failure, PageSize, variants};

variants!(PlanError:
    Foreign
    Unfit
    CgroupLimit
    File
    ConsoleFile
    NotAKernel
    CommandLineTooLong
    MemoryTooSmall
    NoVirtualization
    KvmRefuses
    Kvm
    NoSuchDevice
    Bridge
    NoIommu
    IommuOff
    NotBehindIommu
    NotBound
    InUse
    HasVirtualFunctions
    NoReset
    NotVirtual
    NoFreeVf
    VariableUnset
    VariableMalformed
    VariableExhausted
    DeviceTwice
    GroupNotViable
    NoInterruptRemapping
    Vfio
    Group
    Iommufd
    NoDeviceFile
    DeviceFile
    NoSuchNode
    NodeWithoutMemory
    NodeNotAllowed
    SeveralNodes
    TooFewCpus
    CpuCount
    CpuShared
    CpuNotOnline
    InterruptCpuNotOnline
    CpuNotAllowed
    CpuPartitioned
    NoPool
    TooFewPages
    PagesPromised
    TooLittleMemory
    ReservedLow
    AddressSpace
    TooManyDevices
    WindowFull
    MemlockLimit
    OpenFilesLimit
    SizeLimit
);

/// A refusal: its name, fields of the config that differ, and what differs on the host.
type Case = (&'static str, Value, fn(&mut HostProfile));

fn kernel(host: &mut HostProfile) -> &mut KernelFacts {
    host.kernel.as_mut().expect("every config names one")
}

fn refusals() -> Vec<Case> {
    let none = || json!({});
    vec![
        ("another kind of host", none(), |host| host.architecture = Some("aarch64".to_owned())),
        ("a device that does not answer", none(), |host| {
            function(host, "0000:41:00.0").unfit.push(Unfit::Unreachable);
        }),
        ("a BAR without an address", none(), |host| {
            let unfit = Unfit::BarUnassigned { bar: 0, size: 64 << 30 };
            function(host, "0000:41:00.0").unfit.push(unfit);
        }),
        ("a VF of what VFIO has", none(), |host| {
            let physical = "0000:41:00.1".parse().expect("an address");
            function(host, "0000:41:00.0").unfit.push(Unfit::TokenNeeded { physical });
        }),
        ("a pod without huge pages", none(), |host| {
            host.system.container = Some(Container::Pod);
            let file = "/sys/fs/cgroup/hugetlb.1GB.max".to_owned();
            let limit = CgroupLimit { room: 0, max: 0, file };
            host.cgroup.huge_pages.insert(PageSize::Size1G, limit);
        }),
        ("kernel missing", none(), |host| kernel(host).file.state = FileState::Missing),
        ("kernel is a folder", none(), |host| {
            kernel(host).file.state = FileState::NotAFile("a directory");
        }),
        ("kernel unreadable", none(), |host| {
            kernel(host).file.state =
                FileState::Unreadable("Permission denied (os error 13)".into());
        }),
        ("kernel for arm64", none(), |host| {
            kernel(host).format = Some(KernelFormat::Other("an arm64 kernel image"));
        }),
        ("kernel compressed", none(), |host| {
            kernel(host).format = Some(KernelFormat::Other("gzip-compressed data"));
        }),
        ("kernel of 32 bits", none(), |host| {
            kernel(host).format =
                Some(KernelFormat::BzImage { entry64: false, cmdline_max: 2047, init_size: 0 });
        }),
        ("console file in no folder", json!({ "console": { "file": "/nowhere/log" } }), |host| {
            host.console_refusal = Some("cannot be made: its folder does not exist")
        }),
        ("initrd missing", none(), |host| {
            host.initrd.as_mut().expect("an initrd").state = FileState::Missing;
        }),
        ("cmdline too long", json!({ "cmdline": "x".repeat(2048) }), |_| ()),
        (
            "memory smaller than the initrd",
            json!({ "memory": { "size_mib": 64, "page_size": "2M" } }),
            |_| (),
        ),
        ("KVM not loaded", none(), |host| host.kvm = Access::Missing),
        ("KVM denied", none(), |host| host.kvm = Access::Denied),
        ("KVM makes no machine", none(), |host| {
            host.kvm_answer =
                KvmAnswer::Refused("Device or resource busy (os error 16)".to_owned());
        }),
        ("no virtualization", none(), |host| {
            host.kvm = Access::Missing;
            host.cpus.virtualization = Some(false);
        }),
        ("no such device", json!({ "devices": [{ "address": "0000:41:00.3" }] }), |_| ()),
        ("device is a bridge", json!({ "devices": [{ "address": "0000:40:01.0" }] }), |_| ()),
        ("no IOMMU", none(), |host| no_iommu(host, Some(false), "")),
        ("IOMMU off", none(), |host| no_iommu(host, Some(true), "")),
        ("IOMMU off by parameter", none(), |host| {
            no_iommu(host, Some(true), "quiet intel_iommu=off");
        }),
        ("IOMMU of another maker than the CPUs, off", none(), |host| {
            no_iommu(host, Some(true), "");
            host.cpus.vendor = CpuVendor::Amd;
            host.iommu.vendor = Some(CpuVendor::Intel);
        }),
        ("not behind the IOMMU", none(), |host| {
            function(host, "0000:41:00.0").group = None;
        }),
        ("native driver", none(), |host| {
            function(host, "0000:41:00.0").driver = Some("igb".to_owned());
        }),
        ("no driver, vfio-pci not loaded", none(), |host| {
            host.functions.vfio_pci = false;
            function(host, "0000:41:00.0").driver = None;
        }),
        ("group not viable", none(), |host| {
            member(host, "0000:41:00.4", 14, Some("xhci_hcd"));
            member(host, "0000:41:00.5", 14, None);
            member(host, "0000:41:00.6", 14, Some("nvme"));
        }),
        ("in use", auto(), |host| {
            let nic = "0000:41:00.0".parse().expect("an address");
            function(host, "0000:41:00.0").driver = Some("igb".to_owned());
            let usage = HostUse::Mounted { device: "nvme0n1p1".to_owned(), at: "/".to_owned() };
            let nic = host.functions.read.get_mut(&nic).expect("the NIC");
            nic.uses.push(usage);
        }),
        ("VFs that go with the driver", auto(), |host| {
            let nic = "0000:41:00.0".parse().expect("an address");
            function(host, "0000:41:00.0").driver = Some("igb".to_owned());
            let nic = host.functions.read.get_mut(&nic).expect("the NIC");
            let vf = "0000:41:10.0".parse().expect("an address");
            nic.sriov = Some(Sriov { max: 7, functions: vec![vf], ..Sriov::default() });
        }),
        ("a port for what has none", devices(json!([{ "address": "41:00.0", "vlan": 7 }])), |_| ()),
        (
            "a VF of what is not there",
            devices(json!([{ "address": { "free_vf_of": "7f:00.0" } }])),
            |_| (),
        ),
        ("no free VF", devices(json!([{ "address": { "free_vf_of": "41:00.0" } }])), |_| ()),
        ("variable unset", environment(1), |_| ()),
        ("variable malformed", environment(1), |host| {
            host.environment.insert("PCIDEVICE_NIC".to_owned(), Some("eth0".to_owned()));
        }),
        ("variable exhausted", environment(2), |host| {
            host.environment.insert("PCIDEVICE_NIC".to_owned(), Some("41:00.0".to_owned()));
        }),
        (
            "device twice",
            devices(json!([{ "address": { "env": "PCIDEVICE_NIC" } }, { "address": "41:00.0" }])),
            |host| {
                let nic = Some("41:00.0".to_owned());
                host.environment.insert("PCIDEVICE_NIC".to_owned(), nic);
            },
        ),
        (
            "several nodes",
            {
                let mut fields =
                    devices(json!([{ "address": "41:00.0" }, { "address": "01:00.0" }]));
                fields["placement"] = json!({ "several_nodes": "refuse" });
                fields
            },
            |host| other_node(host, "0000:01:00.0"),
        ),
        ("interrupt CPU not online", json!({ "placement": { "interrupt_cpus": [99] } }), |_| ()),
        (
            "more devices than a bus has places",
            {
                let many =
                    (0..40).map(|bus| json!({ "address": format!("{:02x}:00.0", 0x80 + bus) }));
                devices(many.collect())
            },
            |host| {
                for bus in 0x80..0x80 + 40 {
                    other_node(host, &format!("0000:{bus:02x}:00.0"));
                }
            },
        ),
        ("dedicated CPUs, and none for berth", json!({ "cpu": { "dedicated": true } }), |host| {
            host.process.cpus = "4-5".parse().expect("a list");
        }),
        ("no interrupt remapping", none(), |host| {
            host.iommu.interrupt_remapping = Some(false);
        }),
        ("interrupt remapping off by parameter", none(), |host| {
            host.iommu.interrupt_remapping = Some(false);
            host.command_line = CommandLine::from("quiet intremap=off");
        }),
        ("no VFIO", none(), |host| host.vfio = Access::Missing),
        ("group denied", none(), |host| {
            host.process.capabilities = 0;
            host.process.memlock = None;
            host.group_files.insert(14, Access::Denied);
        }),
        ("group denied to root", none(), |host| {
            host.group_files.insert(14, Access::Denied);
        }),
        ("group held", none(), |host| {
            let holder = Holder { pid: 4711, comm: "qemu-system-x86".to_owned() };
            host.group_files.insert(14, Access::Busy(Some(holder)));
        }),
        ("group held by someone hidden", none(), |host| {
            host.group_files.insert(14, Access::Busy(None));
        }),
        ("no iommufd", json!({ "iommu_backend": "iommufd" }), |_| ()),
        ("iommufd denied", json!({ "iommu_backend": "iommufd" }), |host| {
            host.iommufd = Access::Denied;
        }),
        ("no device files", json!({ "iommu_backend": "iommufd" }), |host| {
            host.iommufd = Access::Granted;
        }),
        ("device file denied", json!({ "iommu_backend": "iommufd" }), |host| {
            host.process.capabilities = 0;
            host.process.memlock = None;
            device_file(host, Access::Denied);
        }),
        ("device file held", json!({ "iommu_backend": "iommufd" }), |host| {
            let holder = Holder { pid: 4711, comm: "qemu-system-x86".to_owned() };
            device_file(host, Access::Busy(Some(holder)));
        }),
        ("no interrupt remapping, iommufd", json!({ "iommu_backend": "iommufd" }), |host| {
            device_file(host, Access::Granted);
            host.iommu.interrupt_remapping = Some(false);
        }),
        ("no reset where one is required", required(), |host| {
            function(host, "0000:41:00.0").reset_methods.clear();
            function(host, "0000:41:00.0").link = None;
        }),
        ("a hot reset would hit others where one is required", required(), |host| {
            function(host, "0000:41:00.0").reset_methods = vec![ResetMethod::Bus];
        }),
        ("no such node", json!({ "placement": { "node": 7 } }), |_| ()),
        ("node without memory", json!({ "placement": { "node": 1 } }), |host| {
            host.memory.nodes.get_mut(&1).expect("node 1").total = 0;
        }),
        ("node outside the cpuset", none(), |host| {
            host.process.nodes = IdSet::from_iter([0]);
        }),
        ("more vCPUs than CPUs", json!({ "vcpus": 9 }), |_| ()),
        ("more vCPUs than the whole host has CPUs", json!({ "vcpus": 64 }), |_| ()),
        ("CPUs isolated", json!({ "vcpus": 4 }), |host| {
            host.cpus.isolated = IdSet::from_iter([5, 6, 7, 13, 14, 15]);
            host.process.cpus = host.process.cpus.difference(&host.cpus.isolated);
        }),
        ("node without CPUs, others too small", json!({ "vcpus": 9 }), |host| {
            host.memory.nodes.get_mut(&1).expect("node 1").cpus = IdSet::default();
        }),
        ("too few CPUs named", json!({ "placement": { "cpus": [4] } }), |_| ()),
        ("CPU not online", json!({ "placement": { "cpus": [4, 99] } }), |_| ()),
        ("CPU of another's partition", json!({ "placement": { "cpus": [4, 5] } }), |host| {
            host.cpus.partitioned = IdSet::from_iter([5]);
        }),
        ("CPU not allowed", json!({ "placement": { "cpus": [4, 5] } }), |host| {
            host.process.cpus = IdSet::from_iter(0..=4)
        }),
        ("1G pages short, others have some", none(), |host| {
            *pool(host, 1) = Pool { total: 4, free: 1, surplus: 0 };
        }),
        ("2M pages short", json!({ "memory": { "size_mib": 1024, "page_size": "2M" } }), |_| ()),
        ("no pool, CPUs without 1G pages", none(), |host| {
            host.cpus.gigabyte_pages = Some(false);
            no_pool(host);
        }),
        ("no pool", none(), no_pool),
        ("pages promised", none(), |host| {
            host.memory.reserved.insert(PageSize::Size1G, 15);
        }),
        ("4K memory short", json!({ "memory": { "size_mib": 65536, "page_size": "4K" } }), |_| ()),
        ("reserved in the first GiB", none(), |host| {
            let group = host.functions.groups.get_mut(&14).expect("the card's group");
            group
                .reserved
                .push(ReservedRegion { range: 0x10_0000..=0x1f_ffff, kind: "direct".to_owned() });
        }),
        ("narrow IOMMU", json!({ "memory": { "size_mib": 5120 } }), |host| {
            host.iommu.address_bits = Some(32)
        }),
        ("BARs over the address width", none(), |host| {
            host.cpus.physical_bits = Some(32);
            for bar in &mut function(host, "0000:41:00.0").bars {
                bar.kind = BarKind::Memory64 { prefetchable: true };
            }
        }),
        ("32-bit BARs over the window", none(), |host| {
            for bar in &mut function(host, "0000:41:00.0").bars {
                bar.kind = BarKind::Memory32 { prefetchable: false };
                bar.size = 1 << 29;
            }
        }),
        ("locked memory limited", none(), |host| {
            host.process.capabilities = 0;
            host.process.memlock = Some(8 << 20);
        }),
        ("file size limited", none(), |host| {
            host.process.file_size = Some(1_024_000);
        }),
        ("address space limited", none(), |host| {
            host.process.address_space = Some(1 << 30);
        }),
        ("open files limited", none(), |host| {
            host.process.open_files = Some(64);
        }),
    ]
}

fn required() -> Value {
    json!({ "devices": [{ "address": "41:00.0", "reset": "required" }] })
}

fn devices(devices: Value) -> Value {
    json!({ "devices": devices })
}

fn auto() -> Value {
    devices(json!([{ "address": "41:00.0", "bind": "auto" }]))
}

fn environment(count: usize) -> Value {
    devices(vec![json!({ "address": { "env": "PCIDEVICE_NIC" } }); count].into())
}

/// One more card like the server's, on node 0 and in a group of its own.
fn other_node(host: &mut HostProfile, address: &str) {
    let mut card = function(host, "0000:41:00.0").clone();
    let address: berth_devices::pci::HostBdf = address.parse().expect("an address");
    card.node = Some(0);
    card.group = Some(100 + u32::from(address.bus()));
    card.msix_vectors = Some(1);
    card.bars.clear();
    host.functions.read.insert(address, HostFunction::of(card));
    host.functions.addresses.push(address);
}

fn device_file(host: &mut HostProfile, access: Access) {
    host.iommufd = Access::Granted;
    function(host, "0000:41:00.0").device_file = Some("vfio3".to_owned());
    host.device_files.insert("0000:41:00.0".parse().expect("an address"), access);
}

fn no_iommu(host: &mut HostProfile, in_firmware: Option<bool>, cmdline: &str) {
    function(host, "0000:41:00.0").group = None;
    host.iommu.units.clear();
    host.iommu.in_firmware = in_firmware;
    host.command_line = CommandLine::from(cmdline);
}

fn no_pool(host: &mut HostProfile) {
    host.memory.reserved.remove(&PageSize::Size1G);
    for node in host.memory.nodes.values_mut() {
        node.pools.remove(&PageSize::Size1G);
    }
}

#[test]
fn refusals_name_the_object_and_the_remedy() {
    let mut met = BTreeSet::new();
    let mut text = String::new();
    for (name, fields, change) in refusals() {
        let mut host = server();
        change(&mut host);
        match Plan::new(&config(fields), &host) {
            Ok(_) => panic!("{name}: accepted"),
            Err(error) => {
                met.insert(variant(&error));
                let failure = Failure::new(error.code().name(), &error, error.help(&host));
                let mut report = Vec::new();
                failure.write(&mut report).expect("memory takes all");
                text += &format!("# {name}\n{}\n", String::from_utf8_lossy(&report));
            }
        }
    }
    golden("refusals.txt", &text);
    assert_eq!(met, BTreeSet::from_iter(VARIANTS.iter().copied()), "each refusal has a text");
}
