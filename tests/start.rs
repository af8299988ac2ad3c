//! What a start and a boot cost, as counts that repeat: a change that makes them more costly is seen
//! here. Times are `scripts/bench`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::faults;
use crate::harness::{self, GuestConfig, Host};
use crate::postconditions;

/// `KVM_RUN` (include/uapi/linux/kvm.h), as the list of calls has it.
const KVM_RUN: &str = "0xae80";

/// System calls of all of berth's processes before the guest's first instruction, with a device that
/// is bound already. Measured: 793.
const MOST_CALLS: usize = 830;

/// Exits to user space of a guest that boots, has its NIC up and powers off, by port and by memory.
/// Measured: 343 to 370, as a guest looks at its serial port more often when that is slow, and 682.
const MOST_EXITS: [usize; 2] = [500, 750];

/// Writes the config of a guest that does what `verbs` say; where it is.
fn config(host: &Host, verbs: &str) -> Result<String> {
    host.bind_vfio()?;
    let config = GuestConfig::new(host).verbs(verbs).set("/vcpus", 1).set("/console", "off");
    let path = format!("{}/start.json", host.scratch());
    host.write(&path, &config.to_string())?;
    Ok(path)
}

/// 20 s, as every call of a run stops for the tracer.
#[test]
fn few_system_calls_come_before_the_guest() -> Result<()> {
    let host = harness::host("nic");
    let calls = faults::list(&host, &config(&host, "poweroff")?)?;
    let is_first_run =
        |call: &&faults::Call| call.name.ends_with("/vcpu0") && call.request == KVM_RUN;
    // The first of the two only has KVM start its threads.
    let before = calls.iter().position(|call| is_first_run(&call)).context("the guest runs")?;
    let mut kinds: BTreeMap<(&str, i64), usize> = BTreeMap::new();
    for call in &calls[..before] {
        *kinds.entry((&call.name, call.call)).or_default() += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    println!("{before} system calls before the guest runs, most of them {:?}", &kinds[..12]);
    ensure!(before <= MOST_CALLS, "{before} system calls, not {MOST_CALLS} at most");
    Ok(())
}

/// 15 s.
#[test]
fn few_exits_to_user_space_come_of_a_boot() -> Result<()> {
    let host = harness::host("nic");
    let path = config(&host, "net,poweroff")?;
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
