//! Every way in which a machine ends has its exit code, and gives the NIC back: reset, silent,
//! bound as before. Each guest here has the NIC up before it ends, and so finds it good after the
//! end before.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::harness::{self, GuestConfig, Host, Process};
use crate::{postconditions, removal};

const LIMIT: Duration = Duration::from_secs(240);

/// A guest that has its NIC up before it does what `verbs` say.
fn guest<'host>(
    host: &'host Host,
    verbs: &str,
    change: fn(GuestConfig) -> GuestConfig,
) -> Result<Process<'host>> {
    host.bind_vfio()?;
    let config = GuestConfig::new(host).verbs(&format!("net,{verbs}"));
    let guest = host.run_guest(&change(config))?;
    guest.wait_for(&format!("L2: net eth0 {}", host.mac()), LIMIT)?;
    Ok(guest)
}

fn all_is_well(host: &Host) -> Result<()> {
    postconditions::nic_is_free(host)?;
    postconditions::kernel_is_content(host)
}

/// Ends by the guest's own doing.
fn ends_itself(verb: &str, change: fn(GuestConfig) -> GuestConfig, code: i32) -> Result<()> {
    let host = harness::host("nic");
    let guest = guest(&host, verb, change)?;
    guest.must_end(code, LIMIT)?;
    let console = guest.stdout()?;
    assert!(console.contains(&format!("L2: {verb}")), "{}", guest.everything());
    all_is_well(&host)
}

#[test]
fn power_off() -> Result<()> {
    ends_itself("poweroff", |config| config, 0)
}

#[test]
fn reboot() -> Result<()> {
    ends_itself("reboot", |config| config, 10)
}

#[test]
fn panic() -> Result<()> {
    ends_itself("panic", |config| config, 11)
}

/// The driver of pvpanic is a module, and there is nothing to load it from.
#[test]
fn panic_before_its_driver() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let config = GuestConfig::new(&host).kernel("6.12").verbs("none");
    let guest = host.run_guest(&config.parameter("rdinit=/nowhere root=/dev/nowhere"))?;
    guest.must_end(11, LIMIT)?;
    let console = guest.stdout()?;
    ensure!(console.contains("Kernel panic - not syncing: VFS"), "{}", guest.everything());
    ensure!(guest.stderr()?.contains("the guest's kernel panicked"), "{}", guest.everything());
    all_is_well(&host)
}

#[test]
fn triple_fault() -> Result<()> {
    ends_itself("reboot", |config| config.parameter("reboot=t"), 12)
}

#[test]
fn signal_presses_the_power_button() -> Result<()> {
    let host = harness::host("nic");
    let guest = guest(&host, "commands", |config| config)?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    guest.signal("TERM")?;
    guest.must_end(0, LIMIT)?;
    assert!(guest.stdout()?.contains("L2: power button"), "{}", guest.everything());
    all_is_well(&host)
}

/// A guest that does not care for its power button.
fn deaf_guest(host: &Host, change: fn(GuestConfig) -> GuestConfig) -> Result<Process<'_>> {
    let guest = guest(host, "commands", change)?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    guest.in_guest("kill $watcher", LIMIT)?;
    Ok(guest)
}

#[test]
fn deaf_guest_is_ended_after_its_time() -> Result<()> {
    let host = harness::host("nic");
    let guest = deaf_guest(&host, |config| config.set("/shutdown_timeout_s", 3))?;
    let start = Instant::now();
    guest.signal("TERM")?;
    guest.must_end(14, LIMIT)?;
    assert!(start.elapsed() >= Duration::from_secs(3), "ended early: {:?}", start.elapsed());
    all_is_well(&host)
}

#[test]
fn second_signal_ends_at_once() -> Result<()> {
    let host = harness::host("nic");
    let guest = deaf_guest(&host, |config| config.set("/shutdown_timeout_s", 600))?;
    guest.signal("TERM")?;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(guest.status()?, None, "{}", guest.everything());
    guest.signal("INT")?;
    guest.must_end(15, Duration::from_secs(20))?;
    all_is_well(&host)
}

/// Its control thread serves nothing any more, as one that a guest has got hold of might. The half minute
/// that it is given is what this costs.
#[test]
fn a_machine_that_does_not_end_is_killed() -> Result<()> {
    let host = harness::host("nic");
    let guest = guest(&host, "commands", |config| config.set("/shutdown_timeout_s", 600))?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    host.run(&format!("kill -STOP {}", guest.machine()?))?;
    let start = Instant::now();
    guest.signal("TERM")?;
    guest.signal("INT")?;
    guest.must_end(128 + 9, Duration::from_secs(90))?;
    assert!(start.elapsed() >= Duration::from_secs(30), "killed early: {:?}", start.elapsed());
    ensure!(guest.stderr()?.contains("has not ended in time"), "{}", guest.everything());
    all_is_well(&host)
}

/// Nor can it tell that its parent is gone: the kernel kills it.
#[test]
fn a_machine_that_serves_nothing_dies_with_its_parent() -> Result<()> {
    let host = harness::host("nic");
    let guest = guest(&host, "commands", |config| config)?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    let machine = guest.machine()?;
    host.run(&format!("kill -STOP {machine}"))?;
    guest.signal("KILL")?;
    guest.must_end(128 + 9, Duration::from_secs(20))?;
    host.run(&format!("! test -e /proc/{machine}"))?;
    all_is_well(&host)
}

/// Pulls the NIC out of the lab host under the guest, and puts it in again.
fn pull_the_nic(host: &Host) -> Result<()> {
    let guest = guest(host, "commands", |config| config)?;
    removal::pull(host)?;
    let start = Instant::now();
    guest.must_end(13, Duration::from_secs(60))?;
    println!("berth gave the NIC up {:.1?} after the pull", start.elapsed());
    let message = guest.stderr()?;
    ensure!(message.contains(host.nic()), "berth does not name the NIC: {message}");
    removal::is_out(host)?;
    postconditions::kernel_is_content(host)?;

    removal::plug_in(host)?;
    let guest = self::guest(host, "ping:1", |config| config)?;
    guest.must_end(0, LIMIT)?;
    ensure!(guest.stdout()?.contains("L2: ping 1/1"), "{}", guest.everything());
    postconditions::nic_is_free(host)
}

#[test]
fn nic_is_pulled_out() -> Result<()> {
    let host = harness::host("nic");
    // Nobody should go on with a host whose NIC may be gone.
    pull_the_nic(&host).inspect_err(|_| host.retire())
}
