//! Faults of VFIO and of who has the NIC.

use crate::check::{Case, FAULT};

const UNBIND: &str = "echo NIC >/sys/bus/pci/devices/NIC/driver/unbind; ";
const NATIVE: &str = "echo NIC >/sys/bus/pci/devices/NIC/driver/unbind
     echo igb >/sys/bus/pci/devices/NIC/driver_override
     echo NIC >/sys/bus/pci/drivers_probe
     test -e /sys/bus/pci/drivers/igb/NIC";
const VFIO: &str =
    "[ ! -e /sys/bus/pci/devices/NIC/driver ] || echo NIC >/sys/bus/pci/devices/NIC/driver/unbind
     echo vfio-pci >/sys/bus/pci/devices/NIC/driver_override
     echo NIC >/sys/bus/pci/drivers_probe
     test -e /sys/bus/pci/drivers/vfio-pci/NIC";

pub const CASES: &[Case] = &[
    Case {
        name: "no VFIO module",
        host: [
            "echo NIC >/sys/bus/pci/devices/NIC/driver/unbind; rmmod vfio-pci",
            "modprobe vfio-pci; echo NIC >/sys/bus/pci/drivers_probe; true",
        ],
        code: "VFIO-NO-MODULE",
        severity: "fail",
        seen: &["vfio-pci can be loaded and is not"],
        source: "/sys/module",
        remedy: &["`modprobe vfio-pci`"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "the group is for others",
        host: ["chmod 666 /dev/kvm", "chmod 600 /dev/kvm; chown 0 /dev/vfio/GROUP"],
        run: "su user -c 'berth check CONFIG --json'",
        code: "VFIO-NO-ACCESS",
        severity: "fail",
        seen: &["/dev/vfio/GROUP may not be opened by this process"],
        source: "/dev/vfio/GROUP",
        remedy: &["chown USER /dev/vfio/GROUP"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "its own driver has it",
        host: [NATIVE, VFIO],
        code: "DEVICE-NOT-BOUND",
        severity: "fail",
        device: "NIC",
        seen: &["igb has it"],
        source: "/sys/bus/pci/devices/NIC/driver",
        remedy: &["`berth bind NIC`"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "no driver has it",
        host: [UNBIND, VFIO],
        code: "DEVICE-NOT-BOUND",
        severity: "fail",
        device: "NIC",
        seen: &["no driver has it"],
        source: "/sys/bus/pci/devices/NIC/driver",
        remedy: &["`berth bind NIC`"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "igb takes it back at the next boot",
        host: ["", "rm -rf /etc/modprobe.d"],
        code: "DEVICE-TAKEN-BACK",
        device: "NIC",
        seen: &["driver_override (vfio-pci)", "igb takes it back"],
        source: "driver_override",
        remedy: &["`berth bind NIC --persist`"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "vfio-pci is told of it, and igb may be first",
        host: [
            "mkdir -p /etc/modprobe.d; echo 'options vfio-pci ids=8086:10c9' >/etc/modprobe.d/vfio.conf",
            "rm -rf /etc/modprobe.d",
        ],
        code: "DEVICE-TAKEN-BACK",
        device: "NIC",
        seen: &["igb may load first"],
        source: "/etc/modprobe.d/vfio.conf",
        remedy: &["softdep igb pre: vfio-pci"],
        ..FAULT
    },
    Case {
        name: "nothing keeps it",
        host: [
            "echo >/sys/bus/pci/devices/NIC/driver_override",
            "echo vfio-pci >/sys/bus/pci/devices/NIC/driver_override",
        ],
        code: "DEVICE-TAKEN-BACK",
        device: "NIC",
        seen: &["no driver_override is set", "igb takes it back"],
        source: "driver_override",
        remedy: &["`berth bind NIC --persist`"],
        ..FAULT
    },
];
