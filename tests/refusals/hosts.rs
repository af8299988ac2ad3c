//! Hosts that cannot serve a good config.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Case, check_all, host};
use crate::harness::{self, GuestConfig, Host};

const RUN: &str = "berth run CONFIG";
const BIND: &str = "echo NIC >/sys/bus/pci/drivers_probe";
const UNBIND: &str = "echo NIC >/sys/bus/pci/devices/NIC/driver/unbind";
/// Somebody who may use KVM and the NIC, and nothing else.
const GIVE: &str = "chmod 666 /dev/kvm; chown 1000 /dev/vfio/GROUP";
const TAKE: &str = "chmod 600 /dev/kvm; chown 0 /dev/vfio/GROUP";

/// What one host can be brought to and back from.
const STATES: &[Case] = &[
    host(
        "no driver",
        [UNBIND, BIND],
        RUN,
        &["NIC is bound to no driver, and passthrough needs vfio-pci", "help: `berth bind NIC`"],
    ),
    host(
        "vfio-pci is not loaded",
        [
            "echo NIC >/sys/bus/pci/devices/NIC/driver/unbind; rmmod vfio-pci",
            "modprobe vfio-pci; echo NIC >/sys/bus/pci/drivers_probe; true",
        ],
        RUN,
        &["NIC is bound to no driver", "help: `berth bind NIC`"],
    ),
    host(
        "the native driver has it",
        [
            "echo NIC >/sys/bus/pci/devices/NIC/driver/unbind
             echo igb >/sys/bus/pci/devices/NIC/driver_override
             echo NIC >/sys/bus/pci/drivers_probe",
            "echo NIC >/sys/bus/pci/devices/NIC/driver/unbind
             echo vfio-pci >/sys/bus/pci/devices/NIC/driver_override
             echo NIC >/sys/bus/pci/drivers_probe",
        ],
        RUN,
        &[
            "NIC is bound to igb, and passthrough needs vfio-pci",
            "help: `berth bind NIC`",
            "or set its \"bind\" to \"auto\"",
        ],
    ),
    Case {
        config: |good| good.set("/devices", json!([{"address": "0000:00:1f.2"}])).to_string(),
        ..host(
            "others of the group are in use",
            [
                "modprobe i2c-i801
                 echo vfio-pci >/sys/bus/pci/devices/0000:00:1f.2/driver_override
                 echo 0000:00:1f.2 >/sys/bus/pci/drivers_probe
                 test -e /sys/bus/pci/devices/0000:00:1f.3/driver",
                "echo 0000:00:1f.2 >/sys/bus/pci/drivers/vfio-pci/unbind
                 echo >/sys/bus/pci/devices/0000:00:1f.2/driver_override
                 rmmod i2c-i801",
            ],
            RUN,
            &[
                "of 0000:00:1f.2 is shared with what the host uses: 0000:00:1f.3 (i801_smbus)",
                "help: `berth bind 0000:00:1f.3`: take it from the host too",
                "it is on the board itself, and its group stays as it is",
            ],
        )
    },
    host(
        "KVM is not loaded",
        ["rmmod kvm-amd", "modprobe kvm-amd"],
        RUN,
        &["/dev/kvm does not exist", "help: `modprobe kvm_amd`"],
    ),
    host(
        "KVM is for others",
        ["", ""],
        "su user -c 'berth run CONFIG'",
        &["/dev/kvm may not be opened by this process", "help: `usermod -aG kvm USER`"],
    ),
    host(
        "the group is for others",
        ["chmod 666 /dev/kvm", "chmod 600 /dev/kvm"],
        "su user -c 'berth run CONFIG'",
        &[
            "cannot use NIC: /dev/vfio/GROUP may not be opened by this process",
            "help: `chown USER /dev/vfio/GROUP`",
        ],
    ),
    host(
        "little memory may be locked",
        [GIVE, TAKE],
        "ulimit -l 1024; su user -c 'berth run CONFIG'",
        &["locks 256 MiB, and RLIMIT_MEMLOCK is 1 MiB", "help: `ulimit -l 262144`"],
    ),
    host(
        "few files may be open",
        ["", ""],
        "ulimit -n 48; berth run CONFIG",
        &["files are open at once, and RLIMIT_NOFILE is 48", "help: `ulimit -n "],
    ),
    Case {
        config: |good| good.set("/placement", json!({"cpus": [2, 3]})).to_string(),
        ..host(
            "a CPU outside the affinity",
            ["", ""],
            "taskset 7 berth run CONFIG",
            &[
                "placement.cpus names CPU 3, and this process may use 0-2",
                "help: widen berth's affinity",
            ],
        )
    },
    host(
        "a CPU is offline",
        [
            "echo 0 >/sys/devices/system/cpu/cpu3/online",
            "echo 1 >/sys/devices/system/cpu/cpu3/online",
        ],
        RUN,
        &["2 vCPUs need 2 CPUs, and node 1 has 1", "help: lower vcpus to 1"],
    ),
];

#[test]
fn states_of_a_host() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    check_all(&host, STATES)
}

#[test]
fn a_device_that_another_machine_has() -> Result<()> {
    let lab = harness::host("nic");
    lab.bind_vfio()?;
    let first = lab.run_guest(&GuestConfig::new(&lab).verbs("wait"))?;
    first.wait_for("L2: waiting", Duration::from_secs(120))?;
    check_all(
        &lab,
        &[host(
            "the device is taken",
            ["", ""],
            RUN,
            &["cannot use NIC: /dev/vfio/GROUP is held by process", "(berth)", "help: end process"],
        )],
    )?;
    first.send("end\n")?;
    first.must_end(0, Duration::from_secs(60))
}

fn profile(
    name: &str,
    prepare: fn(&Host) -> Result<()>,
    says: &'static [&'static str],
) -> Result<()> {
    let lab = harness::host(name);
    prepare(&lab)?;
    check_all(&lab, &[host("the platform", ["", ""], RUN, says)])
}

#[test]
fn no_iommu() -> Result<()> {
    profile(
        "no-iommu",
        |_| Ok(()),
        &["the host has no IOMMU", "help: this host is a virtual machine"],
    )
}

#[test]
fn iommu_off() -> Result<()> {
    profile(
        "iommu-off",
        |_| Ok(()),
        &[
            "the host's IOMMU is off, by the kernel parameter `intel_iommu=off`",
            "put `intel_iommu=on iommu=pt` in place of `intel_iommu=off`",
        ],
    )
}

#[test]
fn no_interrupt_remapping() -> Result<()> {
    profile(
        "no-intremap",
        Host::bind_vfio,
        &[
            "the host does not remap interrupts",
            "help: this host is a virtual machine: give its virtual IOMMU interrupt remapping",
            "allow_unsafe_interrupts",
        ],
    )
}
