//! For each code a host that looks sound where one would look first, and is not. What is seen
//! there may be unknown at best; a pass would be false.

use super::*;
use crate::advice::Kind;
use crate::config::{CpuChoice, IommuBackendConfig};
use crate::host::fixture::resources;
use crate::host::{Attach, KvmAnswer};

const POOL: &str = "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB";
const REGIONS: &str = "/sys/kernel/iommu_groups/14/reserved_regions";

/// A host that looks sound, or why a code has none.
enum Impostor {
    Host(Box<Facts>, Box<Config>),
    None(&'static str),
}

use Impostor::{Host, None};

fn host(change: impl FnOnce(&mut Fixture)) -> Impostor {
    meets(change, |_| ())
}

/// The same, met by another machine than the usual one.
fn meets(change: impl FnOnce(&mut Fixture), of: impl FnOnce(&mut Config)) -> Impostor {
    let mut config = config("1G", 2048);
    of(&mut config);
    Host(Box::new(facts(change)), Box::new(config))
}

fn files(files: &[(&str, &str)]) -> Impostor {
    host(|host| {
        for (path, text) in files {
            host.file(path, text);
        }
    })
}

/// Facts that no file of a snapshot tells.
fn live(change: impl FnOnce(&mut Facts), of: impl FnOnce(&mut Config)) -> Impostor {
    let mut facts = facts(|_| ());
    change(&mut facts);
    let mut config = config("1G", 2048);
    of(&mut config);
    Host(Box::new(facts), Box::new(config))
}

fn asked(device: &str, change: impl FnOnce(&mut Fixture)) -> Impostor {
    let mut facts = facts(change);
    facts.devices = vec![device.parse().expect("an address")];
    Host(Box::new(facts), Box::new(config("1G", 2048)))
}

fn on(cpus: [u32; 2], change: impl FnOnce(&mut Fixture)) -> Impostor {
    meets(change, |config| config.placement.cpus = CpuChoice::Named(cpus.into()))
}

/// A group of this process inside of one with `file`, itself without a limit.
fn inner_cgroup(file: &str, limit: &str) -> Impostor {
    let inner = |config: &mut Config| {
        if file.starts_with("memory") {
            *config = super::config("4K", 512);
        }
    };
    meets(
        |host| {
            host.file("/proc/self/cgroup", "0::/machines/router")
                .file(&format!("/sys/fs/cgroup/machines/router/{file}"), "max")
                .file(&format!("/sys/fs/cgroup/machines/{file}"), limit);
        },
        inner,
    )
}

/// A new finding fails the tests without its host here.
fn looks_sound(code: Code) -> Impostor {
    match code {
        // A 32-bit kernel on the same CPUs.
        Code::HostForeign => files(&[(
            "/proc/cpuinfo",
            "vendor_id\t: GenuineIntel\nflags\t\t: fpu vme de pse tsc msr pae mce cx8 apic sep mtrr \
             pge mca cmov pat pse36 clflush dts acpi mmx fxsr sse vmx pdpe1gb",
        )]),
        // All files are there, and two are empty.
        Code::SnapshotIncomplete => {
            files(&[("/proc/interrupts", ""), ("/proc/irq/default_smp_affinity", "")])
        }
        // The flag is there, and the firmware keeps what it stands for off.
        Code::CpuNoVirt => files(&[("/var/log/dmesg", "kvm: disabled by bios")]),
        // The file opens, and another hypervisor has the CPUs.
        Code::KvmUnavailable => live(
            |facts| {
                facts.host.kvm = Access::Granted;
                facts.host.kvm_answer = KvmAnswer::Refused("Device or resource busy".to_owned());
            },
            |_| (),
        ),
        // Older than 5.14, though not by its letters.
        Code::KernelOld => files(&[("/proc/sys/kernel/osrelease", "5.4.0-200-generic")]),
        // No file says so, and Secure Boot is on.
        Code::Lockdown => host(|host| {
            host.remove("/sys/kernel/security/lockdown").bytes(
                "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
                vec![6, 0, 0, 0, 1],
            );
        }),
        // The parameter is there, and nothing that it could turn on.
        Code::IommuAbsent => host(|host| {
            host.remove("/sys/class/iommu")
                .remove("/sys/firmware/acpi/tables/DMAR")
                .file("/sys/firmware/acpi/tables/APIC", "")
                .file("/proc/cmdline", "intel_iommu=on iommu=pt");
        }),
        // Parameter, table and groups are there, and no unit.
        Code::IommuOff => host(|host| {
            host.remove("/sys/class/iommu/dmar0").file("/proc/cmdline", "intel_iommu=on");
        }),
        // Another unit is wide, and the device is behind the narrow one.
        Code::IommuNarrow => host(|host| {
            host.file("/sys/class/iommu/dmar1/intel-iommu/cap", "260000").link(
                "/sys/devices/pci0000:40/0000:40:01.0/0000:41:00.0/iommu",
                "/sys/class/iommu/dmar1",
            );
        }),
        // The parameter is there, and a later one takes it back.
        Code::HostDmaTranslated => host(|host| {
            host.file("/proc/cmdline", "intel_iommu=on iommu=pt iommu=nopt");
            for group in [1, 3, 4, 5, 13] {
                host.file(&format!("/sys/kernel/iommu_groups/{group}/type"), "DMA");
            }
        }),
        // A device of that name: an infrared receiver.
        Code::IntremapOff => files(&[(
            "/proc/interrupts",
            "  CPU0\n 4:  9  IO-APIC  4-edge  IR-receiver\n 24:  1  PCI-MSI  524288-edge  nvme0q0",
        )]),
        // The module that says N is not the one that would do it.
        Code::UnsafeInterrupts => meets(
            |host| {
                host.file("/sys/module/iommufd/parameters/allow_unsafe_interrupts", "Y");
            },
            |config| config.iommu_backend = IommuBackendConfig::Iommufd,
        ),
        // vfio-pci is loaded, and what maps its DMA is not.
        Code::VfioNoModule => host(|host| {
            host.remove("/sys/module/vfio_iommu_type1");
        }),
        // The container opens, and the group does not.
        Code::VfioNoAccess => live(
            |facts| {
                facts.host.vfio = Access::Granted;
                facts.host.group_files.insert(14, Access::Denied);
            },
            |_| (),
        ),
        // Its card is there, and has one function.
        Code::DeviceAbsent => asked("0000:41:00.1", |_| ()),
        // Bound as a device is.
        Code::DeviceBridge => asked("0000:40:01.0", |host| {
            host.bind("0000:40:01.0", "vfio-pci");
        }),
        // All its files are there, and behind them nothing.
        Code::DeviceUnreachable => host(|host| {
            host.bytes("/sys/devices/pci0000:40/0000:40:01.0/0000:41:00.0/config", vec![0xff; 64]);
        }),
        // The first BAR has an address.
        Code::BarUnassigned => host(|host| {
            host.of(
                NIC.address,
                "resource",
                "0xc0000000 0xc001ffff 0x40200\n0x0 0x0 0x0\n0x0 0x3fffffff 0x2014220c",
            );
        }),
        // No log that would tell can be read.
        Code::BarHeld => host(|host| {
            host.remove("/var/log/dmesg");
        }),
        // The VF is on vfio-pci as it should, and so is its physical function.
        Code::VfToken => asked("0000:41:10.0", |host| {
            host.device(Device { address: "0000:41:10.0", group: 20, ..NIC }).link(
                "/sys/devices/pci0000:40/0000:40:01.0/0000:41:10.0/physfn",
                "../0000:41:00.0",
            );
        }),
        // It has a group, made by VFIO's mode that does without an IOMMU.
        Code::DeviceNoIommu => files(&[("/sys/kernel/iommu_groups/14/name", "vfio-noiommu")]),
        // Its interface has neither address nor route; what stands on it has.
        Code::DeviceInUse => host(|host| {
            host.bind(NIC.address, "igb")
                .of(NIC.address, "net/eth0/ifindex", "5")
                .link(
                    "/sys/class/net/eth0",
                    "../../devices/pci0000:40/0000:40:01.0/0000:41:00.0/net/eth0",
                )
                .link(
                    "/sys/devices/pci0000:40/0000:40:01.0/0000:41:00.0/net/eth0/upper_eth0.100",
                    "../../../../../../class/net/eth0.100",
                )
                .file("/sys/class/net/eth0.100/ifindex", "7")
                .file(
                    "/proc/net/route",
                    "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0.100\t00000000\t010200C0\t0003\t0\t0\t0\t00000000",
                );
        }),
        // The override is set, and its driver still has it.
        Code::DeviceNotBound => host(|host| {
            host.bind(NIC.address, "igb").of(NIC.address, "driver_override", "vfio-pci");
        }),
        // vfio-pci is told of it, and nothing makes it load first.
        Code::DeviceTakenBack => {
            files(&[("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=8086:10c9")])
        }
        // The same maker's chip, on another maker's card.
        Code::PersistMoved => files(&[(
            "/etc/modprobe.d/berth.conf",
            "# berth function 0000:41:00.0 8086:10c9:8086:ffff igb",
        )]),
        // The neighbour is away from its own driver too, at one that VFIO does not count.
        Code::GroupNotViable => host(|host| {
            host.device(neighbour("0000:42:00.0", 14, "uio_pci_generic"));
        }),
        // Nobody has the group, and one has the device's own file.
        Code::GroupHeld => live(
            |facts| {
                let nic = NIC.address.parse().expect("an address");
                facts.host.group_files.insert(14, Access::Granted);
                facts.host.iommufd = Access::Granted;
                facts.host.device_files.insert(nic, Access::Busy(Option::None));
            },
            |config| config.iommu_backend = IommuBackendConfig::Iommufd,
        ),
        // Alone in its group, because the kernel was told so.
        Code::AcsMissing => files(&[(
            "/proc/cmdline",
            "quiet intel_iommu=on iommu=pt isolcpus=4-7,12-15 pcie_acs_override=downstream",
        )]),
        Code::ResetNone => None("which of the listed resets happens is the plan's, tests/resets"),
        // The first region is harmless.
        Code::Rmrr => files(&[(
            REGIONS,
            "0x1000 0x1fff direct-relaxable\n0x7a000000 0x7a00ffff direct\n\
             0xfee00000 0xfeefffff msi",
        )]),
        // As wide as it can be, and slow.
        Code::LinkReduced => host(|host| {
            host.of(NIC.address, "current_link_speed", "2.5 GT/s PCIe");
        }),
        // The port above it has none either; only numa_node of other cards is set.
        Code::NodeUnknown => host(|host| {
            host.of(NIC.address, "numa_node", "-1").of("0000:40:01.0", "numa_node", "-1");
        }),
        // No page fault, and stopped all the same.
        Code::DmaFaults => files(&[(
            "/var/log/dmesg",
            "DMAR: DRHD: handling fault status reg 2\n\
             DMAR: [INTR-REMAP] Request device [41:00.0] fault index 0x1a",
        )]),
        // A port reports it, and the device is the second word.
        Code::DeviceFailed => files(&[(
            "/var/log/dmesg",
            "pcieport 0000:40:01.0: AER: Uncorrectable (Fatal) error message received from \
             0000:41:00.0",
        )]),
        // It has an address, and is marked as one that it may not keep.
        Code::SriovNoRoom => host(|host| {
            host.of(NIC.address, "resource", &resources("0xc0100000 0xc011bfff 0x2014220c"));
        }),
        // Container and group open.
        Code::VfioAttach => live(
            |facts| {
                facts.host.vfio = Access::Granted;
                facts.host.group_files.insert(14, Access::Granted);
                let reason = "VFIO_SET_IOMMU is refused: Invalid argument".to_owned();
                facts.attached.insert(14, Attach::Refused { reason, errno: Some(libc::EINVAL) });
            },
            |_| (),
        ),
        // Eight are free, and all of them promised.
        Code::HugepagesShort => {
            files(&[("/sys/kernel/mm/hugepages/hugepages-1048576kB/resv_hugepages", "16")])
        }
        // Enough in all.
        Code::HugepagesElsewhere => files(&[(&format!("{POOL}/free_hugepages"), "1")]),
        // Huge pages for processes, and not for shared memory.
        Code::SmallPages => meets(
            |host| {
                host.file("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never");
            },
            |config| *config = super::config("4K", 512),
        ),
        // Only the last page of guest memory.
        Code::IovaHoles => {
            files(&[(REGIONS, "0x7ffff000 0x7fffffff reserved\n0xfee00000 0xfeefffff msi")])
        }
        // One byte less than is locked.
        Code::MemlockLow => files(&[(
            "/proc/self/limits",
            "Max locked memory  2147483647  2147483647  bytes\nMax open files  1024  524288  files",
        )]),
        // As many as services have by default, for a device of many vectors.
        Code::FilesLow => files(&[(
            "/proc/self/limits",
            "Max locked memory  unlimited  unlimited  bytes\nMax open files  64  64  files",
        )]),
        Code::HugepagesLimited => inner_cgroup("hugetlb.1GB.max", "0"),
        Code::MemoryLimited => inner_cgroup("memory.max", "1048576"),
        Code::TasksLimited => inner_cgroup("pids.max", "2"),
        // All but one of those that are not isolated.
        Code::CpuNotAllowed => {
            files(&[("/proc/self/status", "Cpus_allowed_list:\t0-2,4-15\nMems_allowed_list:\t0-1")])
        }
        // One of two is near.
        Code::CpuFar => on([4, 0], |_| ()),
        // Isolated, and the other thread of one is not.
        Code::CpuSmtShared => on([4, 5], |host| {
            host.file("/sys/devices/system/cpu/isolated", "4-7,12");
        }),
        // One of the two threads of the core.
        Code::CpuNotIsolated => files(&[("/sys/devices/system/cpu/isolated", "4-7")]),
        // Only the second vCPU's.
        Code::CpuGovernor => host(|host| {
            host.cpu(12, "cpufreq/scaling_driver", "acpi-cpufreq");
            host.cpu(12, "cpufreq/scaling_governor", "powersave");
        }),
        Code::CpuIdleDeep => host(|host| {
            host.cpu(12, "cpuidle/state3/latency", "133");
        }),
        // Nothing names the kinds; the frequencies tell.
        Code::CpuKindsMixed => on([4, 5], |host| {
            for cpu in [5, 6, 7, 13, 14, 15] {
                host.cpu(cpu, "cpufreq/cpuinfo_max_freq", "2000000");
            }
        }),
        // New interrupts stay away, and one that is there does not.
        Code::IrqOnVcpu => host(|host| {
            host.of(NIC.address, "msi_irqs/77", "msix")
                .file("/proc/irq/77/effective_affinity_list", "4");
        }),
        // Told to spare one of the two.
        Code::Irqbalance => host(|host| {
            host.file("/sys/devices/system/cpu/isolated", "")
                .file("/etc/default/irqbalance", "IRQBALANCE_BANNED_CPULIST=4");
        }),
        Code::VectorsMany => None("a sum is as large as it is"),
        // virtio's driver is built in, and has a device.
        Code::Balloon => host(|host| {
            host.link("/sys/bus/virtio/drivers/virtio_balloon/virtio3", "../../devices/virtio3");
        }),
        Code::Ksm => None("one number is all there is: 2 has ksmd undo what it did and stop"),
        // Only for slower memory, as it is called, and pages are unmapped all the same.
        Code::NumaBalancing => files(&[("/proc/sys/kernel/numa_balancing", "2")]),
        // All that is looked at is sound, and a CPU of the config is not there.
        Code::PlanRefused => on([4, 99], |_| ()),
        _ if code.kind() == Kind::Shortfall => None("a shortfall of a plan: its goldens have it"),
        _ if code.kind() == Kind::Refusal => None("a refusal: nothing passes"),
        _ => panic!("{code} has neither a host that looks sound nor a reason why not"),
    }
}

#[test]
fn no_host_passes_that_only_looks_sound() {
    let mut wrong = Vec::new();
    for &code in Code::ALL {
        let Host(facts, config) = looks_sound(code) else { continue };
        assert_eq!(code.kind(), Kind::Finding, "{code}");
        let report = Report::new(&facts, Some(&config));
        let of_code = report.findings.iter().filter(|finding| finding.code == code);
        let seen: Vec<String> =
            of_code.clone().map(|f| format!("{:?}: {}", f.severity, f.seen)).collect();
        if !of_code.into_iter().any(|finding| finding.severity > Severity::Pass) {
            wrong.push(format!("{code}: {}", seen.join("; ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_has_no_such_host_has_a_reason() {
    let findings = || Code::ALL.iter().filter(|code| code.kind() == Kind::Finding);
    let without: Vec<Code> = findings()
        .copied()
        .filter(|code| matches!(looks_sound(*code), None(reason) if !reason.is_empty()))
        .collect();
    assert_eq!(without, [Code::ResetNone, Code::VectorsMany, Code::Ksm]);
}
