//! Listings of snapshots made by hand.

mod in_use;

use super::*;
use crate::host::fixture::{Device as Function, Fixture, NIC, golden};

/// A function, what stands in its way, and what makes it so.
type Case<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Fixture));

fn listing(change: impl FnOnce(&mut Fixture)) -> DeviceList {
    let mut host = Fixture::server();
    change(&mut host);
    let inventory = Functions::read_all(&host.root()).expect("an inventory");
    DeviceList::new(&inventory, &Names::default(), Vec::new())
}

fn judged(listing: &DeviceList, address: &str) -> (State, Vec<String>) {
    let address = address.parse().expect("an address");
    let device = listing.devices.iter().find(|device| device.address == address);
    let device = device.expect("a device");
    (device.state, device.obstacles.clone())
}

#[test]
fn what_the_host_uses_is_not_free() {
    let listing = listing(|_| ());
    assert_eq!(judged(&listing, NIC.address), (State::Ready, vec![]));
    for (address, obstacle) in [
        ("0000:01:00.0", "holds nvme0n1p1, mounted on /"),
        ("0000:00:1f.6", "is eno1, which the default route uses"),
        ("0000:00:02.0", "is the display that the host booted on"),
    ] {
        assert_eq!(judged(&listing, address), (State::InUse, vec![obstacle.to_owned()]));
    }
    // The two ports are the host's own.
    assert_eq!(listing.devices.len(), 4);
}

#[test]
fn nothing_is_ready_on_a_host_of_another_kind() {
    let mut host = Fixture::server();
    host.file("/proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41");
    host.device(Function { address: "0000:41:00.1", group: 15, driver: "", ..NIC });
    let foreign = host.root().foreign();
    assert_eq!(foreign.as_deref(), Some("aarch64"));
    let inventory = Functions::read_all(&host.root()).expect("an inventory");
    let listing = DeviceList::new(&inventory, &Names::default(), Vec::new()).on(foreign);
    let states: Vec<State> = listing.devices.iter().map(|device| device.state).collect();
    assert!(!states.contains(&State::Ready) && !states.contains(&State::Free), "{states:?}");
    let text = listing.to_string();
    assert!(text.starts_with("this is a host of another kind (aarch64)"), "{text}");
    assert_eq!(text.matches("aarch64").count(), 1);

    let here = DeviceList::new(&inventory, &Names::default(), Vec::new()).on(None);
    assert!(!here.to_string().contains("another kind"));
    assert!(here.devices.iter().any(|device| device.state == State::Ready));
    assert_eq!(Fixture::server().root().foreign(), None);
}

#[test]
fn text_is_as_the_readme_shows_it() {
    let mut host = Fixture::server();
    host.of(NIC.address, "current_link_width", "1");
    host.device(Function { address: "0000:41:00.1", group: 15, driver: "igb", ..NIC });
    let inventory = Functions::read_all(&host.root()).expect("an inventory");
    let names = "8086  Intel Corporation\n\t10c9  82576 Gigabit Network Connection\n";
    let listing = DeviceList::new(&inventory, &Names::parse(names), Vec::new());
    let text = anstream::adapter::strip_str(&listing.to_string()).to_string();
    golden("device_list/golden/server.txt", &text);
}

#[test]
fn every_use_is_seen() {
    let disk = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p1";
    let cases: [Case; 11] = [
        ("0000:00:1f.6", "is eno1, part of br0", &|host| {
            host.remove("/proc/net/route").link("/sys/class/net/eno1/master", "../br0");
        }),
        ("0000:00:1f.6", "is eno1, which has an address or a route", &|host| {
            host.remove("/proc/net/route")
                .file("/proc/net/if_inet6", "20010db8000000000000000000000001 02 40 00 80 eno1");
        }),
        ("0000:01:00.0", "holds nvme0n1p1, used as swap", &|host| {
            host.remove("/proc/self/mountinfo")
                .file("/proc/swaps", "Filename\n/dev/nvme0n1p1 partition");
        }),
        ("0000:01:00.0", "holds nvme0n1p1, mounted on /data", &|host| {
            host.file("/proc/self/mountinfo", "1 0 0:31 / /data rw - btrfs /dev/nvme0n1p1 rw");
        }),
        ("0000:01:00.0", "holds dm-0, mounted on /", &|host| {
            host.file("/proc/self/mountinfo", "1 0 253:0 / / rw - ext4 /dev/mapper/root rw")
                .link("/sys/class/block/dm-0", "../../devices/virtual/block/dm-0")
                .file("/sys/devices/virtual/block/dm-0/dev", "253:0")
                .link(&format!("{disk}/holders/dm-0"), "/sys/devices/virtual/block/dm-0");
        }),
        ("0000:01:00.0", "holds nvme0n1p1, part of md0", &|host| {
            host.remove("/proc/self/mountinfo").link(&format!("{disk}/holders/md0"), "/sys/x");
        }),
        ("0000:01:00.0", "holds nvme1n1, mounted on /srv", &|host| {
            let subsystem = "/sys/devices/virtual/nvme-subsystem/nvme-subsys1";
            host.file("/proc/self/mountinfo", "1 0 259:7 / /srv rw - xfs /dev/nvme1n1 rw")
                .link(
                    "/sys/class/block/nvme1n1",
                    "../../devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1",
                )
                .file(&format!("{subsystem}/nvme1n1/dev"), "259:7")
                .link(
                    "/sys/class/nvme-subsystem/nvme-subsys1",
                    "../../devices/virtual/nvme-subsystem/nvme-subsys1",
                )
                .link(
                    &format!("{subsystem}/nvme1"),
                    "../../../pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme1",
                );
        }),
        ("0000:00:1f.6", "holds lab, mounted on /lab", &|host| {
            host.remove("/proc/net/route").bind("0000:00:1f.6", "virtio-pci");
            host.of("0000:00:1f.6", "virtio3/mount_tag", "lab\0")
                .file("/proc/self/mountinfo", "1 0 0:31 / /lab ro - 9p lab ro,trans=virtio");
        }),
        ("0000:00:1f.6", "holds share, mounted on /s", &|host| {
            host.remove("/proc/net/route").bind("0000:00:1f.6", "virtio-pci");
            host.of("0000:00:1f.6", "virtio3/features", "")
                .file("/proc/self/mountinfo", "1 0 0:31 / /s rw - virtiofs share rw")
                .file("/sys/fs/virtiofs/0/tag", "share")
                .link("/sys/fs/virtiofs/0/device", "../../../devices/x/virtio3");
        }),
        ("0000:41:00.0", "is open in another process", &|host| {
            host.of(NIC.address, "enable", "1");
        }),
        ("0000:41:00.0", "has 0000:42:10.0, which a guest uses", &|host| {
            host.device(Function { address: "0000:42:10.0", group: 15, ..NIC }).of(
                "0000:42:10.0",
                "enable",
                "1",
            );
            let folder = "/sys/devices/pci0000:40/0000:40:01.0/0000:42:10.0";
            host.link(&format!("{folder}/physfn"), "../0000:41:00.0");
            let physical = "/sys/devices/pci0000:40/0000:40:01.0/0000:41:00.0";
            host.link(&format!("{physical}/virtfn0"), "../0000:42:10.0");
        }),
    ];
    for (address, obstacle, change) in cases {
        let listing = listing(change);
        assert_eq!(judged(&listing, address), (State::InUse, vec![obstacle.to_owned()]));
    }
}

#[test]
fn groups_and_iommus_stand_in_the_way() {
    let shared = listing(|host| {
        host.bind(NIC.address, "igb").join("0000:01:00.0", 14);
    });
    let obstacle = "shares its group with 0000:01:00.0, which holds nvme0n1p1, mounted on /";
    assert_eq!(judged(&shared, NIC.address), (State::GroupInUse, vec![obstacle.to_owned()]));
    let off = listing(|host| {
        host.without(NIC.address, "iommu_group");
    });
    assert_eq!(judged(&off, NIC.address).0, State::NoIommu);
    let free = listing(|host| {
        host.bind(NIC.address, "igb");
    });
    assert_eq!(judged(&free, NIC.address).0, State::Free);
}

#[test]
fn a_function_is_described() {
    let listing = listing(|host| {
        host.of(NIC.address, "current_link_width", "1");
    });
    let nic = listing.devices.last().expect("the NIC");
    assert_eq!(nic.sriov.map(|sriov| (sriov.now, sriov.max)), Some((0, 7)));
    assert_eq!((nic.vendor.as_str(), nic.class.as_str()), ("8086", "020000"));
    assert!(!nic.link.as_ref().expect("a link").is_full());
    let text = anstream::adapter::strip_str(&listing.to_string()).to_string();
    let line = text.lines().last().expect("a line");
    assert_eq!(
        line,
        "0000:41:00.0  1     14     vfio-pci  0 of 7  8.0 x1 of 8.0 x4  flr,bus  ready   \
         Ethernet controller [8086:10c9]"
    );
}
