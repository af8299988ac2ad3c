//! Resets: of whole cards on the host, and what a guest resets itself.

mod state;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::{self, GuestConfig, Host, Process};
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(240);

/// `berth run` that says how it resets devices.
fn run<'host>(host: &'host Host, config: &GuestConfig) -> Result<Process<'host>> {
    let path = format!("{}/guest.json", host.scratch());
    host.write(&path, &config.to_string())?;
    host.spawn(&format!("env RUST_LOG=info {} run {path}", host.berth()?))
}

fn devices(addresses: &[&str]) -> Value {
    addresses.iter().map(|address| json!({ "address": address })).collect()
}

/// Gives functions to a driver.
fn bind(host: &Host, driver: &str, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        let sysfs = format!("/sys/bus/pci/devices/{address}");
        host.run(&format!(
            "[ ! -e {sysfs}/driver ] || echo {address} >{sysfs}/driver/unbind
             modprobe -q {driver}
             echo {driver} >{sysfs}/driver_override
             echo {address} >/sys/bus/pci/drivers_probe
             [ -e {sysfs}/driver ]"
        ))?;
    }
    Ok(())
}

/// A card of two functions that have no reset of their own.
const CARD: [&str; 2] = ["0000:22:00.0", "0000:22:00.1"];

fn reset_hot(host: &Host, backend: &str) -> Result<()> {
    bind(host, "vfio-pci", &CARD)?;
    let config = GuestConfig::new(host)
        .set("/devices", devices(&CARD))
        .set("/iommu_backend", backend)
        .verbs("commands");
    let guest = run(host, &config)?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    // The guest resets the bus by hand, and sets both functions up again.
    let write = |byte: &str| {
        let config = "/sys/bus/pci/devices/0000:00:01.0/config";
        format!("printf '{byte}' | dd of={config} bs=1 seek=62 conv=notrunc 2>/dev/null")
    };
    for command in [
        "modprobe -r e1000e",
        &write("\\100"),
        "[ $(cat /sys/bus/pci/devices/0000:01:00.0/config | head -c 2 | hexdump -e '1/2 \"%04x\"') = ffff ]",
        &write("\\000"),
        "for f in 0 1; do echo 1 >/sys/bus/pci/devices/0000:01:00.$f/remove; done",
        "echo 1 >/sys/bus/pci/rescan; modprobe e1000e",
        "ls /sys/bus/pci/drivers/e1000e/0000:01:00.0 /sys/bus/pci/drivers/e1000e/0000:01:00.1",
    ] {
        guest.in_guest(command, LIMIT)?;
    }
    guest.send("poweroff -f\n")?;
    guest.must_end(0, LIMIT)?;
    let said = guest.stderr()?;
    for when in ["at the start", "through its port", "at the end"] {
        let reset = format!("{}: reset {when}: hot reset", CARD[0]);
        ensure!(said.contains(&reset), "{said}");
    }
    ensure!(said.matches("hot reset").count() == 3 && !said.contains("WARN"), "{said}");
    postconditions::kernel_is_content(host)
}

#[test]
fn card_is_reset_hot_once_for_both_functions() -> Result<()> {
    reset_hot(&harness::host("topology"), "container")
}

#[test]
fn card_is_reset_hot_through_iommufd() -> Result<()> {
    reset_hot(&harness::host("iommufd-card"), "iommufd")
}

/// Runs a guest that has the second function only; the plan, and what berth said.
fn run_with_second(host: &Host) -> Result<(String, String)> {
    let config = GuestConfig::new(host).set("/devices", devices(&CARD[1..]));
    let path = format!("{}/plan.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let plan = host.run(&format!("{} plan {path}", host.berth()?))?;
    let guest = run(host, &config)?;
    guest.must_end(0, LIMIT)?;
    postconditions::kernel_is_content(host)?;
    Ok((plan, guest.stderr()?))
}

#[test]
fn card_is_reset_hot_only_when_all_of_it_is_the_guests() -> Result<()> {
    let host = harness::host("topology");
    bind(&host, "vfio-pci", &CARD)?;
    // Idle, but bound to vfio-pci and of the guest's IOMMU group: nobody else can have it.
    let (plan, said) = run_with_second(&host)?;
    ensure!(plan.contains(", hot reset"), "{plan}");
    ensure!(said.matches(": hot reset").count() == 2 && !said.contains("WARN"), "{said}");

    // Idle, and any driver may take it at any time.
    host.run(&format!("echo {} >/sys/bus/pci/drivers/vfio-pci/unbind", CARD[0]))?;
    let (plan, said) = run_with_second(&host)?;
    let note = format!("a hot reset would hit {}, not assigned to this guest", CARD[0]);
    ensure!(plan.contains(&note) && plan.contains(", PM reset"), "{plan}");
    for when in ["at the start", "at the end"] {
        ensure!(said.contains(&format!("{}: reset {when}: PM reset", CARD[1])), "{said}");
    }
    bind(&host, "vfio-pci", &CARD[..1])
}

/// Works as a test in the guest does: the NIC goes down, is reset, and comes up again.
const RESET_NIC: &str = "\
reset_nic() { \
    modprobe -r igb; \
    echo $1 >/sys/bus/pci/devices/0000:01:00.0/reset_method && \
    echo 1 >/sys/bus/pci/devices/0000:01:00.0/reset && \
    modprobe igb && net && pings 2; }";

/// Runs a guest that resets its NIC in that way; what berth said.
fn resets_its_nic(host: &Host, policy: &str, method: &str) -> Result<String> {
    host.bind_vfio()?;
    let nic = json!([{ "address": host.nic(), "on_removal": policy }]);
    let config = GuestConfig::new(host).set("/devices", nic).verbs("net,ping:2,commands");
    let guest = run(host, &config)?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    guest.in_guest(RESET_NIC, LIMIT)?;
    for _ in 0..2 {
        let said = guest.in_guest(&format!("reset_nic {method}"), LIMIT)?;
        let log = || guest.in_guest("dmesg | tail -n 30", LIMIT).unwrap_or_default();
        ensure!(said.contains("L2: ping 2/2"), "{said}\n{}", log());
    }
    let complaints =
        guest.in_guest("dmesg | grep -iE 'not ready|timed out|giving up'; true", LIMIT)?;
    ensure!(complaints.is_empty(), "{complaints}");
    guest.send("poweroff -f\n")?;
    guest.must_end(0, LIMIT)?;
    postconditions::nic_is_free(host)?;
    postconditions::kernel_is_content(host)?;
    guest.stderr()
}

#[test]
fn guest_resets_its_nic_by_flr() -> Result<()> {
    let said = resets_its_nic(&harness::host("nic"), "stop", "flr")?;
    ensure!(!said.contains("through its port"), "{said}");
    Ok(())
}

#[test]
fn guest_resets_the_bus_of_its_nic() -> Result<()> {
    let host = harness::host("nic");
    for policy in ["unplug", "stop"] {
        let said = resets_its_nic(&host, policy, "bus").with_context(|| policy.to_owned())?;
        let reset = format!("{}: reset through its port: FLR", host.nic());
        ensure!(said.matches(&reset).count() == 2, "{policy}: {said}");
    }
    Ok(())
}

#[test]
fn guest_switches_the_slot_of_its_nic_off_and_on() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let nic = json!([{ "address": host.nic(), "on_removal": "unplug" }]);
    let config = GuestConfig::new(&host).set("/devices", nic).verbs("net,ping:2,commands");
    let guest = run(&host, &config)?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    for _ in 0..2 {
        guest.in_guest("echo 0 >/sys/bus/pci/slots/1/power", LIMIT)?;
        guest.in_guest("[ ! -e /sys/bus/pci/devices/0000:01:00.0 ]", LIMIT)?;
        let said = guest.in_guest("echo 1 >/sys/bus/pci/slots/1/power && net && pings 2", LIMIT)?;
        ensure!(said.contains("L2: ping 2/2"), "{said}\n{}", guest.everything());
    }
    guest.send("poweroff -f\n")?;
    guest.must_end(0, LIMIT)?;
    ensure!(guest.stderr()?.matches("reset through its port: FLR").count() == 2);
    postconditions::nic_is_free(&host)?;
    postconditions::kernel_is_content(&host)
}
