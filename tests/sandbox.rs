//! What stands behind seccomp, as the host's kernel tells it of a machine that runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::harness::{self, GuestConfig, Host};
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(60);

/// Starts a guest on the NIC with such a sandbox, and has it ping; the report on the sandbox.
fn reported(host: &Host, sandbox: serde_json::Value) -> Result<String> {
    let report = report_of(host, GuestConfig::new(host).set("/sandbox", sandbox))?;
    postconditions::nic_is_free(host)?;
    Ok(report)
}

fn report_of(host: &Host, config: GuestConfig) -> Result<String> {
    let config = config.verbs("net,commands");
    let path = format!("{}/vm.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let guest = host.spawn(&format!("{} run {path} --sandbox-report", host.berth()?))?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    ensure!(guest.in_guest("pings 3", LIMIT)? == "L2: ping 3/3", "{}", guest.everything());
    let report = guest.stderr()?;
    guest.send("end\n")?;
    guest.must_end(0, LIMIT)?;
    Ok(report)
}

/// The lines of the report on the process with a thread of that name.
fn of_process<'a>(report: &'a str, thread: &str) -> Result<Vec<&'a str>> {
    let text = report.split_once("\nsandbox\n").or(report.split_once("sandbox\n"));
    let (_, text) = text.with_context(|| report.to_owned())?;
    let mut processes = text.split("  process ").map(|process| process.lines().collect());
    let has = |process: &Vec<&str>| process.iter().any(|line| line.contains(thread));
    processes.find(has).with_context(|| format!("{thread}: {report}"))
}

/// Costs three guests.
#[test]
fn every_thread_has_left_root_and_the_hosts_files() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let report = reported(&host, json!({}))?;
    let parent = of_process(&report, "    berth  ")?;
    let lines = of_process(&report, "/vcpu0 ")?;
    let threads = || lines.iter().chain(&parent).filter(|line| line.contains(" uid "));
    ensure!(threads().count() >= 3, "{report}");
    for line in threads() {
        ensure!(line.contains(" uid 19"), "{line}");
        ensure!(line.contains(" groups [] "), "{line}");
        ensure!(line.contains(" capabilities 0/0/0/0/0 "), "{line}");
        ensure!(line.contains(" no_new_privs 1 "), "{line}");
        ensure!(line.contains(" seccomp 2 "), "{line}");
    }
    let text = lines.join("\n");
    ensure!(text.contains("namespaces of its own: cgroup ipc mnt net pid uts"), "{text}");
    ensure!(text.contains("root      0 entries"), "{text}");
    ensure!(text.contains("core dump 0"), "{text}");

    let report = reported(&host, json!({ "uid": 4711, "without": ["namespaces", "root"] }))?;
    let text = of_process(&report, "/vcpu0 ")?.join("\n");
    ensure!(text.contains(" uid 4711  gid 4711 "), "{text}");
    ensure!(text.contains("namespaces of its own: none"), "{text}");

    // Helpers stay root, with what they need.
    host.bind("igb")?;
    let config = GuestConfig::new(&host).set("/devices/0/bind", json!("auto"));
    let report = report_of(&host, config)?;
    let guard = of_process(&report, "berth-guard ")?.join("\n");
    // DAC_READ_SEARCH, KILL, NET_ADMIN and SYS_PTRACE.
    ensure!(guard.contains(" uid 0 ") && guard.contains(" 81024/81024/0/0/81024 "), "{guard}");
    ensure!(guard.contains(" no_new_privs 1 ") && guard.contains(" seccomp 2 "), "{guard}");
    ensure!(guard.contains("namespaces of its own: mnt"), "{guard}");
    let steering = of_process(&report, "berth-irq ")?.join("\n");
    ensure!(steering.contains(" capabilities 0/0/0/0/0 "), "{steering}");
    ensure!(steering.contains(" seccomp 2 "), "{steering}");
    postconditions::kernel_is_content(&host)
}
