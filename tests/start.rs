//! What a start and a boot cost, as counts that repeat: a change that makes them more costly is seen
//! here. Times are `scripts/bench`'s.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::faults;
use crate::harness::{self, GuestConfig};
use crate::postconditions;

/// `KVM_RUN` (include/uapi/linux/kvm.h), as the list of calls has it.
const KVM_RUN: &str = "ae80";

/// System calls of all of berth's processes before the guest's first instruction, with a device that
/// berth binds, and so a guard. Measured: MEASURED_CALLS.
const MOST_CALLS: usize = 0;

/// Exits to user space of a guest that boots, has its NIC up and powers off, by port and by memory. Measured:
/// MEASURED_EXITS.
const MOST_EXITS: [usize; 2] = [0, 0];

/// Costs nothing beside the test of the filters, whose run this looks at, too.
#[test]
fn few_system_calls_come_before_the_guest() -> Result<()> {
    let calls = faults::calls()?;
    let is_first_run =
        |call: &&faults::Call| call.name.ends_with("/vcpu0") && call.request == KVM_RUN;
    // The first of the two only has KVM start its threads.
    let before = calls.iter().position(|call| is_first_run(&call)).context("the guest runs")?;
    println!("{before} system calls before the guest runs");
    ensure!(before <= MOST_CALLS, "{before} system calls, not {MOST_CALLS} at most");
    Ok(())
}

/// 15 s.
#[test]
fn few_exits_to_user_space_come_of_a_boot() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let config = GuestConfig::new(&host).verbs("net,poweroff").set("/vcpus", 1);
    let path = format!("{}/start.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let guest = host.spawn(&format!("env RUST_LOG=berth=info {} run {path}", host.berth()?))?;
    guest.must_end(0, Duration::from_secs(120))?;
    let said = guest.stderr()?;
    let counts = said.lines().find_map(|line| line.split_once("exits to user space by vCPU: "));
    let (_, counts) = counts.with_context(|| format!("no counts in {said}"))?;
    let count = |kind: &str| -> Result<usize> {
        let (_, rest) = counts.split_once(kind).context("a kind of exits")?;
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Ok(number.parse()?)
    };
    let found = [count("port: ")?, count("mmio: ")?];
    println!("exits to user space by port and memory: {found:?}");
    ensure!(
        found.iter().zip(MOST_EXITS).all(|(found, most)| *found <= most),
        "{found:?} exits by port and memory, not {MOST_EXITS:?} at most"
    );
    postconditions::nic_is_free(&host)
}
