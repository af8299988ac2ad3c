//! Faults of devices, of their groups and of their ways to the IOMMU.

use serde_json::json;

use crate::check::{Case, FAULT};
use crate::harness::GuestConfig;

/// Another device than the NIC.
macro_rules! device {
    ($address:literal) => {
        |usual: GuestConfig| usual.set("/devices", json!([{ "address": $address }]))
    };
}

/// The NVMe drive has a file system that the host uses.
const MOUNTED: [&str; 2] = [
    "modprobe -a nvme crc32c_generic ext4; n=0
     until [ -b /dev/nvme0n1 ] || [ $n -gt 50 ]; do n=$((n + 1)); sleep 0.1; done
     mke2fs /dev/nvme0n1 >/dev/null; mkdir -p /srv; mount -t ext2 /dev/nvme0n1 /srv",
    "umount /srv; rmmod nvme",
];

pub const CASES: &[Case] = &[
    Case {
        name: "the default route leads through it",
        host: [
            "echo NIC >/sys/bus/pci/devices/NIC/driver/unbind
             echo igb >/sys/bus/pci/devices/NIC/driver_override
             echo NIC >/sys/bus/pci/drivers_probe
             ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
             ip route add default via 10.0.2.2",
            "ip link set eth0 down; ip addr flush dev eth0
             echo NIC >/sys/bus/pci/devices/NIC/driver/unbind
             echo vfio-pci >/sys/bus/pci/devices/NIC/driver_override
             echo NIC >/sys/bus/pci/drivers_probe",
        ],
        code: "DEVICE-IN-USE",
        severity: "fail",
        device: "NIC",
        seen: &["it is eth0 with 10.0.2.15/24, which the default route uses"],
        source: "/sys/bus/pci/devices/NIC",
        remedy: &["another way to its network", "ip addr flush dev eth0"],
        ..FAULT
    },
    Case {
        name: "it has virtual functions",
        host: [
            "echo NIC >/sys/bus/pci/devices/NIC/driver/unbind
             echo igb >/sys/bus/pci/devices/NIC/driver_override
             echo NIC >/sys/bus/pci/drivers_probe
             echo 2 >/sys/bus/pci/devices/NIC/sriov_numvfs",
            "echo 0 >/sys/bus/pci/devices/NIC/sriov_numvfs
             echo NIC >/sys/bus/pci/devices/NIC/driver/unbind
             echo vfio-pci >/sys/bus/pci/devices/NIC/driver_override
             echo NIC >/sys/bus/pci/drivers_probe",
        ],
        code: "DEVICE-IN-USE",
        severity: "fail",
        device: "NIC",
        seen: &["it has 2 virtual functions"],
        source: "sriov_numvfs",
        remedy: &["`berth sriov NIC 0`", "free_vf_of"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "a file system on it is mounted",
        host: MOUNTED,
        config: device!("0000:01:00.0"),
        code: "DEVICE-IN-USE",
        severity: "fail",
        device: "0000:01:00.0",
        seen: &["it holds nvme0n1, mounted on /srv"],
        source: "/sys/bus/pci/devices/0000:01:00.0",
        remedy: &["`umount /srv`"],
        ..FAULT
    },
    Case {
        name: "its neighbour holds a mounted file system",
        host: MOUNTED,
        config: device!("0000:02:00.0"),
        code: "GROUP-NOT-VIABLE",
        severity: "fail",
        device: "0000:02:00.0",
        seen: &["it shares its group with 0000:01:00.0 (nvme)"],
        source: "/sys/kernel/iommu_groups",
        remedy: &["0000:01:00.0 holds nvme0n1, mounted on /srv", "slot"],
        ..FAULT
    },
    Case {
        name: "a port without ACS",
        config: device!("0000:02:00.0"),
        code: "ACS-MISSING",
        device: "0000:02:00.0",
        seen: &["0000:00:08.1 are one device without access control services", "joins 0000:02:00.0 to 0000:01:00.0"],
        source: "iommu_group",
        remedy: &["same guest", "another port"],
        ..FAULT
    },
    Case {
        name: "the chipset's SMBus is in the group of its disks",
        host: ["modprobe i2c-i801", "rmmod i2c-i801"],
        config: device!("0000:00:1f.2"),
        code: "GROUP-NOT-VIABLE",
        severity: "fail",
        device: "0000:00:1f.2",
        seen: &["it shares its group with 0000:00:1f.3 (i801_smbus)"],
        source: "/sys/kernel/iommu_groups",
        remedy: &["`berth bind 0000:00:1f.3`", "`berth bind 0000:00:1f.2 --group`"],
        ..FAULT
    },
    Case {
        name: "a conventional bus joins what is on it",
        host: ["", "BERTH_STATE_DIR=/tmp/berth-state berth restore"],
        config: device!("0000:04:01.0"),
        code: "GROUP-NOT-VIABLE",
        severity: "fail",
        device: "0000:04:01.0",
        seen: &["0000:04:02.0 (virtio-pci)"],
        source: "/sys/kernel/iommu_groups",
        remedy: &["`berth bind 0000:04:01.0 --group`"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "a conventional bus has no ACS",
        config: device!("0000:04:01.0"),
        code: "ACS-MISSING",
        device: "0000:04:01.0",
        seen: &["0000:03:00.0", "conventional", "joins it to 0000:04:02.0"],
        source: "iommu_group",
        remedy: &["PCI Express"],
        ..FAULT
    },
    Case {
        name: "a device that is not there",
        run: "berth check CONFIG --device 0000:7f:00.0 --json",
        code: "DEVICE-ABSENT",
        severity: "fail",
        device: "0000:7f:00.0",
        seen: &["no PCI function 0000:7f:00.0"],
        source: "/sys/bus/pci/devices",
        remedy: &["`berth devices`"],
        ..FAULT
    },
    Case {
        name: "a bridge",
        run: "berth check CONFIG --device 0000:00:08.0 --json",
        code: "DEVICE-BRIDGE",
        severity: "fail",
        device: "0000:00:08.0",
        seen: &["a bridge"],
        source: "class",
        remedy: &["0000:01:00.0"],
        ..FAULT
    },
    Case {
        name: "a slot past the IOMMU",
        config: device!("0000:41:00.0"),
        code: "DEVICE-NO-IOMMU",
        severity: "fail",
        device: "0000:41:00.0",
        seen: &["behind none"],
        source: "/sys/kernel/iommu_groups",
        remedy: &["another slot"],
        ..FAULT
    },
    Case {
        name: "no way to reset it",
        config: device!("0000:00:0a.0"),
        code: "RESET-NONE",
        device: "0000:00:0a.0",
        seen: &["no way to reset"],
        source: "reset_method",
        remedy: &["power the host off"],
        ..FAULT
    },
    Case {
        name: "nobody knows its node",
        host: ["", "echo -1 >/sys/bus/pci/devices/0000:00:0a.0/numa_node"],
        config: device!("0000:00:0a.0"),
        code: "NODE-UNKNOWN",
        device: "0000:00:0a.0",
        seen: &["which node"],
        source: "/sys/bus/pci/devices/0000:00:0a.0/numa_node",
        remedy: &["placement.node", "echo NODE >"],
        ..FAULT
    },
    // QEMU's docs/specs/edu: 80h source, 88h destination, 90h count, 98h command.
    Case {
        name: "the IOMMU stopped its DMA",
        host: [
            "f=/sys/bus/pci/devices/0000:00:0a.0; echo 1 >$f/enable
             printf '\\006' | dd of=$f/config bs=1 seek=4 conv=notrunc 2>/dev/null
             bar=$(head -n 1 $f/resource | cut -d' ' -f1)
             devmem $((bar + 0x80)) 64 0x2345000
             devmem $((bar + 0x88)) 64 0x40000
             devmem $((bar + 0x90)) 64 16
             devmem $((bar + 0x98)) 64 1
             n=0; until dmesg | grep -q 'fault addr 0x2345000' || [ $n -gt 50 ]; do n=$((n + 1)); sleep 0.1; done",
            "echo 0 >/sys/bus/pci/devices/0000:00:0a.0/enable",
        ],
        config: device!("0000:00:0a.0"),
        code: "DMA-FAULTS",
        device: "0000:00:0a.0",
        seen: &["faults"],
        source: "fault addr 0x2345000",
        remedy: &["see what ran"],
        ..FAULT
    },
];
