//! Faults of the host as a whole.

use crate::check::{Case, FAULT};

pub const CASES: &[Case] = &[
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
