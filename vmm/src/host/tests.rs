//! Profiles of snapshots: folders with the files that sysfs and procfs have.

mod snapshots;

use std::fs;
use std::os::unix::fs::symlink;

use berth_devices::vfio::ResetMethod;

use super::*;
use crate::units::PageSize;
use berth_devices::pci::BarKind;

const NIC: &str = "sys/bus/pci/devices/0000:21:00.0";

struct Snapshot(tempfile::TempDir);

impl Snapshot {
    /// The nested lab's host: two nodes with a CPU each, an igb behind VT-d.
    fn lab() -> Self {
        let snapshot = Self(tempfile::tempdir().expect("a folder for the snapshot"));
        for (path, text) in [
            ("sys/devices/system/cpu/online", "0-1\n"),
            ("sys/devices/system/cpu/isolated", "\n"),
            ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n"),
            ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1\n"),
            ("sys/devices/system/node/online", "0,2\n"),
            ("sys/devices/system/node/node0/cpulist", "0-1\n"),
            (
                "sys/devices/system/node/node0/meminfo",
                "Node 0 MemTotal:  3000000 kB\nNode 0 MemFree:  2000000 kB\n\
                 Node 0 Inactive(file):  1000 kB\nNode 0 Dirty:  500 kB\n",
            ),
            ("sys/devices/system/node/node2/cpulist", "\n"),
            ("sys/devices/system/node/node2/meminfo", "Node 2 MemTotal: 4096 kB\n"),
            (
                "proc/self/status",
                "Name:\tberth\nCapEff:\t0000000000004000\nCpus_allowed_list:\t0-1\nMems_allowed_list:\t0,2\n",
            ),
            (
                "proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max locked memory         8388608              16777216             bytes     \n\
                 Max open files            1024                 unlimited            files     \n",
            ),
            (
                "proc/cpuinfo",
                "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm pdpe1gb\n\
                 address sizes\t: 40 bits physical, 48 bits virtual\n\nprocessor\t: 1\n",
            ),
            ("proc/cmdline", "quiet intel_iommu=on\n"),
            (
                "proc/interrupts",
                "           CPU0       CPU1\n  4:  9  0  IR-IO-APIC  4-edge  ttyS0\n",
            ),
            ("sys/firmware/acpi/tables/DMAR", ""),
            ("sys/class/iommu/dmar0/intel-iommu/cap", "d2008c222f0686\n"),
            ("sys/kernel/iommu_groups/12/devices/0000:21:00.0", ""),
            (
                "sys/kernel/iommu_groups/12/reserved_regions",
                "0x00000000fee00000 0x00000000feefffff msi\n",
            ),
            ("sys/bus/pci/devices/0000:00:1f.0/vendor", "0x8086\n"),
            ("sys/bus/pci/drivers/vfio-pci/bind", ""),
        ] {
            snapshot.write(path, text);
        }
        for (name, text) in [
            ("vendor", "0x8086\n"),
            ("device", "0x10c9\n"),
            ("class", "0x020000\n"),
            ("driver_override", "(null)\n"),
            ("numa_node", "0\n"),
            ("reset_method", "flr bus\n"),
            ("max_link_speed", "5.0 GT/s PCIe\n"),
            ("max_link_width", "4\n"),
            ("current_link_speed", "2.5 GT/s PCIe\n"),
            ("current_link_width", "2\n"),
            (
                "resource",
                "0x00000000c0000000 0x00000000c001ffff 0x0000000000040200\n\
                 0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                 0x0000000000004000 0x000000000000401f 0x0000000000040101\n\
                 0x0000000c00000000 0x0000000c00003fff 0x0000000000140204\n\
                 0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                 0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                 0x00000000c0040000 0x00000000c005ffff 0x0000000000046200\n",
            ),
        ] {
            snapshot.write(&format!("{NIC}/{name}"), text);
        }
        for (link, target) in [
            ("driver", "../../../bus/pci/drivers/vfio-pci"),
            ("iommu_group", "../../../../kernel/iommu_groups/12"),
            ("iommu", "../../../virtual/iommu/dmar0"),
        ] {
            let link = snapshot.0.path().join(NIC).join(link);
            symlink(target, link).expect("a link");
        }
        for size in ["1048576kB", "2048kB"] {
            for (folder, name) in [
                ("sys/kernel/mm/hugepages", "resv_hugepages"),
                ("sys/devices/system/node/node0/hugepages", "nr_hugepages"),
                ("sys/devices/system/node/node0/hugepages", "free_hugepages"),
            ] {
                snapshot.write(&format!("{folder}/hugepages-{size}/{name}"), "2\n");
            }
        }
        snapshot
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn read(&self) -> Result<HostProfile, HostError> {
        let mut query = Query { kernel: Some("/boot/vmlinuz".into()), ..Query::default() };
        for address in ["21:00.0", "22:00.0"] {
            query.add(address.parse().expect("an address"), Taking::No);
        }
        HostProfile::read(&Root::open(self.0.path())?, &query)
    }
}

#[test]
fn a_snapshot_is_read_under_its_root() {
    let host = Snapshot::lab().read().expect("a host");

    assert_eq!(host.cpus.online.to_string(), "0-1");
    assert!(host.cpus.isolated.is_empty());
    assert_eq!(host.cpus.vendor, CpuVendor::Amd);
    assert_eq!(host.cpus.virtualization, Some(true));
    assert_eq!(host.cpus.gigabyte_pages, Some(true));
    assert_eq!(host.cpus.physical_bits, Some(40));
    assert_eq!(host.cpus.core_of(1), 1);

    assert!(host.memory.numa);
    assert_eq!(host.memory.nodes.keys().collect::<Vec<_>>(), [&0, &2]);
    assert_eq!(host.memory.nodes[&0].available, 2_000_500 << 10);
    assert_eq!(host.memory.nodes[&0].pools[&PageSize::Size1G].free, 2);
    assert_eq!(host.memory.unreserved(PageSize::Size1G), Some(0));
    assert!(host.memory.nodes[&2].cpus.is_empty());
    assert!(host.memory.nodes[&2].pools.is_empty());

    assert_eq!(host.process.memlock, Some(16 << 20));
    assert_eq!(host.process.open_files, None);
    assert!(host.process.has(Capability::IpcLock));
    assert_eq!(host.process.nodes.to_string(), "0,2");

    assert_eq!(host.iommu.units, ["dmar0"]);
    assert_eq!(host.iommu.address_bits, Some(48));
    assert_eq!(host.iommu.in_firmware, Some(true));
    assert_eq!(host.iommu.interrupt_remapping, Some(true));
    assert!(!host.iommu.unsafe_interrupts);

    assert!(host.functions.vfio_pci);
    assert_eq!(host.kvm, Access::Unknown);
    assert_eq!(host.group_files[&12], Access::Unknown);
    assert_eq!(host.kernel.expect("it was asked about").file.state, FileState::Unknown);
    assert_eq!(host.functions.addresses.len(), 2);
}

#[test]
fn a_function_is_read_from_sysfs() {
    let host = Snapshot::lab().read().expect("a host");
    assert_eq!(host.functions.read.len(), 1, "the other device does not exist");
    let nic = &host.functions.read.values().next().expect("the NIC").function;
    assert_eq!((nic.vendor, nic.device, nic.class), (0x8086, 0x10c9, 0x02_0000));
    assert!(nic.is_bound_to_vfio());
    assert_eq!(nic.driver_override, None);
    assert_eq!((nic.node, nic.group), (Some(0), Some(12)));
    assert!(!nic.is_virtual && !nic.is_bridge());
    assert_eq!(nic.msix_vectors, None);
    assert_eq!(nic.reset_methods, [ResetMethod::Flr, ResetMethod::Bus]);
    let prefetchable = false;
    assert_eq!(
        nic.bars,
        [
            (0, BarKind::Memory32 { prefetchable }, 128 << 10),
            (2, BarKind::Io, 32),
            (3, BarKind::Memory64 { prefetchable }, 16 << 10),
        ]
        .map(|(index, kind, size)| HostBar { index, kind, size })
    );
    assert_eq!((nic.rom_size, nic.interrupt_pin), (128 << 10, 0));
    let group = &host.functions.groups[&12];
    assert_eq!(group.members.len(), 1);
    assert_eq!(group.reserved[0].range, 0xfee0_0000..=0xfeef_ffff);
}

#[test]
fn the_width_is_that_of_the_units_in_front_of_the_devices() {
    let snapshot = Snapshot::lab();
    // Another unit, as those of graphics often are.
    snapshot.write("sys/class/iommu/dmar1/intel-iommu/cap", "d2008c22260286\n");
    let bits = || snapshot.read().expect("a host").iommu.address_bits;
    assert_eq!(bits(), Some(48));
    // Where the kernel does not say which it is, all count.
    fs::remove_file(snapshot.0.path().join(NIC).join("iommu")).expect("a link");
    assert_eq!(bits(), Some(39));
}

#[test]
fn a_device_file_needs_a_device_number() {
    let snapshot = Snapshot::lab();
    let file = || {
        let host = snapshot.read().expect("a host");
        host.functions.read.into_values().next().expect("the NIC").function.device_file
    };
    assert_eq!(file(), None);
    snapshot.write(&format!("{NIC}/vfio-dev/vfio7/uevent"), "");
    assert_eq!(file(), None);
    snapshot.write(&format!("{NIC}/vfio-dev/vfio7/dev"), "252:0\n");
    assert_eq!(file().as_deref(), Some("vfio7"));
}

#[test]
fn a_link_is_read_from_sysfs() {
    let snapshot = Snapshot::lab();
    let nic = |snapshot: &Snapshot| {
        let host = snapshot.read().expect("a host");
        host.functions.read.into_values().next().expect("the NIC").function
    };
    let link = nic(&snapshot).link.expect("a link");
    assert_eq!(link.capable.to_string(), "5.0 GT/s x4");
    assert_eq!(link.negotiated.to_string(), "2.5 GT/s x2");
    // Capabilities are hidden from this user.
    assert_eq!((link.payload_supported.bytes(), link.payload.bytes()), (128, 128));

    let mut config = vec![0; 256];
    (config[0x06], config[0x34], config[0x3d]) = (0x10, 0x40, 2);
    config[0x40..0x4a].copy_from_slice(&[0x10, 0, 2, 0, 2, 0, 0, 0, 0x20, 0]);
    snapshot.write(&format!("{NIC}/config"), &String::from_utf8(config).expect("ASCII"));
    let function = nic(&snapshot);
    let link = function.link.expect("a link");
    assert_eq!((link.payload_supported.bytes(), link.payload.bytes()), (512, 256));
    assert_eq!(function.interrupt_pin, 2);

    // A virtual function has its physical function's.
    snapshot.write(&format!("{NIC}/physfn/max_link_speed"), "16.0 GT/s PCIe\n");
    snapshot.write(&format!("{NIC}/physfn/max_link_width"), "8\n");
    let link = nic(&snapshot).link.expect("a link");
    assert_eq!(link.negotiated.to_string(), "16.0 GT/s x8");
    // Integrated into the root complex.
    snapshot.write(&format!("{NIC}/physfn/max_link_speed"), "Unknown\n");
    snapshot.write(&format!("{NIC}/physfn/max_link_width"), "255\n");
    assert_eq!(nic(&snapshot).link, None);
}

#[test]
fn malformed_files_are_named() {
    for (path, text, message) in [
        (
            "sys/devices/system/cpu/online",
            "all",
            "sys/devices/system/cpu/online holds `all`, expected a list of CPUs",
        ),
        (
            "sys/bus/pci/devices/0000:21:00.0/numa_node",
            "x",
            "numa_node holds `x`, expected the number of a node, or -1",
        ),
        (
            "sys/bus/pci/devices/0000:21:00.0/resource",
            "0x1",
            "resource holds `0x1`, expected first address, last address and flags",
        ),
        (
            "sys/kernel/iommu_groups/12/reserved_regions",
            "fee00000",
            "reserved_regions holds `fee00000`, expected first address, last address and kind",
        ),
        (
            "sys/bus/pci/devices/0000:21:00.0/vendor",
            "intel",
            "vendor holds `intel`, expected a hexadecimal number",
        ),
    ] {
        let snapshot = Snapshot::lab();
        snapshot.write(path, text);
        let error = snapshot.read().expect_err(path).to_string();
        assert!(error.ends_with(message), "{error}");
    }
}

#[test]
fn a_folder_that_is_no_host_is_refused() {
    let folder = Snapshot(tempfile::tempdir().expect("a folder"));
    let error = folder.read().expect_err("an empty folder");
    assert!(matches!(error, HostError::NoSnapshot { .. }));
}

#[test]
fn a_kernel_without_numa_has_one_node() {
    let snapshot = Snapshot::lab();
    fs::remove_dir_all(snapshot.0.path().join("sys/devices/system/node")).expect("a folder");
    snapshot.write("proc/meminfo", "MemTotal: 8 kB\nMemFree: 4 kB\n");
    let host = snapshot.read().expect("a host");
    assert!(!host.memory.numa);
    assert_eq!(host.memory.nodes[&0].total, 8 << 10);
    assert_eq!(host.memory.nodes[&0].cpus.len(), 2);
}

#[test]
fn this_host_can_be_read() {
    let query = Query { kernel: Some("/nonexistent".into()), ..Query::default() };
    let host = HostProfile::read(&Root::live(), &query).expect("a host");
    assert!(!host.cpus.online.is_empty() && !host.memory.nodes.is_empty());
    assert_eq!(host.kernel.expect("it was asked about").file.state, FileState::Missing);
}
