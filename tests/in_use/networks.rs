//! Interfaces: what stands on them, and what went to other network namespaces.

use anyhow::{Result, ensure};

use super::{Case, answers, script, with_host};
use crate::harness;

const NIC: &[&str] = &["NIC"];

const CASES: &[Case] = &[
    // QEMU's router advertises itself on an interface that is up, which gives eth0 a route of its own.
    Case {
        functions: NIC,
        begin: "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_ra
                vconfig add eth0 7; ip addr add 192.0.2.7/24 dev eth0.7
                ip link set eth0 up; ip link set eth0.7 up; ip route add default via 192.0.2.1 dev eth0.7",
        says: "is eth0, below eth0.7 with 192.0.2.7/24, which the default route uses",
        end: "ip link del eth0.7; ip link set eth0 down",
    },
    Case {
        functions: NIC,
        begin: "ip link add link eth0 name mv0 type macvlan; ip addr add 192.0.2.8/24 dev mv0",
        says: "is eth0, below mv0 with 192.0.2.8/24",
        end: "ip link del mv0",
    },
    Case {
        functions: NIC,
        begin: "ip link add link eth0 name iv0 type ipvlan; ip addr add 192.0.2.11/24 dev iv0",
        says: "is eth0, below iv0 with 192.0.2.11/24",
        end: "ip link del iv0",
    },
    Case {
        functions: NIC,
        begin: "ip link add bond0 type bond; ip link set eth0 master bond0
                ip addr add 192.0.2.9/24 dev bond0; ip link set bond0 up",
        says: "is eth0, below bond0 with 192.0.2.9/24",
        end: "ip link set eth0 nomaster; ip link del bond0; ip link set eth0 down",
    },
    // At a depth: a bridge on a VLAN on a bond.
    Case {
        functions: NIC,
        begin: "ip link add bond0 type bond; ip link set eth0 master bond0; vconfig add bond0 5
                brctl addbr br0; brctl addif br0 bond0.5; ip addr add 192.0.2.10/24 dev br0",
        says: "is eth0, below br0 with 192.0.2.10/24",
        end: "brctl delif br0 bond0.5; brctl delbr br0; ip link del bond0.5
              ip link set eth0 nomaster; ip link del bond0; ip link set eth0 down",
    },
    // A bridge of guests has no address.
    Case {
        functions: NIC,
        begin: "brctl addbr br0; brctl addif br0 eth0",
        says: "is eth0, part of br0",
        end: "brctl delif br0 eth0; brctl delbr br0",
    },
    Case {
        functions: NIC,
        begin: "hold unshare -n sh -c \"touch $ready; exec sleep 900\"
                ip link set eth0 netns $(holder)",
        says: "is eth0 in the network namespace of process HOLDER (sleep)",
        end: "release; await test -e /sys/class/net/eth0",
    },
    // Nothing in sysfs tells of these.
    Case {
        functions: NIC,
        begin: "hold unshare -n sh -c \"touch $ready; exec sleep 900\"
                ip link add link eth0 name mv0 type macvlan; ip link set mv0 netns $(holder)",
        says: "is eth0, below mv0 in the network namespace of process HOLDER (sleep)",
        end: "release",
    },
    Case {
        functions: NIC,
        begin: "hold unshare -n sh -c \"touch $ready; exec sleep 900\"
                vconfig add eth0 7; ip link set eth0.7 netns $(holder)",
        says: "is eth0, below eth0.7 in the network namespace of process HOLDER (sleep)",
        end: "release",
    },
    // No process is in this one, and a file keeps it, as `ip netns add` does.
    Case {
        functions: NIC,
        begin: "touch $work/red; unshare --net=$work/red true
                hold nsenter --net=$work/red sh -c \"touch $ready; exec sleep 900\"
                ip link add link eth0 name mv0 type macvlan; ip link set mv0 netns $(holder); release",
        says: "is eth0, below mv0 in the network namespace of /tmp/in-use/red",
        end: "umount $work/red",
    },
];

#[test]
fn networks() -> Result<()> {
    with_host(|host| {
        harness::check_all(CASES, "networks", |case| case.check(host))?;
        let nic = host.nic();
        script(host, "vconfig add eth0 7; ip addr add 192.0.2.7/24 dev eth0.7")?;
        let says =
            format!("--force takes {nic}, although it is eth0, below eth0.7 with 192.0.2.7/24");
        answers(host, &format!("berth bind {nic} --force"), 0, &[&says])?;
        let text = answers(host, "berth restore", 0, &["is again igb"])?;
        ensure!(text.contains(nic), "{text}");
        Ok(())
    })
}
