//! Devices that the host takes back while a guest has them, and devices that fail.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::afterwards;
use crate::harness::{self, GuestConfig, Host, Process};

/// A guest boots, or is asked for a device and lets go of it.
const LIMIT: Duration = Duration::from_secs(120);

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

/// A guest with its NIC up, which then takes commands.
fn guest<'host>(host: &'host Host, policy: (&str, &str), timeout: u64) -> Result<Process<'host>> {
    host.bind_vfio()?;
    let (field, word) = policy;
    let config = GuestConfig::new(host)
        .set("/devices", json!([{ "address": host.nic(), field: word }]))
        .set("/unplug_timeout_s", timeout)
        .verbs("net,commands");
    let guest = host.run_guest(&config)?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    ensure!(guest.stdout()?.contains("L2: net eth0"), "{}", guest.everything());
    Ok(guest)
}

/// One round: the guest is asked, lets go, lives on without, and powers off.
fn unplug_once(host: &Host) -> Result<()> {
    let guest = guest(host, ("on_removal", "unplug"), 60)?;
    let slot = guest.in_guest("dmesg | grep -i 'pciehp.*Slot #1 '", LIMIT)?;
    ensure!(slot.contains("AttnBtn+") && slot.contains("PwrCtrl+"), "{slot}");
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
    afterwards::kernel_is_content(host)?;
    plug_in(host)
}

fn rounds(host: &Host) -> Result<()> {
    for _ in 0..2 {
        unplug_once(host)?;
    }
    let guest = guest(host, ("on_removal", "unplug"), 60)?;
    guest.send("poweroff -f\n")?;
    guest.must_end(0, LIMIT)?;
    afterwards::nic_is_free(host)
}

#[test]
fn guest_lets_go_of_the_nic_and_lives_on() -> Result<()> {
    let host = harness::host("nic");
    // Nobody should go on with a host whose NIC may be gone.
    rounds(&host).inspect_err(|_| host.retire())
}
