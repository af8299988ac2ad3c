//! Devices that the host takes back while a guest has them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::harness::{self, GuestConfig, Host, Process};
use crate::postconditions;

/// A guest boots, or is asked for a device and lets go of it.
const LIMIT: Duration = Duration::from_secs(240);

/// Has QEMU pull the NIC out, which the host's kernel then waits for.
pub fn pull(host: &Host) -> Result<()> {
    host.monitor("device_del", &json!({ "id": "nic" })).map(drop)
}

/// Waits until the host has let the NIC go, in its kernel and on its board.
pub fn is_out(host: &Host) -> Result<()> {
    let sysfs = host.nic_sysfs();
    host.run(&format!("until [ ! -e {sysfs} ]; do sleep 0.2; done"))
        .context("the host does not get rid of the NIC")?;
    // The kernel removes a device first, and then powers its slot off: only then it is out.
    let start = Instant::now();
    loop {
        let devices = host.monitor("qom-list", &json!({ "path": "/machine/peripheral" }))?;
        let devices = devices.as_array().context("a list of devices")?;
        if !devices.iter().any(|device| device["name"] == "nic") {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(30), "the slot keeps the NIC");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Puts the NIC in again.
pub fn plug_in(host: &Host) -> Result<()> {
    let nic = json!({
        "driver": "igb", "id": "nic", "bus": "rp1", "netdev": "n0", "mac": host.mac()
    });
    host.monitor("device_add", &nic)?;
    host.run(&format!("until [ -e {}/driver ]; do sleep 0.2; done", host.nic_sysfs()))
        .context("the NIC does not come back")
        .map(drop)
}

/// A guest that lets go of its NIC if it can, with the NIC up.
fn guest<'host>(
    host: &'host Host,
    change: fn(GuestConfig) -> GuestConfig,
) -> Result<Process<'host>> {
    host.bind_vfio()?;
    let config = GuestConfig::new(host)
        .set("/devices", json!([{ "address": host.nic(), "on_removal": "unplug" }]))
        .set("/unplug_timeout_s", 60)
        .verbs("net,commands");
    let guest = host.run_guest(&change(config))?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    ensure!(guest.stdout()?.contains("L2: net eth0"), "{}", guest.everything());
    Ok(guest)
}

/// One round: the guest is asked, lets go, lives on without, and powers off.
fn unplug_once(host: &Host) -> Result<()> {
    let guest = guest(host, |config| config)?;
    let slot = guest.in_guest("dmesg | grep -i 'pciehp.*Slot #1 '", LIMIT)?;
    ensure!(slot.contains("AttnBtn+") && slot.contains("PwrCtrl+"), "{slot}");
    // Kernels want more room behind hot-plug slots than firmware gave; they do without.
    let complaints =
        guest.in_guest("dmesg | grep -iE \"can't claim|failed to assign\"; true", LIMIT)?;
    ensure!(complaints.is_empty(), "{complaints}");
    pull(host)?;
    let start = Instant::now();
    let gone = "until [ ! -e /sys/bus/pci/devices/0000:01:00.0 ]; do sleep 0.2; done";
    guest.in_guest(gone, LIMIT)?;
    println!("the guest let go {:.1?} after the pull", start.elapsed());
    is_out(host)?;
    println!("the host was rid of the NIC {:.1?} after the pull", start.elapsed());
    let log = guest.in_guest("dmesg | grep -i pciehp; ls /sys/class/net", LIMIT)?;
    ensure!(log.contains("will power off in 5 sec") && !log.contains("eth0"), "{log}");
    let said = guest.stderr()?;
    for part in ["the guest is asked for it", "the guest has let go of the device"] {
        ensure!(said.contains(&format!("{}: the", host.nic())) && said.contains(part), "{said}");
    }
    // It lives on, also once its empty slot was looked at.
    guest.in_guest("echo 1 >/sys/bus/pci/rescan; lsmod | grep -q igb; true", LIMIT)?;
    guest.send("poweroff -f\n")?;
    guest.must_end(0, LIMIT)?;
    postconditions::kernel_is_content(host)?;
    plug_in(host)
}

fn rounds(host: &Host) -> Result<()> {
    for _ in 0..2 {
        unplug_once(host)?;
    }
    let guest = guest(host, |config| config)?;
    guest.send("poweroff -f\n")?;
    guest.must_end(0, LIMIT)?;
    postconditions::nic_is_free(host)
}

#[test]
fn guest_lets_go_of_the_nic_and_lives_on() -> Result<()> {
    let host = harness::host("nic");
    // Nobody should go on with a host whose NIC may be gone.
    rounds(&host).inspect_err(|_| host.retire())
}

/// The host takes the NIC from vfio-pci, which waits for the guest.
fn unbind(host: &Host, change: fn(GuestConfig) -> GuestConfig) -> Result<()> {
    let guest = guest(host, change)?;
    let script = format!("echo {} >/sys/bus/pci/drivers/vfio-pci/unbind", host.nic());
    host.exec_with(&script, &[], LIMIT)?.success().context("the NIC cannot be unbound")?;
    let said = guest.stderr()?;
    ensure!(said.contains("the guest has let go of the device"), "{said}");
    let gone = "until [ ! -e /sys/bus/pci/devices/0000:01:00.0 ]; do sleep 0.2; done";
    guest.in_guest(gone, LIMIT)?;
    guest.send("poweroff -f\n")?;
    guest.must_end(0, LIMIT)?;
    host.bind_vfio()?;
    postconditions::nic_is_free(host)?;
    postconditions::kernel_is_content(host)
}

#[test]
fn guest_lets_go_when_the_host_unbinds() -> Result<()> {
    let host = harness::host("nic");
    unbind(&host, |config| config).inspect_err(|_| host.retire())
}

#[test]
fn guest_lets_go_through_iommufd() -> Result<()> {
    let host = harness::host("iommufd-card");
    unbind(&host, |config| config.set("/iommu_backend", "iommufd")).inspect_err(|_| host.retire())
}

/// A guest that does not let go in time is ended, and the host gets its NIC.
fn refuses(host: &Host, change: fn(GuestConfig) -> GuestConfig, why: &str) -> Result<()> {
    let guest = guest(host, change)?;
    pull(host)?;
    guest.must_end(13, LIMIT)?;
    let said = guest.stderr()?;
    ensure!(said.contains(why), "{said}");
    is_out(host)?;
    postconditions::kernel_is_content(host)?;
    plug_in(host)
}

#[test]
fn guest_that_does_not_listen_loses_the_machine() -> Result<()> {
    let host = harness::host("nic");
    // Its kernel leaves the ports to a firmware that is not there.
    let deaf =
        |config: GuestConfig| config.parameter("pcie_ports=compat").set("/unplug_timeout_s", 5);
    refuses(&host, deaf, "in 5 s nobody in the guest has listened").inspect_err(|_| host.retire())
}

#[test]
fn guest_that_takes_too_long_loses_the_machine() -> Result<()> {
    let host = harness::host("nic");
    // Less than the 5 s that a guest waits for a second press of the button.
    let slow = |config: GuestConfig| config.set("/unplug_timeout_s", 2);
    refuses(&host, slow, "the guest has not let go of the device in 2 s")
        .inspect_err(|_| host.retire())
}
