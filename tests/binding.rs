//! Functions change hands on a real kernel, and whatever happens in between, they come back.

mod boot;
mod kills;
mod virtual_functions;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::{self, GuestConfig, Host};

const STATE: &str = "/tmp/berth-state";
const GUEST_LIMIT: Duration = Duration::from_secs(240);

/// A host whose NIC its own driver has, with a journal of the test's own.
fn host() -> Result<harness::HostGuard> {
    let host = harness::host("nic");
    host.berth()?;
    host.run(&format!(
        "{}; ip link set eth0 down 2>/dev/null; ip addr flush dev eth0 2>/dev/null
         rm -rf {STATE}; true",
        clean_script(&host)
    ))?;
    host.bind("")?;
    host.run(&format!("echo > {}/driver_override", host.nic_sysfs()))?;
    Ok(host)
}

fn clean_script(host: &Host) -> String {
    format!("echo 0 > {0}/sriov_numvfs; echo 1 > {0}/sriov_drivers_autoprobe", host.nic_sysfs())
}

fn berth(host: &Host, arguments: &str) -> Result<String> {
    host.run(&format!("BERTH_STATE_DIR={STATE} {} {arguments}", host.berth()?))
}

fn refused(host: &Host, arguments: &str) -> Result<String> {
    let command = format!("BERTH_STATE_DIR={STATE} {} {arguments}", host.berth()?);
    let output = host.exec(&command)?;
    ensure!(output.status == 3, "status {} of {command}\n{}", output.status, output.stderr);
    Ok(output.stderr)
}

/// All that berth may change: drivers, overrides, numbers of VFs, pages.
const STATE_SCRIPT: &str = "ls -d /sys/bus/pci/drivers/*/0000:*
     cd /sys/bus/pci/devices
     grep -Hs '' */driver_override */sriov_numvfs */sriov_drivers_autoprobe
     cd /sys/devices/system/node
     grep -H '' node*/hugepages/*/nr_hugepages";

fn state(host: &Host) -> Result<String> {
    host.run(STATE_SCRIPT)
}

fn driver(host: &Host, address: &str) -> Result<String> {
    host.run(&format!("basename \"$(readlink /sys/bus/pci/devices/{address}/driver)\""))
}

#[test]
fn nic_is_bound_and_given_back() -> Result<()> {
    let host = host()?;
    let (nic, before) = (host.nic().to_owned(), state(&host)?);

    let dry = berth(&host, &format!("bind {nic} --dry-run"))?;
    ensure!(dry.contains(&format!("echo {nic} > /sys/bus/pci/drivers/vfio-pci/bind")), "{dry}");
    assert_eq!(state(&host)?, before);

    let report: Value = serde_json::from_str(&berth(&host, &format!("bind {nic} --json"))?)?;
    let function = &report["functions"][0];
    assert_eq!(function["driver"], "vfio-pci");
    let own = function["earlier_driver"].as_str().context("it had a driver")?.to_owned();
    let file = function["group_file"].as_str().context("VFIO offers it")?;
    host.run(&format!("test -c {file}"))?;
    assert_eq!(driver(&host, &nic)?, "vfio-pci");
    let again = berth(&host, &format!("bind {nic}"))?;
    ensure!(again.contains("nothing to change"), "{again}");

    let text = berth(&host, &format!("unbind {nic}"))?;
    ensure!(text.contains(&own), "{text}");
    assert_eq!(state(&host)?, before);

    berth(&host, &format!("bind {nic} --group"))?;
    let text = berth(&host, "restore")?;
    ensure!(text.contains(&format!("driver of {nic} is again {own}")), "{text}");
    assert_eq!(state(&host)?, before);
    assert_eq!(berth(&host, "restore")?, "nothing to put back");
    Ok(())
}

#[test]
fn what_the_host_uses_is_not_taken() -> Result<()> {
    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let nic = host.nic().to_owned();
    host.run(
        "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2",
    )?;
    let error = refused(&host, &format!("bind {nic}"))?;
    for word in ["is in use: it is eth0 with 10.0.2.15/24, which the default route uses", "--force"]
    {
        ensure!(error.contains(word), "{word}: {error}");
    }
    let error = refused(&host, "bind 0000:00:1f.0")?;
    ensure!(error.contains("is a bridge"), "{error}");
    let error = refused(&host, "bind 0000:7f:00.0")?;
    ensure!(error.contains("there is no PCI function"), "{error}");
    berth(&host, &format!("bind {nic} --force"))?;
    assert_eq!(driver(&host, &nic)?, "vfio-pci");
    berth(&host, "restore")?;
    // An address without any route is a use, too.
    host.run("ip link set eth0 down; ip addr flush dev eth0; ip addr add 192.0.2.7/32 dev eth0")?;
    let error = refused(&host, &format!("bind {nic}"))?;
    ensure!(error.contains("is in use: it is eth0 with 192.0.2.7/32\n"), "{error}");
    host.run("ip addr flush dev eth0")?;
    Ok(())
}

#[test]
fn several_berths_at_once_take_turns() -> Result<()> {
    let host = host()?;
    let (nic, before) = (host.nic().to_owned(), state(&host)?);
    let text = host.run(&format!(
        "export BERTH_STATE_DIR={STATE}; berth={berth}
         for turn in 1 2 3 4; do
             (for again in 1 2 3; do
                 $berth bind {nic} >/dev/null 2>&1; echo bind $?
                 $berth unbind {nic} >/dev/null 2>&1; echo unbind $?
             done) &
         done
         wait",
        berth = host.berth()?
    ))?;
    assert_eq!(text.lines().filter(|line| line.ends_with(" 0")).count(), 24, "{text}");
    assert_eq!(state(&host)?, before);
    assert_eq!(berth(&host, "restore")?, "nothing to put back");
    Ok(())
}

fn auto(host: &Host, verbs: &str) -> GuestConfig {
    GuestConfig::new(host).set("/devices/0/bind", "auto").verbs(verbs)
}

fn start<'host>(host: &'host Host, config: &GuestConfig) -> Result<harness::Process<'host>> {
    let path = format!("{}/auto.json", host.scratch());
    host.write(&path, &config.to_string())?;
    host.spawn(&format!("env BERTH_STATE_DIR={STATE} {} run {path}", host.berth()?))
}

/// Until nothing of berth runs any more: the guard outlives a berth that was killed for a moment.
fn wait_for_guards(host: &Host) -> Result<()> {
    host.run(
        "n=0; while pidof berth || grep -qs berth-guard /proc/[0-9]*/comm; do
                  n=$((n + 1)); [ $n -lt 200 ] || exit 1; sleep 0.1; done",
    )
    .map(drop)
}

#[test]
fn a_run_takes_its_device_and_gives_it_back() -> Result<()> {
    let host = host()?;
    let before = state(&host)?;
    let guest = start(&host, &auto(&host, "net,ping:3,poweroff"))?;
    let console = guest.wait_for("L2: ping 3/3", GUEST_LIMIT)?;
    ensure!(console.contains(host.mac()), "{console}");
    assert_eq!(guest.wait(GUEST_LIMIT)?, 0, "{}", guest.everything());
    assert_eq!(state(&host)?, before, "{}", guest.everything());
    assert_eq!(berth(&host, "restore")?, "nothing to put back");
    Ok(())
}

#[test]
fn a_killed_run_loses_nothing() -> Result<()> {
    let host = host()?;
    let before = state(&host)?;
    let guest = start(&host, &auto(&host, "wait"))?;
    guest.wait_for("L2: waiting", GUEST_LIMIT)?;
    assert_eq!(driver(&host, host.nic())?, "vfio-pci");
    let report = berth(&host, "restore")?;
    ensure!(report.contains("is left alone") && report.contains("the machine runs"), "{report}");
    guest.signal("KILL")?;
    wait_for_guards(&host)?;
    assert_eq!(state(&host)?, before, "the guard gives it back");

    // Both killed: the next berth does.
    let guest = start(&host, &auto(&host, "wait"))?;
    guest.wait_for("L2: waiting", GUEST_LIMIT)?;
    host.run("kill -KILL $(grep -l berth-guard /proc/[0-9]*/comm | cut -d/ -f3)")?;
    guest.signal("KILL")?;
    wait_for_guards(&host)?;
    assert_eq!(driver(&host, host.nic())?, "vfio-pci");
    let text = berth(&host, "restore")?;
    ensure!(text.contains("is again"), "{text}");
    assert_eq!(state(&host)?, before);
    Ok(())
}
