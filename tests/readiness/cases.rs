//! Faults that one host can be brought to and back from.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Case, FAULT, STATE, check_all};
use crate::harness::{self, GuestConfig, Host};

/// A host whose NIC is bound to vfio-pci, with nothing else changed.
fn host() -> Result<harness::HostGuard> {
    let host = harness::host("faults");
    host.run(&format!("rm -rf {STATE} /etc/modprobe.d"))?;
    host.bind_vfio()?;
    Ok(host)
}

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

/// Another device than the NIC.
macro_rules! device {
    ($address:literal) => {
        |usual: GuestConfig| usual.set("/devices", json!([{ "address": $address }]))
    };
}

const PLATFORM: &[Case] = &[
    Case {
        name: "the IOMMU translates fewer bits than the CPUs",
        code: "IOMMU-NARROW",
        seen: &["translates 39 bits, the CPUs 40"],
        source: "/sys/class/iommu",
        remedy: &["stay below"],
        ..FAULT
    },
    Case {
        name: "the host's own DMA is translated, on a Debian with GRUB",
        host: [
            "mkdir -p /etc/default; echo ID=debian >/etc/os-release; echo 'GRUB_CMDLINE_LINUX=\"\"' >/etc/default/grub",
            "rm -r /etc/os-release /etc/default",
        ],
        code: "HOST-DMA-TRANSLATED",
        seen: &["groups of the host's own devices"],
        source: "/sys/kernel/iommu_groups",
        remedy: &["add `iommu=pt` to GRUB_CMDLINE_LINUX of /etc/default/grub", "`update-grub`"],
        ..FAULT
    },
    Case {
        name: "the kernel balances memory between nodes",
        host: [
            "echo 1 >/proc/sys/kernel/numa_balancing",
            "echo 1 >/proc/sys/kernel/numa_balancing",
        ],
        code: "NUMA-BALANCING",
        seen: &["balances"],
        source: "/proc/sys/kernel/numa_balancing",
        remedy: &["sysctl kernel.numa_balancing=0"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "ksmd runs",
        host: ["echo 1 >/sys/kernel/mm/ksm/run", "echo 0 >/sys/kernel/mm/ksm/run"],
        code: "KSM",
        seen: &["merges"],
        source: "/sys/kernel/mm/ksm/run",
        remedy: &["echo 0 >"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "a balloon",
        host: ["modprobe virtio_balloon", "rmmod virtio_balloon"],
        code: "BALLOON",
        seen: &["virtio_balloon"],
        source: "/sys/bus/virtio",
        remedy: &["take the balloon out"],
        ..FAULT
    },
    Case {
        name: "no KVM module",
        host: ["rmmod kvm-amd", "modprobe kvm-amd"],
        code: "KVM-UNAVAILABLE",
        severity: "fail",
        seen: &["/dev/kvm does not exist"],
        source: "/dev/kvm",
        remedy: &["`modprobe kvm_amd`"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "KVM is for others",
        run: "su user -c 'berth check CONFIG --json'",
        code: "KVM-UNAVAILABLE",
        severity: "fail",
        seen: &["/dev/kvm may not be opened"],
        source: "/dev/kvm",
        remedy: &["usermod -aG kvm"],
        ..FAULT
    },
];

const VFIO_FAULTS: &[Case] = &[
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

const DEVICES: &[Case] = &[
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
        seen: &["it is eth0, which the default route uses"],
        source: "/sys/bus/pci/devices/NIC",
        remedy: &["another way to its network", "ip addr flush dev eth0"],
        ..FAULT
    },
    Case {
        name: "a file system on it is mounted",
        host: [
            "modprobe -a nvme crc32c_generic ext4; n=0
             until [ -b /dev/nvme0n1 ] || [ $n -gt 50 ]; do n=$((n + 1)); sleep 0.1; done
             mke2fs /dev/nvme0n1 >/dev/null; mkdir -p /srv; mount -t ext2 /dev/nvme0n1 /srv",
            "umount /srv; rmmod nvme",
        ],
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
        host: [
            "modprobe -a nvme crc32c_generic ext4; n=0
             until [ -b /dev/nvme0n1 ] || [ $n -gt 50 ]; do n=$((n + 1)); sleep 0.1; done
             mke2fs /dev/nvme0n1 >/dev/null; mkdir -p /srv; mount -t ext2 /dev/nvme0n1 /srv",
            "umount /srv; rmmod nvme",
        ],
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
        seen: &["0000:00:08.1 (it has no such services) joins it to 0000:01:00.0"],
        source: "iommu_group",
        remedy: &["root port", "firmware"],
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

const MACHINE: &[Case] = &[
    Case {
        name: "small pages",
        code: "SMALL-PAGES",
        seen: &["page_size is 4K"],
        source: "shmem_enabled",
        remedy: &["\"2M\" or \"1G\""],
        ..FAULT
    },
    Case {
        name: "no huge pages",
        host: [
            "",
            "echo 0 >/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
        ],
        config: |usual| usual.page_size("2M"),
        code: "HUGEPAGES-SHORT",
        severity: "fail",
        seen: &["256 2M pages are needed on node 1, which has 0 free of 0"],
        source: "/sys/devices/system/node/node1/hugepages/hugepages-2048kB",
        remedy: &[
            "echo 256 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
        ],
        cured: true,
        ..FAULT
    },
    Case {
        name: "huge pages on the other node",
        config: |usual| usual.huge_memory(1024),
        code: "HUGEPAGES-ELSEWHERE",
        severity: "fail",
        seen: &["1 1G pages are needed on node 1, which has 0 free of 0; node 0 has 1"],
        source: "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB",
        remedy: &[
            "echo 1 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages",
            "put `hugepagesz=1G hugepages=0:1,1:1` in place of `hugepagesz=1G hugepages=0:1`",
        ],
        ..FAULT
    },
    Case {
        name: "little memory may be locked",
        host: [
            "chmod 666 /dev/kvm; chown 1000 /dev/vfio/GROUP",
            "chmod 600 /dev/kvm; chown 0 /dev/vfio/GROUP",
        ],
        run: "ulimit -l 1024; su user -c 'berth check CONFIG --json'",
        code: "MEMLOCK-LOW",
        severity: "fail",
        seen: &["512 MiB are locked, and RLIMIT_MEMLOCK is 1 MiB"],
        source: "/proc/self/limits",
        remedy: &["`ulimit -l 524288`", "LimitMEMLOCK=536870912"],
        ..FAULT
    },
    Case {
        name: "few files may be open",
        run: "ulimit -n 48; berth check CONFIG --json",
        code: "FILES-LOW",
        severity: "fail",
        seen: &["RLIMIT_NOFILE is 48"],
        source: "/proc/self/limits",
        remedy: &["`ulimit -n ", "LimitNOFILE="],
        ..FAULT
    },
    Case {
        name: "an affinity without a CPU",
        run: "taskset 7 berth check CONFIG --json",
        config: |usual| usual.set("/vcpus", 1),
        code: "CPU-NOT-ALLOWED",
        seen: &["may use CPUs 0-2, not 3"],
        source: "/proc/self/status",
        remedy: &["cpuset.cpus"],
        ..FAULT
    },
    Case {
        name: "vCPUs on the other node",
        config: |usual| usual.set("/placement", json!({ "cpus": [0, 1] })),
        code: "CPU-FAR",
        device: "NIC",
        seen: &["NIC is on node 1, and not so CPUs 0-1"],
        source: "numa_node",
        remedy: &["\"auto\""],
        ..FAULT
    },
    Case {
        name: "the host runs on a vCPU's core",
        host: ["", "echo 1 >/sys/devices/system/cpu/cpu3/online"],
        config: |usual| usual.set("/vcpus", 1).set("/placement", json!({ "cpus": [2] })),
        code: "CPU-SMT-SHARED",
        seen: &["CPUs 3, siblings of vCPUs'"],
        source: "thread_siblings_list",
        remedy: &["echo 0 > /sys/devices/system/cpu/cpu3/online"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "no CPU is isolated",
        code: "CPU-NOT-ISOLATED",
        seen: &["vCPUs are on 2-3"],
        source: "/sys/devices/system/cpu/isolated",
        remedy: &["isolcpus=managed_irq,domain,2-3"],
        ..FAULT
    },
    Case {
        name: "new interrupts land on vCPUs",
        host: ["echo f >/proc/irq/default_smp_affinity", "echo f >/proc/irq/default_smp_affinity"],
        code: "IRQ-ON-VCPU",
        seen: &["CPUs 2-3 are vCPUs'"],
        source: "/proc/irq/default_smp_affinity",
        remedy: &["echo 00000003 >"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "more vCPUs than CPUs",
        config: |usual| usual.set("/vcpus", 9),
        code: "PLAN-REFUSED",
        severity: "fail",
        seen: &["9 vCPUs need 9 CPUs"],
        source: "berth plan",
        remedy: &["lower vcpus"],
        ..FAULT
    },
];

#[test]
fn faults_of_the_platform() -> Result<()> {
    check_all(&*host()?, PLATFORM)
}

#[test]
fn faults_of_vfio_and_binding() -> Result<()> {
    check_all(&*host()?, VFIO_FAULTS)
}

#[test]
fn faults_of_devices() -> Result<()> {
    check_all(&*host()?, DEVICES)
}

#[test]
fn faults_for_one_machine() -> Result<()> {
    check_all(&*host()?, MACHINE)
}

#[test]
fn a_group_that_another_machine_has() -> Result<()> {
    let lab: &Host = &*host()?;
    let first = lab.run_guest(&GuestConfig::new(lab).verbs("wait"))?;
    first.wait_for("L2: up", Duration::from_secs(120))?;
    let held = Case {
        name: "another machine has it",
        code: "GROUP-HELD",
        severity: "fail",
        seen: &["/dev/vfio/GROUP is held by process", "(berth)"],
        source: "/dev/vfio/GROUP",
        remedy: &["end process"],
        ..FAULT
    };
    check_all(lab, &[held])?;
    let listed = lab.run(&format!("{} devices", lab.berth()?))?;
    assert!(listed.contains(&format!("is open in process {} (berth)", first.pid())), "{listed}");
    Ok(())
}
