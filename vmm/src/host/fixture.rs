//! Snapshots made by hand, for tests: a server on which nothing is wrong, to be changed.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::tree::{Entry, Found, Tree};
use super::{HostError, Root};

/// A snapshot in memory.
#[derive(Clone, Default)]
pub struct Fixture(Tree);

/// A function of the fixture.
#[derive(Clone, Copy)]
pub struct Device<'a> {
    /// Its address.
    pub address: &'a str,
    /// Folders between `/sys/devices` and it.
    pub path: &'a str,
    /// Vendor and device ID.
    pub id: (u16, u16),
    /// Class code.
    pub class: u32,
    /// Its driver.
    pub driver: &'a str,
    /// Its IOMMU group.
    pub group: u32,
    /// Its node.
    pub node: i32,
}

/// The NIC that guests get.
pub const NIC: Device<'static> = Device {
    address: "0000:41:00.0",
    path: "pci0000:40/0000:40:01.0",
    id: (0x8086, 0x10c9),
    class: 0x02_0000,
    driver: "vfio-pci",
    group: 14,
    node: 1,
};

impl Fixture {
    /// Two sockets of four cores with two threads each, a NIC for guests on the second, and on the
    /// first a disk, a NIC and a display of the host's own.
    pub fn server() -> Self {
        let mut host = Self::default();
        for (path, text) in SERVER {
            host.file(path, text);
        }
        for cpu in 0..16 {
            let folder = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
            let core = cpu % 8;
            host.file(&format!("{folder}/thread_siblings_list"), &format!("{core},{}", core + 8));
            let node = core / 4;
            let near = if node == 0 { "0-3,8-11" } else { "4-7,12-15" };
            host.file(&format!("{folder}/physical_package_id"), &node.to_string());
            host.file(&format!("{folder}/package_cpus_list"), near);
            let folder = format!("/sys/devices/system/cpu/cpu{cpu}");
            for (name, text) in [
                ("cache/index3/level", "3"),
                ("cache/index3/shared_cpu_list", near),
                ("cpufreq/affected_cpus", &cpu.to_string()),
                ("cpufreq/cpuinfo_max_freq", "3500000"),
                ("cpufreq/scaling_driver", "intel_pstate"),
                ("cpufreq/scaling_governor", "performance"),
                ("cpuidle/state1/name", "C1"),
                ("cpuidle/state1/latency", "2"),
            ] {
                host.file(&format!("{folder}/{name}"), text);
            }
        }
        for node in 0..2 {
            let folder = format!("/sys/devices/system/node/node{node}");
            let first = node * 4;
            let cpus = format!("{first}-{},{}-{}", first + 3, first + 8, first + 11);
            host.file(&format!("{folder}/cpulist"), &cpus);
            host.file(&format!("{folder}/distance"), if node == 0 { "10 21" } else { "21 10" });
            let total = 32 << 20;
            let meminfo =
                format!("Node {node} MemTotal: {total} kB\nNode {node} MemFree: {total} kB");
            host.file(&format!("{folder}/meminfo"), &meminfo);
            for (size, pages) in [("2048kB", "0"), ("1048576kB", "8")] {
                let pool = format!("{folder}/hugepages/hugepages-{size}");
                host.file(&format!("{pool}/nr_hugepages"), pages);
                host.file(&format!("{pool}/free_hugepages"), pages);
                host.file(
                    &format!("/sys/kernel/mm/hugepages/hugepages-{size}/resv_hugepages"),
                    "0",
                );
            }
        }
        let own = |address, path, class, driver, group| Device {
            address,
            path,
            id: (0x8086, 0x1572),
            class,
            driver,
            group,
            node: 0,
        };
        let port = |address, path, group| own(address, path, 0x06_0400, "pcieport", group);
        host.device(port("0000:00:01.0", "pci0000:00", 1));
        host.device(own("0000:01:00.0", "pci0000:00/0000:00:01.0", 0x01_0802, "nvme", 3));
        host.device(own("0000:00:1f.6", "pci0000:00", 0x02_0000, "e1000e", 4));
        host.device(own("0000:00:02.0", "pci0000:00", 0x03_0000, "i915", 5));
        host.device(Device { node: 1, ..port("0000:40:01.0", "pci0000:40", 13) });
        host.device(NIC);
        host.of(NIC.address, "driver_override", "vfio-pci");
        host.of(NIC.address, "sriov_numvfs", "0");
        host.of(NIC.address, "sriov_totalvfs", "7");
        host.of(NIC.address, "resource", &resources(SRIOV_BAR));
        host.of("0000:00:02.0", "boot_vga", "1");
        host.of("0000:00:1f.6", "net/eno1/ifindex", "2");
        host.link(
            "/sys/class/block/nvme0n1p1",
            "../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p1",
        );
        host.file(
            "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p1/dev",
            "259:1",
        );
        host
    }

    /// Puts a file there.
    pub fn file(&mut self, path: &str, text: &str) -> &mut Self {
        self.0.remove(Path::new(path));
        self.0.insert(Path::new(path), Entry::File(format!("{text}\n").into_bytes()));
        self
    }

    /// Puts bytes there.
    pub fn bytes(&mut self, path: &str, bytes: Vec<u8>) -> &mut Self {
        self.0.remove(Path::new(path));
        self.0.insert(Path::new(path), Entry::File(bytes));
        self
    }

    /// Puts a symbolic link there.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.0.remove(Path::new(path));
        self.0.insert(Path::new(path), Entry::Link(PathBuf::from(target)));
        self
    }

    /// Takes away what is there.
    pub fn remove(&mut self, path: &str) -> &mut Self {
        self.0.remove(Path::new(path));
        self
    }

    /// Puts a file of a CPU there.
    pub fn cpu(&mut self, cpu: u32, name: &str, text: &str) -> &mut Self {
        self.file(&format!("/sys/devices/system/cpu/cpu{cpu}/{name}"), text)
    }

    /// Puts an attribute of a function there.
    pub fn of(&mut self, address: &str, name: &str, text: &str) -> &mut Self {
        let path = self.folder(address);
        self.file(&format!("{path}/{name}"), text)
    }

    /// Takes an attribute of a function away.
    pub fn without(&mut self, address: &str, name: &str) -> &mut Self {
        let path = self.folder(address);
        self.remove(&format!("{path}/{name}"))
    }

    /// Binds a function to another driver, or to none.
    pub fn bind(&mut self, address: &str, driver: &str) -> &mut Self {
        let link = format!("{}/driver", self.folder(address));
        if driver.is_empty() {
            return self.remove(&link);
        }
        self.link(&link, &format!("/sys/bus/pci/drivers/{driver}"));
        // What drives a NIC makes an interface of it, unless that is somewhere else.
        let class = format!("{}/class", self.folder(address));
        let is_nic = matches!(self.0.get(Path::new(&class)), Some(Found::File(text)) if text.starts_with(b"0x02"));
        let name = format!("net/en{}", address.replace([':', '.'], ""));
        match is_nic && !driver.contains("vfio") {
            true => self.of(address, &format!("{name}/ifindex"), "9"),
            false => self,
        }
    }

    /// Adds a function.
    pub fn device(&mut self, device: Device) -> &mut Self {
        let Device { address, path, id, class, driver, group, node } = device;
        let link = format!("/sys/bus/pci/devices/{address}");
        self.link(&link, &format!("../../../devices/{path}/{address}"));
        let (vendor, device) = id;
        for (name, text) in [
            ("vendor", format!("{vendor:#06x}")),
            ("device", format!("{device:#06x}")),
            ("subsystem_vendor", format!("{vendor:#06x}")),
            ("subsystem_device", "0xa03c".to_owned()),
            ("class", format!("{class:#08x}")),
            ("numa_node", node.to_string()),
            ("reset_method", "flr bus".to_owned()),
            ("enable", "0".to_owned()),
            ("current_link_speed", "8.0 GT/s PCIe".to_owned()),
            ("max_link_speed", "8.0 GT/s PCIe".to_owned()),
            ("current_link_width", "4".to_owned()),
            ("max_link_width", "4".to_owned()),
            ("modalias", format!("pci:v{vendor:08X}d{device:08X}sv00000000sd00000000bc02sc00i00")),
            ("resource", "0x00000000c0000000 0x00000000c001ffff 0x0000000000040200".to_owned()),
        ] {
            self.of(address, name, &text);
        }
        let folder = self.folder(address);
        self.bytes(&format!("{folder}/config"), msix(10));
        self.link(&format!("{folder}/iommu_group"), &format!("/sys/kernel/iommu_groups/{group}"));
        self.join(address, group).bind(address, driver)
    }

    /// Makes a function a member of a group.
    pub fn join(&mut self, address: &str, group: u32) -> &mut Self {
        let folder = self.folder(address);
        self.link(&format!("{folder}/iommu_group"), &format!("/sys/kernel/iommu_groups/{group}"));
        let groups = format!("/sys/kernel/iommu_groups/{group}");
        self.link(&format!("{groups}/devices/{address}"), &folder);
        self.file(&format!("{groups}/type"), "identity");
        self.file(
            &format!("{groups}/reserved_regions"),
            "0x00000000fee00000 0x00000000feefffff msi",
        )
    }

    /// The same as a root.
    pub fn root(&self) -> Root {
        Root::of(self.0.clone())
    }

    fn folder(&self, address: &str) -> String {
        let link = Path::new("/sys/bus/pci/devices").join(address);
        match self.0.get(&link) {
            Some(Found::Link(target)) => {
                format!("/sys/{}", target.strip_prefix("../../..").unwrap_or(target).display())
            }
            _ => link.display().to_string(),
        }
    }
}

/// Compares a text with the file at `path` below `vmm/src`, which `BERTH_UPDATE_GOLDEN` rewrites.
pub fn golden(path: &str, text: &str) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "src", path].iter().collect();
    if std::env::var_os("BERTH_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the source tree is writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{}", path.display());
}

/// The first BAR of a card's virtual functions, with an address.
pub const SRIOV_BAR: &str = "0xc0100000 0xc011bfff 0x14220c";

/// The file `resource` of a card with a BAR of its own, and `line` for the first one of its virtual
/// functions, which is the eighth.
pub fn resources(line: &str) -> String {
    let mut lines = [("0x0 0x0 0x0"); 13];
    lines[0] = "0xc0000000 0xc001ffff 0x40200";
    lines[7] = line;
    lines.join("\n")
}

/// Configuration space with nothing but an MSI-X table of `vectors`.
fn msix(vectors: u8) -> Vec<u8> {
    let mut config = vec![0; 4096];
    config[0x06] = 0x10;
    config[0x34] = 0x70;
    config[0x70..0x74].copy_from_slice(&[0x11, 0x00, vectors - 1, 0x80]);
    config
}

const SERVER: [(&str, &str); 36] = [
    ("/etc/os-release", "ID=debian"),
    ("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"\""),
    ("/etc/default/irqbalance", "IRQBALANCE_BANNED_CPULIST=4-7,12-15"),
    ("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=8086:10c9\nsoftdep igb pre: vfio-pci"),
    (
        "/lib/modules/6.12.9-amd64/modules.dep",
        "kernel/drivers/vfio/pci/vfio-pci.ko.xz:\nkernel/drivers/vfio/vfio_iommu_type1.ko.xz:\nkernel/arch/x86/kvm/kvm-intel.ko.xz:",
    ),
    ("/lib/modules/6.12.9-amd64/modules.alias", "alias pci:v00008086d000010C9sv*sd*bc*sc*i* igb"),
    ("/proc/cmdline", "quiet intel_iommu=on iommu=pt isolcpus=4-7,12-15"),
    (
        "/proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx pdpe1gb\naddress sizes\t: 46 bits physical, 48 bits virtual",
    ),
    ("/proc/interrupts", "  CPU0\n 4:  9  IR-IO-APIC  4-edge  ttyS0"),
    ("/proc/irq/default_smp_affinity", "0f0f"),
    (
        "/proc/net/route",
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neno1\t00000000\t010200C0\t0003\t0\t0\t0\t00000000",
    ),
    ("/proc/net/if_inet6", "fe800000000000000000000000000001 02 40 20 80 eno1"),
    (
        "/proc/self/limits",
        "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         8388608              unlimited            bytes\nMax open files            1024                 524288               files",
    ),
    ("/proc/self/mountinfo", "1 0 259:1 / / rw - ext4 /dev/nvme0n1p1 rw"),
    (
        "/proc/self/status",
        "CapEff:\t0000000000000000\nCpus_allowed_list:\t0-15\nMems_allowed_list:\t0-1",
    ),
    ("/proc/swaps", "Filename\tType"),
    ("/proc/sys/kernel/numa_balancing", "0"),
    ("/proc/sys/kernel/osrelease", "6.12.9-amd64"),
    ("/sys/bus/pci/drivers/vfio-pci/bind", ""),
    ("/sys/class/iommu/dmar0/intel-iommu/cap", "d2008c222f0686"),
    ("/sys/devices/system/cpu/cpuidle/current_driver", "intel_idle"),
    ("/sys/devices/system/cpu/nohz_full", "4-7,12-15"),
    ("/sys/fs/cgroup/cpuset.cpus.effective", "0-15"),
    ("/sys/devices/system/cpu/isolated", "4-7,12-15"),
    ("/sys/devices/system/cpu/online", "0-15"),
    ("/sys/devices/system/node/online", "0-1"),
    ("/sys/firmware/acpi/tables/DMAR", ""),
    ("/sys/fs/cgroup/system.slice/irqbalance.service/cgroup.procs", ""),
    ("/sys/kernel/mm/ksm/run", "0"),
    (
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always within_size advise [never] deny force",
    ),
    ("/sys/kernel/security/lockdown", "[none] integrity confidentiality"),
    ("/sys/module/kvm_intel/refcnt", "0"),
    ("/sys/module/vfio_pci/refcnt", "0"),
    ("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N"),
    ("/usr/sbin/update-initramfs", ""),
    ("/var/log/dmesg", "[    0.1] DMAR: IOMMU enabled"),
];

/// The kind of tree that hwloc-gather-topology keeps: masks rather than lists, no lists of what is
/// online, a folder of its own, and nothing of IOMMUs, drivers or processes.
pub fn gathered() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut file = |path: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o444);
        let path = format!("./some-host/{path}");
        archive.append_data(&mut header, path, text.as_bytes()).expect("memory takes all");
    };
    for cpu in 0..4 {
        let mask = if cpu % 2 == 0 { "00000000,00000005\n" } else { "00000000,0000000a\n" };
        file(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings"), mask);
    }
    for (node, mask) in [(0, "00000000,00000005\n"), (1, "00000000,0000000a\n")] {
        let folder = format!("sys/devices/system/node/node{node}");
        file(&format!("{folder}/cpumap"), mask);
        file(&format!("{folder}/meminfo"), &format!("Node {node} MemTotal: 8388608 kB\n"));
        for name in ["nr_hugepages", "free_hugepages"] {
            file(&format!("{folder}/hugepages/hugepages-1048576kB/{name}"), "4\n");
        }
    }
    file("sys/kernel/mm/hugepages/hugepages-1048576kB/resv_hugepages", "0\n");
    file("proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\n\n");
    let folder = "sys/devices/pci0000:40/0000:41:00.0";
    for (name, text) in [("vendor", "0x8086\n"), ("class", "0x020000\n"), ("numa_node", "1\n")] {
        file(&format!("{folder}/{name}"), text);
    }
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    let at = "./some-host/sys/bus/pci/devices/0000:41:00.0";
    let target = "../../../devices/pci0000:40/0000:41:00.0";
    archive.append_link(&mut link, at, target).expect("memory takes all");
    let bytes = archive.into_inner().expect("memory takes all");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&bytes).expect("memory takes all");
    bzip2.finish().expect("memory takes all")
}

/// The host in the archive `bytes`.
pub fn archive(bytes: &[u8]) -> Result<Root, HostError> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("a file");
    Root::open(file.path())
}
