//! No code without a host that has the fault, and one that has not.

use super::*;
use crate::advice::Kind;
use crate::config::CpuChoice;
use crate::host::fixture::resources;
use crate::host::{Attach, IdSet, KvmAnswer, Unfit};

const POOL: &str = "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB";

/// Facts with a fault, and the machine that meets it; `None` for what is only met in plans and
/// refusals, whose texts are in goldens.
fn faulty(code: Code) -> Option<(Facts, Config)> {
    let usual = || config("1G", 2048);
    let file = |path: &'static str, text: &'static str| {
        (
            facts(|host| {
                host.file(path, text);
            }),
            usual(),
        )
    };
    let of_nic = |name: &'static str, text: &'static str| {
        (
            facts(|host| {
                host.of(NIC.address, name, text);
            }),
            usual(),
        )
    };
    let without = |path: &'static str| {
        (
            facts(|host| {
                host.remove(path);
            }),
            usual(),
        )
    };
    let changed = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts(|_| ());
        change(&mut facts);
        (facts, usual())
    };
    let on = |cpus: [u32; 2]| {
        let mut config = usual();
        config.placement.cpus = CpuChoice::Named(cpus.into());
        (facts(|_| ()), config)
    };
    let asked =
        |device: &str| changed(&|facts| facts.devices = vec![device.parse().expect("an address")]);
    let with_neighbour = |driver: &'static str| {
        let change = |host: &mut Fixture| {
            host.device(neighbour("0000:42:00.0", 14, driver));
        };
        (facts(change), usual())
    };
    let unfit = |unfit: Unfit| {
        changed(&move |facts| {
            let nic = NIC.address.parse().expect("an address");
            let listed = facts.host.functions.read.get_mut(&nic).expect("the NIC");
            listed.function.unfit.push(unfit);
        })
    };
    Some(match code {
        Code::HostForeign => file("/proc/cpuinfo", "CPU implementer\t: 0x41"),
        Code::SnapshotIncomplete => return None,
        Code::DeviceUnreachable => unfit(Unfit::Unreachable),
        Code::BarUnassigned => of_nic("resource", "0x0 0x3fff 0x20140204"),
        Code::BarHeld => {
            file("/var/log/dmesg", "vfio-pci 0000:41:00.0: BAR 1: can't reserve [mem 0xc0000000]")
        }
        Code::VfToken => {
            unfit(Unfit::TokenNeeded { physical: "0000:41:00.1".parse().expect("an address") })
        }
        Code::DeviceFailed => {
            file("/var/log/dmesg", "vfio-pci 0000:41:00.0: not ready 65535ms after FLR; giving up")
        }
        Code::SriovNoRoom => (
            facts(|host| {
                host.of(NIC.address, "resource", &resources("0x0 0x0 0x0"));
            }),
            usual(),
        ),
        Code::VfioAttach => changed(&|facts| {
            let reason = "VFIO_SET_IOMMU is refused: Operation not permitted".to_owned();
            facts.attached.insert(14, Attach::Refused { reason, errno: Some(libc::EPERM) });
        }),
        Code::HugepagesLimited => file("/sys/fs/cgroup/hugetlb.1GB.max", "0"),
        Code::MemoryLimited => {
            let (facts, _) = file("/sys/fs/cgroup/memory.max", "1048576");
            (facts, config("4K", 512))
        }
        Code::TasksLimited => file("/sys/fs/cgroup/pids.max", "2"),
        Code::CpuNoVirt => file("/proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: fpu"),
        Code::KvmUnavailable => changed(&|facts| facts.host.kvm = Access::Missing),
        Code::KernelOld => file("/proc/sys/kernel/osrelease", "4.19.0"),
        Code::Lockdown => file("/sys/kernel/security/lockdown", "none [integrity]"),
        Code::IommuAbsent => (
            facts(|host| {
                host.remove("/sys/class/iommu").remove("/sys/firmware/acpi/tables/DMAR");
                host.file("/sys/firmware/acpi/tables/APIC", "");
            }),
            usual(),
        ),
        Code::IommuOff => without("/sys/class/iommu"),
        Code::IommuNarrow => file("/sys/class/iommu/dmar0/intel-iommu/cap", "260000"),
        Code::HostDmaTranslated => (
            facts(|host| {
                host.file("/proc/cmdline", "quiet intel_iommu=on");
                for group in [1, 3, 4, 5, 13, 14] {
                    host.file(&format!("/sys/kernel/iommu_groups/{group}/type"), "DMA");
                }
            }),
            usual(),
        ),
        Code::IntremapOff => file("/proc/interrupts", " 4:  9  IO-APIC  4-edge  ttyS0"),
        Code::UnsafeInterrupts => {
            file("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y")
        }
        Code::VfioNoModule => without("/sys/module/vfio_pci"),
        Code::VfioNoAccess => changed(&|facts| facts.host.vfio = Access::Denied),
        Code::DeviceAbsent => asked("0000:7f:00.0"),
        Code::DeviceBridge => asked("0000:40:01.0"),
        Code::DeviceNoIommu => (
            facts(|host| {
                host.without(NIC.address, "iommu_group");
            }),
            usual(),
        ),
        Code::DeviceInUse => of_nic("boot_vga", "1"),
        Code::DeviceNotBound => (
            facts(|host| {
                host.bind(NIC.address, "igb");
            }),
            usual(),
        ),
        Code::DeviceTakenBack => without("/etc/modprobe.d/vfio.conf"),
        Code::PersistMoved => file(
            "/etc/modprobe.d/berth.conf",
            "# berth function 0000:01:00.0 8086:10c9:8086:a03c igb",
        ),
        Code::GroupNotViable => with_neighbour("igb"),
        Code::GroupHeld => {
            changed(&|facts| drop(facts.host.group_files.insert(14, Access::Busy(None))))
        }
        Code::AcsMissing => with_neighbour(""),
        Code::ResetNone => of_nic("reset_method", ""),
        Code::Rmrr => file("/sys/kernel/iommu_groups/14/reserved_regions", "0x1000 0x1fff direct"),
        Code::LinkReduced => of_nic("current_link_width", "1"),
        Code::NodeUnknown => (
            facts(|host| {
                host.of(NIC.address, "numa_node", "-1").of("0000:40:01.0", "numa_node", "-1");
            }),
            usual(),
        ),
        Code::DmaFaults => file("/var/log/dmesg", "DMAR: [DMA Read] device [41:00.0] fault addr 0"),
        Code::HugepagesShort => (facts(|_| ()), config("1G", 32 << 10)),
        Code::HugepagesElsewhere => (
            facts(|host| {
                host.file(&format!("{POOL}/free_hugepages"), "0");
            }),
            usual(),
        ),
        Code::SmallPages => (facts(|_| ()), config("4K", 512)),
        Code::IovaHoles => {
            file("/sys/kernel/iommu_groups/14/reserved_regions", "0x40000000 0x4000ffff reserved")
        }
        Code::MemlockLow => file("/proc/self/limits", "Max locked memory 1 65536 bytes"),
        Code::FilesLow => file("/proc/self/limits", "Max open files 1 16 files"),
        Code::CpuNotAllowed => file("/proc/self/status", "Cpus_allowed_list:\t4-15"),
        Code::CpuFar => on([0, 1]),
        Code::CpuSmtShared => (
            facts(|host| {
                host.file("/sys/devices/system/cpu/isolated", "4-7");
            }),
            {
                let mut config = usual();
                config.placement.cpus = CpuChoice::Named(vec![4, 5]);
                config
            },
        ),
        Code::CpuNotIsolated => file("/sys/devices/system/cpu/isolated", ""),
        Code::CpuGovernor => (
            facts(|host| {
                host.cpu(4, "cpufreq/scaling_driver", "acpi-cpufreq");
                host.cpu(4, "cpufreq/scaling_governor", "powersave");
            }),
            usual(),
        ),
        Code::CpuIdleDeep => (
            facts(|host| {
                host.cpu(4, "cpuidle/state3/latency", "133");
            }),
            usual(),
        ),
        Code::CpuKindsMixed => (
            facts(|host| {
                host.file("/sys/devices/cpu_core/cpus", "0-11");
                host.file("/sys/devices/cpu_atom/cpus", "12-15");
            }),
            usual(),
        ),
        Code::IrqOnVcpu => file("/proc/irq/default_smp_affinity", "ffff"),
        Code::Irqbalance => (
            facts(|host| {
                host.file("/sys/devices/system/cpu/isolated", "");
                host.remove("/etc/default/irqbalance");
            }),
            usual(),
        ),
        Code::VectorsMany => changed(&|facts| {
            facts.host.cpus.online = IdSet::from_iter([4, 12]);
            let nic = NIC.address.parse().expect("an address");
            let listed = facts.host.functions.read.get_mut(&nic).expect("the NIC");
            listed.function.msix_vectors = Some(2048);
        }),
        Code::Balloon => file("/sys/module/vmw_balloon/refcnt", "0"),
        Code::Ksm => file("/sys/kernel/mm/ksm/run", "1"),
        Code::NumaBalancing => file("/proc/sys/kernel/numa_balancing", "1"),
        Code::PlanRefused => on([4, 99]),
        _ => return None,
    })
}

fn has(report: &Report, code: Code, is: impl Fn(Severity) -> bool) -> bool {
    report.findings.iter().any(|finding| finding.code == code && is(finding.severity))
}

#[test]
fn every_code_has_a_fault() {
    for &code in Code::ALL {
        let Some((facts, config)) = faulty(code) else {
            // What is not in a snapshot is unknown at most.
            let is_unknown = code == Code::SnapshotIncomplete;
            assert!(is_unknown || code.kind() != Kind::Finding, "{code} has no host with it");
            continue;
        };
        assert_eq!(code.kind(), Kind::Finding, "{code}");
        let report = Report::new(&facts, Some(&config));
        assert!(has(&report, code, |severity| severity > Severity::Unknown), "{code}: {report}");
        let mut faults = report.findings.iter().filter(|f| f.severity > Severity::Unknown);
        // A fault that nobody can do anything about is no finding.
        assert!(faults.all(|finding| !finding.remedy.is_empty()), "{code}: {:#?}", report.findings);
    }
}

#[test]
fn every_code_has_a_pass() {
    let mut open = facts(|host| {
        host.file(
            "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
            "always [within_size] advise never deny force",
        );
    });
    (open.host.kvm, open.host.vfio) = (Access::Granted, Access::Granted);
    open.host.kvm_answer = KvmAnswer::Works;
    open.host.group_files.insert(14, Access::Granted);
    open.attached.insert(14, Attach::Works);
    let reports = [config("1G", 2048), config("4K", 512)];
    let reports = reports.map(|config| Report::new(&open, Some(&config)));
    for &code in Code::ALL.iter().filter(|code| code.kind() == Kind::Finding) {
        let passes = |report: &Report| has(report, code, |severity| severity == Severity::Pass);
        assert!(reports.iter().any(passes), "{code}");
        let faults = |report: &Report| has(report, code, |severity| severity > Severity::Unknown);
        assert!(!reports.iter().any(faults), "{code}");
    }
}
