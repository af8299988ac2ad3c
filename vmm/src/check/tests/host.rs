//! Faults of the host as a whole.

use super::*;

#[test]
fn virtualization_off_in_the_firmware() {
    let finding = fault(Code::CpuNoVirt, |host| {
        host.file("/proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: fpu pdpe1gb")
            .file("/var/log/dmesg", "[ 0.2] kvm: disabled by bios");
    });
    fails(
        &finding,
        "keeps the CPUs' virtualization off",
        "kernel log: kvm: disabled by bios",
        "VT-x",
    );
    let nested = fault(Code::CpuNoVirt, |host| {
        host.file("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t\t: fpu hypervisor");
    });
    fails(&nested, "neither", "/proc/cpuinfo", "let its hypervisor nest");
}

/// KVM's own answer outranks the flags, and they explain it.
#[test]
fn kvm_itself_is_asked() {
    let answer = |text: &'static str, flags: &'static str| {
        facts(|host| {
            host.file("/dev/kvm", text)
                .file("/proc/cpuinfo", &format!("vendor_id\t: GenuineIntel\nflags\t\t: {flags}"));
        })
    };
    let severity = |facts: &Facts, code: Code| {
        let report = Report::new(facts, Some(&config("1G", 2048)));
        report.findings.iter().find(|f| f.code == code).expect("a finding").severity
    };
    // A paravirtual host has neither flag.
    let paravirtual = answer("makes virtual machines", "fpu hypervisor");
    assert_eq!(severity(&paravirtual, Code::CpuNoVirt), Severity::Pass);
    assert_eq!(severity(&paravirtual, Code::KvmUnavailable), Severity::Pass);
    // Nor does a line of the log count then.
    let said = facts(|host| {
        host.file("/dev/kvm", "makes virtual machines")
            .file("/var/log/dmesg", "kvm: disabled by bios");
    });
    assert_eq!(severity(&said, Code::CpuNoVirt), Severity::Pass);

    let busy = answer("Device or resource busy (os error 16)", "fpu vmx");
    let finding = of_facts(Code::KvmUnavailable, &busy);
    fails(&finding, "no virtual machine: Device or resource busy", "/dev/kvm", "VirtualBox");
    let off = answer("Operation not supported (os error 95)", "fpu");
    let finding = of_facts(Code::KvmUnavailable, &off);
    fails(&finding, "Operation not supported", "/dev/kvm", "VT-x");
    let missing = of_facts(Code::KvmUnavailable, &answer("missing", "fpu vmx"));
    fails(&missing, "does not exist", "/dev/kvm", "modprobe kvm_intel");
}

/// What is not on a command line that was not seen may be there.
#[test]
fn a_command_line_that_was_not_seen_lacks_nothing() {
    let ways: [fn(&mut Fixture); 2] = [
        |host| _ = host.remove("/proc/cmdline"),
        // As tar makes them.
        |host| _ = host.file("/proc/cmdline", ""),
    ];
    for unseen in ways {
        let off = fault(Code::IommuOff, |host| {
            host.remove("/sys/class/iommu");
            unseen(host);
        });
        assert!(off.remedy[0].contains("(/proc/cmdline) was not seen"), "{off:#?}");
        assert!(off.remedy[0].contains("`intel_iommu=on iommu=pt` already"), "{off:#?}");
        assert!(off.remedy.iter().any(|step| step.contains("dmesg")), "{off:#?}");
        let pages = facts(|host| {
            unseen(host);
        });
        let pages = of_machine(Code::HugepagesShort, &pages, &config("1G", 32 << 10));
        assert!(pages.remedy.iter().any(|step| step.contains("was not seen")), "{pages:#?}");
        let kept = fault(Code::DeviceTakenBack, |host| {
            host.remove("/etc/modprobe.d/vfio.conf");
            unseen(host);
        });
        assert_eq!(kept.severity, Severity::Unknown, "{kept:#?}");
    }
    let seen = fault(Code::IommuOff, |host| {
        host.remove("/sys/class/iommu").file("/proc/cmdline", "quiet");
    });
    assert!(seen.remedy[0].starts_with("add `intel_iommu=on"), "{seen:#?}");
}

#[test]
fn iommu_absent_or_off() {
    let off = |host: &mut Fixture, cmdline: &str| {
        host.remove("/sys/class/iommu").file("/proc/cmdline", cmdline);
    };
    let parameter = fault(Code::IommuOff, |host| off(host, "quiet intel_iommu=off"));
    fails(
        &parameter,
        "`intel_iommu=off`",
        "/proc/cmdline",
        "put `intel_iommu=on iommu=pt` in place",
    );
    assert_eq!(parameter.remedy[1..], ["`update-grub`", "`reboot`"]);

    let unused = fault(Code::IommuOff, |host| off(host, "quiet"));
    fails(&unused, "does not use it", "/sys/firmware/acpi/tables", "add `intel_iommu=on iommu=pt`");

    let absent = fault(Code::IommuAbsent, |host| {
        off(host, "quiet");
        host.remove("/sys/firmware/acpi/tables/DMAR").file("/sys/firmware/acpi/tables/APIC", "");
    });
    fails(&absent, "no IOMMU (neither DMAR nor IVRS)", "/sys/firmware", "VT-d");

    let amd = fault(Code::IommuAbsent, |host| {
        off(host, "quiet");
        host.remove("/sys/firmware/acpi/tables/DMAR")
            .file("/sys/firmware/acpi/tables/APIC", "")
            .file("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t\t: svm");
    });
    fails(&amd, "no IOMMU", "/sys/firmware", "AMD-Vi");

    let unseen = fault(Code::IommuOff, |host| {
        off(host, "quiet");
        host.remove("/sys/firmware");
    });
    fails(&unseen, "not to be seen", "/sys/class/iommu", "VT-d");
}

/// The unit decides, not the CPUs; the log tells what the firmware or a parameter did.
#[test]
fn amds_iommu_on_any_cpu() {
    let ivrs = |host: &mut Fixture, vendor: &str| {
        host.remove("/sys/class/iommu").remove("/sys/firmware/acpi/tables/DMAR");
        host.file("/sys/firmware/acpi/tables/IVRS", "").file("/proc/cmdline", "quiet");
        host.file("/proc/cpuinfo", &format!("vendor_id\t: {vendor}\nflags\t\t: svm vmx"));
    };
    for vendor in ["AuthenticAMD", "GenuineIntel"] {
        let unused = fault(Code::IommuOff, |host| {
            ivrs(host, vendor);
            host.file("/var/log/dmesg", "[    0.2] AMD-Vi: AMD IOMMU disabled");
        });
        fails(
            &unused,
            "does not use it",
            "kernel log: AMD-Vi: AMD IOMMU disabled",
            "no parameter turns AMD's on",
        );
        let off = fault(Code::IommuOff, |host| {
            ivrs(host, vendor);
            host.file("/proc/cmdline", "amd_iommu=off quiet");
        });
        fails(
            &off,
            "`amd_iommu=off`",
            "/proc/cmdline",
            "put `iommu=pt` in place of `amd_iommu=off`",
        );
    }
    let intel_on_amd = fault(Code::IommuOff, |host| {
        host.remove("/sys/class/iommu").file("/proc/cmdline", "intel_iommu=off");
        host.file("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t\t: svm");
    });
    fails(&intel_on_amd, "turned the IOMMU off", "/proc/cmdline", "`intel_iommu=on iommu=pt`");
}

#[test]
fn a_narrow_iommu() {
    let finding = fault(Code::IommuNarrow, |host| {
        // MGAW is bits 21:16, the width less one.
        host.file("/sys/class/iommu/dmar0/intel-iommu/cap", "260000");
    });
    warns(&finding, "translates 39 bits, the CPUs 46", "intel-iommu/cap", "stay below");
}

#[test]
fn the_hosts_own_dma_is_translated() {
    let finding = fault(Code::HostDmaTranslated, |host| {
        host.file("/proc/cmdline", "quiet");
        for group in [1, 3, 4, 5, 13] {
            host.file(&format!("/sys/kernel/iommu_groups/{group}/type"), "DMA-FQ");
        }
    });
    warns(&finding, "5 groups", "iommu_groups/*/type", "add `iommu=pt`");
}

#[test]
fn interrupts_that_are_not_remapped() {
    let unmapped = "  CPU0\n 4:  9  IO-APIC  4-edge  ttyS0";
    let finding = fault(Code::IntremapOff, |host| {
        host.file("/proc/interrupts", unmapped)
            .file("/var/log/dmesg", "DMAR-IR: Failed to enable irq remapping.  You are vulnerable");
    });
    fails(&finding, "no interrupt", "Failed to enable", "x2APIC");
    assert!(finding.remedy.last().is_some_and(|step| step.contains("trust")), "{finding:?}");

    let parameter = fault(Code::IntremapOff, |host| {
        host.file("/proc/interrupts", unmapped).file("/proc/cmdline", "intremap=off iommu=pt");
    });
    fails(&parameter, "no interrupt", "/proc/cmdline: intremap=off", "take `intremap=off` out of");

    let allowed = |host: &mut Fixture| {
        host.file("/proc/interrupts", unmapped)
            .file("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y");
    };
    warns(&fault(Code::UnsafeInterrupts, allowed), "does without", "allow_unsafe", "echo N");
    warns(&fault(Code::IntremapOff, allowed), "no interrupt", "/proc/interrupts", "x2APIC");
}

#[test]
fn vfio_modules() {
    let available = fault(Code::VfioNoModule, |host| {
        host.remove("/sys/module/vfio_pci");
    });
    fails(&available, "vfio-pci can be loaded", "/sys/module", "modprobe");
    assert_eq!(available.fix, Some(Fix::LoadModule { module: "vfio-pci" }));
    let absent = fault(Code::VfioNoModule, |host| {
        host.remove("/sys/module/vfio_pci").file("/lib/modules/6.12.9-amd64/modules.dep", "");
    });
    fails(&absent, "no module vfio-pci", "/lib/modules", "CONFIG_VFIO_PCI");
}

#[test]
fn kernels_that_are_old_or_locked() {
    let old = fault(Code::KernelOld, |host| {
        host.file("/proc/sys/kernel/osrelease", "5.10.0-30-amd64");
    });
    fails(&old, "needs 5.14", "osrelease", "newer kernel");
    let locked = fault(Code::Lockdown, |host| {
        host.file("/sys/kernel/security/lockdown", "none [integrity] confidentiality").bytes(
            "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
            vec![6, 0, 0, 0, 1],
        );
    });
    warns(&locked, "(integrity), as Secure Boot asks for", "lockdown", "signed modules");
}

#[test]
fn what_else_the_host_does_with_memory() {
    let balloon = fault(Code::Balloon, |host| {
        host.link("/sys/bus/virtio/drivers/virtio_balloon/virtio3", "../../../../devices/x");
    });
    warns(&balloon, "virtio_balloon", "/sys/bus/virtio", "take the balloon out");
    let ksm = fault(Code::Ksm, |host| {
        host.file("/sys/kernel/mm/ksm/run", "1");
    });
    warns(&ksm, "merges", "/sys/kernel/mm/ksm/run", "echo 0 >");
    let balancing = fault(Code::NumaBalancing, |host| {
        host.file("/proc/sys/kernel/numa_balancing", "1");
    });
    warns(&balancing, "balances", "numa_balancing", "sysctl kernel.numa_balancing=0");
}
