//! Every kind of use that the kernel knows of, on snapshots made by hand.

use super::{State, judged, listing};
use crate::host::fixture::{Device as Function, Fixture, NIC};

const OWN_NIC: &str = "0000:00:1f.6";
const DRIVE: &str = "0000:01:00.0";
const GPU: &str = "0000:00:02.0";

/// A function, what is said of it, and what makes it so.
type Case<'a> = (&'a str, State, &'a str, &'a dyn Fn(&mut Fixture));

fn check(cases: &[Case]) {
    for (address, state, obstacle, change) in cases {
        let (judged, obstacles) = judged(&listing(change), address);
        assert_eq!(judged, *state, "{address}: {obstacles:?}");
        let said = obstacles.join("\n");
        assert!(said.contains(obstacle), "{address}: {said}, not {obstacle}");
    }
}

fn route(host: &mut Fixture, interface: &str) {
    let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask";
    let line = format!("{interface}\t00000000\t010200C0\t0003\t0\t0\t0\t00000000");
    host.file("/proc/net/route", &format!("{head}\n{line}"));
}

/// `upper` stands on `lower`.
fn stack(host: &mut Fixture, lower: &str, upper: &str) {
    host.file(&format!("/sys/class/net/{upper}/ifindex"), "7");
    host.link(&format!("/sys/class/net/{lower}/upper_{upper}"), &format!("../{upper}"));
}

/// Nothing is mounted of the drive, and all processes were seen.
fn idle_drive(host: &mut Fixture) {
    host.remove("/proc/self/mountinfo").file("/berth/in-use", "processes all\nunclaimed nvme0n1p1");
}

/// The display is not the console's, and has a node.
fn idle_gpu(host: &mut Fixture) {
    host.without(GPU, "boot_vga").of(GPU, "drm/renderD128/dev", "226:128");
}

/// The NIC without an interface, with another driver or none.
fn without_interface(host: &mut Fixture, driver: &str) {
    host.remove("/proc/net/route").bind(OWN_NIC, driver).without(OWN_NIC, "net");
}

#[test]
fn interfaces_are_followed_to_what_stands_on_them() {
    check(&[
        (OWN_NIC, State::InUse, "is eno1, below mv0, which the default route uses", &|host| {
            stack(host, "eno1", "mv0");
            route(host, "mv0");
        }),
        (OWN_NIC, State::InUse, "is eno1, below bond0.5, which the default route uses", &|host| {
            stack(host, "eno1", "bond0");
            stack(host, "bond0", "bond0.5");
            host.link("/sys/class/net/eno1/master", "../bond0");
            route(host, "bond0.5");
        }),
        // A guest of somebody else's has it through a macvtap.
        (OWN_NIC, State::InUse, "is eno1, below macvtap0", &|host| {
            stack(host, "eno1", "macvtap0");
            host.remove("/proc/net/route");
        }),
        // Stacks that lead in a circle end.
        (OWN_NIC, State::InUse, "is eno1, below a", &|host| {
            stack(host, "eno1", "a");
            stack(host, "a", "eno1");
            stack(host, "a", "a");
            host.remove("/proc/net/route");
        }),
        (OWN_NIC, State::Free, "", &|host| {
            host.remove("/proc/net/route");
        }),
    ]);
}

#[test]
fn an_interface_that_is_not_here_is_somewhere_else() {
    check(&[
        (OWN_NIC, State::InUse, "although e1000e drives it", &|host| {
            without_interface(host, "e1000e");
        }),
        (OWN_NIC, State::InUse, "another network namespace", &|host| {
            without_interface(host, "iwlwifi");
            host.of(OWN_NIC, "class", "0x028000");
        }),
        // These make no interface of it.
        (OWN_NIC, State::Free, "", &|host| without_interface(host, "igb_uio")),
        (OWN_NIC, State::Free, "", &|host| without_interface(host, "pci-stub")),
        (OWN_NIC, State::Free, "", &|host| without_interface(host, "")),
        // An InfiniBand port has one when somebody asks for it.
        (OWN_NIC, State::Free, "", &|host| {
            without_interface(host, "mlx4_core");
            host.of(OWN_NIC, "class", "0x020700");
        }),
    ]);
}

#[test]
fn what_other_network_namespaces_have_is_in_use() {
    const USB: &str = "0000:00:14.0";
    let seen = |host: &mut Fixture, lines: &str| {
        host.remove("/proc/net/route").file("/berth/in-use", &format!("processes all\n{lines}"));
    };
    let usb_nic = |host: &mut Fixture| {
        let path = "pci0000:00";
        host.device(Function {
            address: USB,
            path,
            class: 0x0c_0330,
            group: 9,
            driver: "x",
            ..NIC
        });
        host.link("/sys/class/net/eth9", "../../devices/pci0000:00/0000:00:14.0/usb1/1-2/net/eth9");
    };
    check(&[
        (
            OWN_NIC,
            State::InUse,
            "is eno1, below mv0 in the network namespace of process 7 (nginx)",
            &|host| seen(host, "interface mv0 eno1 - process 7 (nginx)"),
        ),
        // It stands on what stands on it.
        (OWN_NIC, State::InUse, "is eno1, below eno1.5", &|host| {
            seen(host, "interface mv0 eno1.5 - /run/netns/red");
            stack(host, "eno1", "eno1.5");
        }),
        (OWN_NIC, State::Free, "", &|host| seen(host, "interface mv0 eno2 - process 7 (nginx)")),
        // One of a card's two ports.
        (OWN_NIC, State::InUse, "is eno2 in the network namespace of /run/netns/red", &|host| {
            seen(host, &format!("interface eno2 - {OWN_NIC} /run/netns/red"));
        }),
        (OWN_NIC, State::InUse, "is eno1 in the network namespace of process 7 (sh)", &|host| {
            without_interface(host, "e1000e");
            seen(host, &format!("interface eno1 - 0000:00:1c.0,{OWN_NIC} process 7 (sh)"));
        }),
        (OWN_NIC, State::Unknown, "whether eno1 is below an interface of another", &|host| {
            seen(host, "namespaces some");
        }),
        // A controller has the interfaces behind it, here and elsewhere.
        (USB, State::InUse, "is eth9, which the default route uses", &|host| {
            usb_nic(host);
            route(host, "eth9");
        }),
        (USB, State::InUse, "is eth8 in the network namespace of process 7 (sh)", &|host| {
            usb_nic(host);
            seen(host, &format!("interface eth8 - {USB} process 7 (sh)"));
        }),
        (USB, State::Free, "", &usb_nic),
    ]);
}

#[test]
fn drives_are_claimed_in_many_ways() {
    const MEMBER: &str = "/sys/fs/btrfs/0b5e/devices/nvme0n1p1";
    let elsewhere = "mounted on /data in the mount namespace of process 7 (dockerd)";
    check(&[
        (DRIVE, State::Free, "", &idle_drive),
        (DRIVE, State::InUse, "part of the btrfs 0b5e", &|host| {
            idle_drive(host);
            host.link(MEMBER, "../../../../class/block/nvme0n1p1");
        }),
        (DRIVE, State::InUse, "holds nvme0n1p1, mounted on /srv", &|host| {
            host.file("/proc/self/mountinfo", "1 0 0:31 / /srv rw - btrfs /dev/other rw")
                .link(MEMBER, "../../../../class/block/nvme0n1p1")
                .link("/sys/fs/btrfs/0b5e/devices/other", "../../../../class/block/other");
        }),
        (DRIVE, State::InUse, "part of loop0", &|host| {
            idle_drive(host);
            host.file("/sys/class/block/loop0/loop/backing_file", "/dev/nvme0n1p1");
        }),
        (DRIVE, State::InUse, elsewhere, &|host| {
            idle_drive(host);
            let mount = "mounted 259:1 /dev/nvme0n1p1 /data 7 dockerd";
            host.file("/berth/in-use", &format!("processes all\n{mount}"));
        }),
        (DRIVE, State::InUse, "which a mount, a volume or a program has claimed", &|host| {
            idle_drive(host);
            host.file("/berth/in-use", "processes all\nclaimed nvme0n1p1");
        }),
        (DRIVE, State::InUse, "is open as /dev/nvme0n1p1 in process 9 (ceph-osd)", &|host| {
            idle_drive(host);
            let open = "open /dev/nvme0n1p1 259:1 9 ceph-osd";
            host.file("/berth/in-use", &format!("processes all\nunclaimed nvme0n1p1\n{open}"));
        }),
        (DRIVE, State::InUse, "which may be in the imported ZFS pool tank", &|host| {
            host.remove("/proc/self/mountinfo").file("/proc/spl/kstat/zfs/tank/state", "ONLINE");
        }),
        // A path to a drive has no node of its own.
        (DRIVE, State::Free, "", &|host| {
            idle_drive(host);
            let nvme = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0";
            host.link("/sys/class/block/nvme0c0n1", &format!("{nvme}/nvme0c0n1"))
                .file(&format!("{nvme}/nvme0c0n1/hidden"), "1");
        }),
        // The kernel says that no pool has it.
        (DRIVE, State::Free, "", &|host| {
            idle_drive(host);
            host.file("/proc/spl/kstat/zfs/tank/state", "ONLINE");
        }),
    ]);
}

#[test]
fn what_processes_have_open_is_in_use_and_what_cannot_be_seen_is_unknown() {
    check(&[
        (GPU, State::InUse, "is open as /x/card in process 5 (Xorg)", &|host| {
            idle_gpu(host);
            host.file("/berth/in-use", "processes all\nopen /x/card 226:128 5 Xorg");
        }),
        (GPU, State::Free, "", &|host| {
            idle_gpu(host);
            host.file("/berth/in-use", "processes all\nopen /x/card 226:129 5 Xorg");
        }),
        (GPU, State::Unknown, "it cannot be seen whether a process has it open", &|host| {
            idle_gpu(host);
            host.file("/berth/in-use", "processes some");
        }),
        (GPU, State::Unknown, "whether a process has it open", &idle_gpu),
        // As other tools capture it: links of what is open, by their names.
        (OWN_NIC, State::InUse, "is open as /dev/uio0 in process 77 (testpmd)", &|host| {
            without_interface(host, "igb_uio");
            host.of(OWN_NIC, "uio/uio0/dev", "247:0");
            host.link("/proc/77/fd/4", "/dev/uio0").file("/proc/77/comm", "testpmd");
        }),
        // VFIO's own node is looked at as VFIO's, and only once.
        (NIC.address, State::Ready, "", &|host| {
            host.of(NIC.address, "vfio-dev/vfio0/dev", "511:0")
                .file("/berth/in-use", "processes some");
        }),
        // A NIC has no node that somebody could have open.
        (OWN_NIC, State::Free, "", &|host| {
            host.remove("/proc/net/route").file("/berth/in-use", "processes some");
        }),
    ]);
}

#[test]
fn the_consoles_own_devices_are_the_hosts() {
    const USB: Function<'static> =
        Function { address: "0000:00:14.0", path: "pci0000:00", class: 0x0c_0330, group: 9, ..NIC };
    let input = |host: &mut Fixture, keys: &str| {
        host.device(Function { driver: "xhci_hcd", ..USB });
        let folder = "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/input/input3";
        host.link("/sys/class/input/input3", folder)
            .file(&format!("{folder}/capabilities/key"), keys)
            .file(&format!("{folder}/name"), "A Keyboard");
    };
    check(&[
        (USB.address, State::InUse, "has the console's keyboard, A Keyboard", &|host| {
            input(host, "1000000000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe");
        }),
        // A mouse has buttons only.
        (USB.address, State::Free, "", &|host| input(host, "ff0000 0 0 0 0")),
        (USB.address, State::InUse, "carries the console on ttyS4", &|host| {
            host.device(Function { driver: "serial", class: 0x07_0002, ..USB });
            host.of(USB.address, "tty/ttyS4/dev", "4:68")
                .file("/proc/consoles", "ttyS4   -W- (EC   a)    4:68")
                .file("/berth/in-use", "processes all");
        }),
    ]);
}

#[test]
fn a_serial_ports_folder_is_no_function() {
    check(&[(DRIVE, State::Free, "", &|host| {
        idle_drive(host);
        // That of bus 01 reads `00:01:0.0`.
        let port = "../../devices/pnp0/00:01/00:01:0/00:01:0.0/tty/ttyS0";
        host.link("/sys/dev/char/4:64", port)
            .file("/proc/consoles", "ttyS0   -W- (EC   a)    4:64");
        let open = "open /dev/ttyS0 4:64 1 init";
        host.file("/berth/in-use", &format!("processes all\nunclaimed nvme0n1p1\n{open}"));
    })]);
}

#[test]
fn a_controller_has_what_is_behind_it() {
    let vmd = |host: &mut Fixture| {
        let address = "0000:00:0e.0";
        let vmd = Function { address, path: "pci0000:00", class: 0x01_0400, group: 9, ..NIC };
        host.device(Function { driver: "vmd", ..vmd });
    };
    let path = "pci0000:00/0000:00:0e.0/pci10000:00/10000:00:02.0";
    let address = "10000:01:00.0";
    let drive = Function { address, path, class: 0x01_0802, driver: "nvme", group: 9, ..NIC };
    check(&[
        ("0000:00:0e.0", State::InUse, "is the controller of 10000:01:00.0", &|host| {
            vmd(host);
            host.device(drive);
        }),
        ("0000:00:0e.0", State::Free, "", &vmd),
        ("0000:00:0e.0", State::InUse, "holds sdx1, mounted on /", &|host| {
            vmd(host);
            let below = format!("../../devices/{path}/{address}/x/sdx1");
            host.device(drive).link("/sys/class/block/sdx1", &below);
            host.file("/proc/self/mountinfo", "1 0 8:9 / / rw - ext4 /dev/sdx1 rw");
        }),
    ]);
}
