//! Faults that a host has from its boot on.

use anyhow::Result;

use super::{Case, FAULT, check_all};
use crate::harness;

const UNSAFE: &str = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";

#[test]
fn no_iommu_in_the_firmware() -> Result<()> {
    let absent = Case {
        name: "no DMAR table",
        code: "IOMMU-ABSENT",
        severity: "fail",
        seen: &["neither DMAR nor IVRS"],
        source: "/sys/firmware/acpi/tables",
        // QEMU's CPUs say that they are virtual.
        remedy: &["virtual machine: give it a virtual IOMMU"],
        ..FAULT
    };
    check_all(&harness::host("no-iommu"), &[absent])
}

/// The unit is Intel's and the CPUs are AMD's: the parameters are the unit's.
#[test]
fn iommu_off_by_parameter() -> Result<()> {
    let off = Case {
        name: "intel_iommu=off",
        host: [
            "mkdir -p /etc/default; echo ID=ubuntu >/etc/os-release; touch /etc/default/grub",
            "rm -r /etc/os-release /etc/default",
        ],
        code: "IOMMU-OFF",
        severity: "fail",
        seen: &["the kernel parameter `intel_iommu=off` turned the IOMMU off"],
        source: "/proc/cmdline",
        remedy: &["put `intel_iommu=on iommu=pt` in place of `intel_iommu=off`", "`update-grub`"],
        ..FAULT
    };
    check_all(&harness::host("iommu-off"), &[off])
}

#[test]
fn interrupts_are_not_remapped() -> Result<()> {
    let host = harness::host("no-intremap");
    host.bind_vfio()?;
    let off = Case {
        name: "the unit does not remap",
        host: ["", "echo N >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"],
        code: "INTREMAP-OFF",
        severity: "fail",
        seen: &["no interrupt goes through a remapping unit"],
        source: "/proc/interrupts",
        remedy: &["trust", UNSAFE],
        ..FAULT
    };
    let allowed = Case {
        name: "VFIO was told not to care",
        host: ["echo Y >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", ""],
        code: "UNSAFE-INTERRUPTS",
        seen: &["without interrupt remapping"],
        source: "allow_unsafe_interrupts",
        remedy: &["trust", "echo N >"],
        cured: true,
        ..FAULT
    };
    check_all(&host, &[off, allowed])
}

#[test]
fn no_virtualization_and_a_locked_down_kernel() -> Result<()> {
    let host = harness::host("bare");
    let virtualization = Case {
        name: "CPUs without SVM",
        code: "CPU-NO-VIRT",
        severity: "fail",
        seen: &["neither vmx nor svm"],
        source: "/proc/cpuinfo",
        remedy: &["let its hypervisor nest"],
        ..FAULT
    };
    let lockdown = Case {
        name: "a locked down kernel",
        host: ["mount -t securityfs none /sys/kernel/security", "umount /sys/kernel/security"],
        code: "LOCKDOWN",
        seen: &["(integrity)"],
        source: "/sys/kernel/security/lockdown",
        remedy: &["signed modules"],
        ..FAULT
    };
    check_all(&host, &[virtualization, lockdown])
}
