//! What the host itself uses a PCI function for, and so would lose with it.
//!
//! Read from sysfs and procfs alone, so that a snapshot answers too. An interface that has an
//! address but is down, or that only has the link-local address which comes by itself, is idle.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use berth_devices::pci::Bdf;
use serde::Serialize;

use super::access::{Access, Holder};
use super::pci::PciFunction;
use super::root::Root;
use super::{HostError, pci};

/// One use of a function by the host or by another process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "use", rename_all = "snake_case")]
pub enum Use {
    /// The way to everywhere leads through its interface.
    DefaultRoute {
        /// The interface.
        interface: String,
    },
    /// Its interface is up and has an address.
    Address {
        /// The interface.
        interface: String,
        /// The network it is on.
        network: String,
    },
    /// Its interface is a port of a bridge, a bond or a team.
    Port {
        /// The interface.
        interface: String,
        /// The bridge or bond.
        of: String,
    },
    /// A file system on its disk is mounted.
    Mount {
        /// The disk or partition.
        disk: String,
        /// Where.
        at: String,
    },
    /// The host swaps to its disk.
    Swap {
        /// The disk or partition.
        disk: String,
    },
    /// Its disk is part of a volume: LVM, RAID, encryption.
    Volume {
        /// The disk or partition.
        disk: String,
        /// The volume.
        of: String,
    },
    /// A process has it open through VFIO.
    Vfio {
        /// Its IOMMU group.
        group: u32,
        /// The process, where it can be seen.
        holder: Option<(u32, String)>,
    },
    /// The firmware and the host's console draw on it.
    BootDisplay,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultRoute { interface } => {
                write!(f, "the default route goes through {interface}")
            }
            Self::Address { interface, network } => {
                write!(f, "{interface} is up, with an address in {network}")
            }
            Self::Port { interface, of } => write!(f, "{interface} is a port of {of}"),
            Self::Mount { disk, at } => write!(f, "{disk} is mounted on {at}"),
            Self::Swap { disk } => write!(f, "{disk} is swap space"),
            Self::Volume { disk, of } => write!(f, "{disk} is part of {of}"),
            Self::Vfio { group, holder: Some((pid, comm)) } => {
                write!(f, "process {pid} ({comm}) has /dev/vfio/{group} open")
            }
            Self::Vfio { group, holder: None } => {
                write!(f, "another process has /dev/vfio/{group} open")
            }
            Self::BootDisplay => f.write_str("it is the host's boot display"),
        }
    }
}

/// All uses of the function at `address`.
pub(super) fn uses(
    root: &Root,
    address: Bdf,
    function: &PciFunction,
) -> Result<Vec<Use>, HostError> {
    let mut uses = Vec::new();
    let folder = format!("{}/{address}", pci::DEVICES);
    for interface in root.names(format!("{folder}/net"))? {
        network_uses(root, &interface, &mut uses)?;
    }
    disk_uses(root, address, &mut uses)?;
    if let Some(group) = function.group.filter(|_| function.is_bound_to_vfio())
        && let Access::Busy(holder) = Access::probe(root, &format!("/dev/vfio/{group}"))
    {
        let holder = holder.map(|Holder { pid, comm }| (pid, comm));
        uses.push(Use::Vfio { group, holder });
    }
    if root.text(format!("{folder}/boot_vga"))?.as_deref() == Some("1") {
        uses.push(Use::BootDisplay);
    }
    uses.sort();
    uses.dedup();
    Ok(uses)
}

/// The kernel lists only routes of interfaces that are up, and gives an interface with an address
/// a route to its network.
fn network_uses(root: &Root, interface: &str, uses: &mut Vec<Use>) -> Result<(), HostError> {
    let named = || interface.to_owned();
    if let Some(of) = root.link_name(format!("/sys/class/net/{interface}/master")) {
        uses.push(Use::Port { interface: named(), of });
    }
    // "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU ...", numbers in hexadecimal
    // and in the order of the host's bytes.
    for line in root.text("/proc/net/route")?.unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words.get(at).unwrap_or(&""), 16).ok();
        let (Some(&name), Some(network), Some(mask)) = (words.first(), number(1), number(7)) else {
            continue;
        };
        if name == interface && mask == 0 {
            uses.push(Use::DefaultRoute { interface: named() });
        } else if name == interface {
            let [a, b, c, d] = network.to_le_bytes();
            let network = format!("{a}.{b}.{c}.{d}/{}", mask.count_ones());
            uses.push(Use::Address { interface: named(), network });
        }
    }
    // "fe80...  index length scope flags name"; scope 20 is the link's own.
    for line in root.text("/proc/net/if_inet6")?.unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [address, _, length, scope, _, name] = words[..]
            && name == interface
            && scope != "20"
        {
            let groups: Vec<&str> = address.as_bytes().chunks(4).flat_map(str::from_utf8).collect();
            let length = u8::from_str_radix(length, 16).unwrap_or_default();
            let network = format!("{}/{length}", groups.join(":"));
            uses.push(Use::Address { interface: named(), network });
        }
    }
    Ok(())
}

fn disk_uses(root: &Root, address: Bdf, uses: &mut Vec<Use>) -> Result<(), HostError> {
    const BLOCK: &str = "/sys/class/block";

    let subsystems = nvme_subsystems(root, address)?;
    let mut disks = Vec::new();
    for name in root.names(BLOCK)? {
        let Ok(target) = fs::read_link(root.path(format!("{BLOCK}/{name}"))) else { continue };
        let is_ours = |part: &str| part == address.to_string() || subsystems.contains(part);
        if target.iter().any(|part| part.to_str().is_some_and(is_ours)) {
            disks.push(name);
        }
    }
    if disks.is_empty() {
        return Ok(());
    }
    let mounts = root.text("/proc/self/mountinfo")?.unwrap_or_default();
    let swaps = root.text("/proc/swaps")?.unwrap_or_default();
    for disk in disks {
        let number = root.text(format!("{BLOCK}/{disk}/dev"))?.unwrap_or_default();
        for line in mounts.lines() {
            // "ID PARENT MAJOR:MINOR ROOT MOUNT_POINT ... - TYPE SOURCE OPTIONS"; file systems
            // with numbers of their own, such as btrfs, only have the source.
            let words: Vec<&str> = line.split(' ').collect();
            let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1));
            let by_source = source == Some(format!("/dev/{disk}").as_str());
            if let (Some(&at_number), Some(&at)) = (words.get(2), words.get(4))
                && (at_number == number || by_source)
            {
                uses.push(Use::Mount { disk: disk.clone(), at: at.to_owned() });
            }
        }
        let path = format!("/dev/{disk}");
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(path.as_str())) {
            uses.push(Use::Swap { disk: disk.clone() });
        }
        for of in root.names(format!("{BLOCK}/{disk}/holders"))? {
            uses.push(Use::Volume { disk: disk.clone(), of });
        }
    }
    Ok(())
}

/// With NVMe's own multipathing a disk hangs below its subsystem, not below the PCI function.
fn nvme_subsystems(root: &Root, address: Bdf) -> Result<BTreeSet<String>, HostError> {
    const SUBSYSTEMS: &str = "/sys/class/nvme-subsystem";

    let controllers = root.names(format!("{}/{address}/nvme", pci::DEVICES))?;
    let mut subsystems = BTreeSet::new();
    if !controllers.is_empty() {
        for name in root.names(SUBSYSTEMS)? {
            let has = |controller: &String| {
                root.exists(Path::new(SUBSYSTEMS).join(&name).join(controller))
            };
            if controllers.iter().any(has) {
                subsystems.insert(name);
            }
        }
    }
    Ok(subsystems)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NIC: &str = "sys/bus/pci/devices/0000:21:00.0";
    const NVME: &str = "sys/bus/pci/devices/0000:22:00.0";

    /// What the host uses the function for whose `sysfs` folder is given.
    fn found(sysfs: &str, files: &[(&str, &str)], links: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            path
        };
        fs::write(place(&format!("{sysfs}/vendor")), "0x8086\n").expect("a file");
        for (path, text) in files {
            fs::write(place(path), text).expect("a file");
        }
        for (path, target) in links {
            symlink(target, place(path)).expect("a link");
        }
        let root = Root::new(folder.path());
        let address = sysfs.rsplit('/').next().expect("a name").parse().expect("an address");
        let function = PciFunction::read(&root, address).expect("readable").expect("there");
        let uses = uses(&root, address, &function).expect("readable");
        uses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_interface_with_routes_and_addresses_is_in_use() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                      eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\n\
                      eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n\
                      eth1\t0003000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n";
        let addresses = "fe800000000000005054000000123456 02 40 20 80     eth0\n\
                         20010db8000000000000000000000001 02 40 00 80     eth0\n";
        let interface = format!("{NIC}/net/eth0/mtu");
        let files = [
            (interface.as_str(), "1500\n"),
            ("proc/net/route", routes),
            ("proc/net/if_inet6", addresses),
        ];
        assert_eq!(
            found(NIC, &files, &[("sys/class/net/eth0/master", "../br0")]),
            [
                "the default route goes through eth0",
                "eth0 is up, with an address in 10.0.2.0/24",
                "eth0 is up, with an address in 2001:0db8:0000:0000:0000:0000:0000:0001/64",
                "eth0 is a port of br0",
            ]
        );
        let link_local = ("proc/net/if_inet6", addresses.lines().next().expect("a line"));
        assert_eq!(found(NIC, &[files[0], link_local], &[]), [""; 0]);
    }

    #[test]
    fn a_disk_is_in_use_by_its_parts() {
        let mounts = "22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n\
                      23 1 0:30 / /data rw - btrfs /dev/nvme0n1p3 rw\n\
                      24 1 8:1 / /other rw - ext4 /dev/sda1 rw\n";
        let files = [
            ("proc/self/mountinfo", mounts),
            ("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p4 partition 1 0 -2\n"),
            ("sys/devices/0000:22:00.0/nvme0n1p2/dev", "259:2\n"),
            ("sys/devices/0000:22:00.0/nvme0n1p1/dev", "259:1\n"),
            ("sys/devices/0000:22:00.0/nvme0n1p1/holders/dm-0/dev", ""),
        ];
        let part = |part: u32| {
            let link = format!("sys/class/block/nvme0n1p{part}");
            (link, format!("../../devices/0000:22:00.0/nvme0n1p{part}"))
        };
        let parts: Vec<(String, String)> = (1..5).map(part).collect();
        let mut links: Vec<(&str, &str)> =
            parts.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        links.push(("sys/class/block/sda1", "../../devices/0000:23:00.0/sda1"));
        let expected = [
            "nvme0n1p2 is mounted on /",
            "nvme0n1p3 is mounted on /data",
            "nvme0n1p4 is swap space",
            "nvme0n1p1 is part of dm-0",
        ];
        assert_eq!(found(NVME, &files, &links), expected);
    }

    #[test]
    fn a_multipath_disk_belongs_to_its_controllers() {
        let controller = format!("{NVME}/nvme/nvme0/model");
        let head = "sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1";
        let dev = format!("{head}/dev");
        let files = [
            (controller.as_str(), ""),
            (dev.as_str(), "259:0\n"),
            ("sys/class/nvme-subsystem/nvme-subsys0/nvme0/model", ""),
            ("proc/self/mountinfo", "22 1 259:0 / / rw - ext4 /dev/root rw\n"),
        ];
        let link = format!("../../../{head}");
        let links = [("sys/class/block/nvme0n1", link.as_str())];
        assert_eq!(found(NVME, &files, &links), ["nvme0n1 is mounted on /"]);
    }

    #[test]
    fn the_boot_display_is_in_use() {
        let file = format!("{NIC}/boot_vga");
        assert_eq!(found(NIC, &[(&file, "1\n")], &[]), ["it is the host's boot display"]);
        assert_eq!(found(NIC, &[(&file, "0\n")], &[]), [""; 0]);
    }
}
