//! Functions of user space's own drivers, and virtual functions.

use anyhow::Result;

use super::{Case, answers, refused, script, unchanged, with_host};
use crate::devices::EDU;
use crate::harness::GuestConfig;

const UIO: Case = Case {
    functions: &["EDU"],
    begin: "hold sh -c \"exec 9<>/dev/uio0; touch $ready; exec sleep 900\"",
    says: "is open as /dev/uio0 in process HOLDER (sleep)",
    end: "release",
};

#[test]
fn user_space_drivers() -> Result<()> {
    with_host(|host| {
        script(
            host,
            &format!(
                "echo uio_pci_generic >/sys/bus/pci/devices/{EDU}/driver_override
                 echo {EDU} >/sys/bus/pci/drivers_probe; await test -c /dev/uio0"
            ),
        )?;
        UIO.check(host)?;
        script(
            host,
            &format!(
                "echo {EDU} >/sys/bus/pci/drivers/uio_pci_generic/unbind
                 echo >/sys/bus/pci/devices/{EDU}/driver_override"
            ),
        )?;
        virtual_functions(host)
    })
}

/// Two of a card's, both in use by other network namespaces.
fn virtual_functions(host: &crate::harness::Host) -> Result<()> {
    let nic = host.nic();
    let functions = script(
        host,
        &format!(
            "cd /sys/bus/pci/devices/{nic}; echo 2 >sriov_numvfs
             await ls virtfn0/net/eth*; await ls virtfn1/net/eth*
             hold unshare -n sh -c \"touch $ready; exec sleep 900\"
             ip link add link $(ls virtfn0/net) name mv0 type macvlan; ip link set mv0 netns $(holder)
             ip link set $(ls virtfn1/net) netns $(holder)
             state >$work/before
             for n in 0 1; do basename $(readlink virtfn$n); done; holder"
        ),
    )?;
    let [first, second, holder] = functions.lines().collect::<Vec<_>>()[..] else {
        anyhow::bail!("not two functions: {functions}")
    };
    let namespace = format!("in the network namespace of process {holder} (sleep)");
    refused(host, first, &format!("below mv0 {namespace}"))?;
    refused(host, second, &namespace)?;
    for count in [0, 1] {
        answers(host, &format!("berth sriov {nic} {count}"), 3, &[first, &namespace])?;
    }
    let path = format!("{}/free.json", host.scratch());
    let free = serde_json::json!({ "free_vf_of": nic });
    let config = GuestConfig::new(host).set("/devices/0/address", free);
    host.write(&path, &config.set("/devices/0/bind", "auto").to_string())?;
    answers(host, &format!("berth run {path}"), 3, &[nic, first, second, &namespace])?;
    unchanged(host)?;

    // One that is let go is the free one.
    script(host, "release; await ls /sys/class/net/eth2")?;
    answers(host, &format!("berth plan {path}"), 0, &[first])?;
    script(
        host,
        "hold sh -c \"touch $ready; exec sleep 900\"; ip link add link eth1 name mv0 type macvlan",
    )?;
    let says = format!("--force takes {first}, although it is eth1, below mv0");
    answers(host, &format!("berth sriov {nic} 0 --force"), 0, &[&says])?;
    script(host, &format!("release; echo 0 >/sys/bus/pci/devices/{nic}/sriov_numvfs; rmmod igbvf"))
        .map(drop)
}
