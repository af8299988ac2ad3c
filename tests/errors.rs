//! Devices that report an uncorrectable error while a guest has them.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::{self, GuestConfig, Host, Process};
use crate::postconditions;

/// A guest boots, or an error makes its way from the device to berth.
const LIMIT: Duration = Duration::from_secs(240);

fn guest<'host>(host: &'host Host, policy: &str) -> Result<Process<'host>> {
    host.bind_vfio()?;
    let config = GuestConfig::new(host)
        .set("/devices", json!([{ "address": host.nic(), "on_error": policy }]))
        .verbs("commands");
    let guest = host.run_guest(&config)?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    Ok(guest)
}

/// Has QEMU make the NIC report a completion timeout. QEMU passes errors on where the command
/// register enables system errors; Linux leaves that to firmware.
fn inject(host: &Host) -> Result<()> {
    for function in ["0000:00:01.0", host.nic()] {
        host.run(&format!(
            "printf '\\001' | dd of=/sys/bus/pci/devices/{function}/config bs=1 seek=5 conv=notrunc"
        ))?;
    }
    let command = json!({ "command-line": "pcie_aer_inject_error nic COMP_TIME" });
    host.monitor("human-monitor-command", &command)?;
    let seen = "until dmesg | grep -q 'Non-Fatal. error message received'; do sleep 0.2; done";
    host.run(seen).map(drop)
}

/// The machine ends with that exit code, and says which device is to blame.
fn ends(host: &Host, policy: &str, code: i32) -> Result<()> {
    let guest = guest(host, policy)?;
    inject(host)?;
    guest.must_end(code, LIMIT)?;
    let said = guest.stderr()?;
    let expected = format!("{}: the device reports an uncorrectable error", host.nic());
    ensure!(said.contains(&expected), "{said}");
    postconditions::nic_is_free(host)
}

#[test]
fn error_stops_the_machine() -> Result<()> {
    ends(&harness::host("errors"), "stop", 13)
}

#[test]
fn error_resets_the_machine() -> Result<()> {
    ends(&harness::host("errors"), "reset", 10)
}

#[test]
fn error_is_said_and_the_guest_goes_on() -> Result<()> {
    let host = harness::host("errors");
    let guest = guest(&host, "log")?;
    for errors in 1..=2 {
        inject(&host)?;
        guest.in_guest("sleep 1", LIMIT)?;
        let said = guest.stderr()?;
        let lines = said.matches("an uncorrectable error; the guest goes on").count();
        ensure!(lines == errors, "{errors} errors: {said}");
    }
    guest.send("poweroff -f\n")?;
    guest.must_end(0, LIMIT)?;
    postconditions::nic_is_free(&host)
}
