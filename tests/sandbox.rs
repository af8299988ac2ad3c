//! What stands behind seccomp, as the host's kernel tells it of a machine that runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::harness::{self, GuestConfig, Host};
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(60);

/// Starts a guest on the NIC with such a sandbox, and has it ping; the report on the sandbox.
fn reported(host: &Host, sandbox: serde_json::Value) -> Result<String> {
    let config = GuestConfig::new(host).verbs("net,commands").set("/sandbox", sandbox);
    let path = format!("{}/vm.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let guest = host.spawn(&format!("{} run {path} --sandbox-report", host.berth()?))?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    ensure!(guest.in_guest("pings 3", LIMIT)? == "L2: ping 3/3", "{}", guest.everything());
    let report = guest.stderr()?;
    guest.send("end\n")?;
    guest.must_end(0, LIMIT)?;
    postconditions::nic_is_free(host)?;
    Ok(report)
}

/// The lines of the report on the first process, berth itself.
fn of_berth(report: &str) -> Result<Vec<&str>> {
    let lines = report.lines().skip_while(|line| !line.starts_with("sandbox of process"));
    let mut lines: Vec<&str> = lines.skip(1).collect();
    let end = lines.iter().position(|line| line.trim_start().starts_with("limits"));
    lines.truncate(end.with_context(|| report.to_owned())? + 1);
    Ok(lines)
}

/// Costs two guests.
#[test]
fn every_thread_has_left_root_and_the_hosts_files() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let report = reported(&host, json!({}))?;
    let lines = of_berth(&report)?;
    let threads: Vec<&&str> = lines.iter().filter(|line| line.contains(" uid ")).collect();
    ensure!(threads.len() >= 2, "{report}");
    for line in threads {
        ensure!(line.contains(" uid 19"), "{line}");
        ensure!(line.contains(" groups [] "), "{line}");
        ensure!(line.contains(" capabilities 0/0/0/0/0 "), "{line}");
        ensure!(line.contains(" no_new_privs 1 "), "{line}");
        ensure!(line.contains(" seccomp 2 "), "{line}");
    }
    let text = lines.join("\n");
    ensure!(text.contains("namespaces of its own: cgroup ipc mnt net uts"), "{text}");
    ensure!(text.contains("root      0 entries"), "{text}");
    ensure!(text.contains("core dump 0"), "{text}");

    let report = reported(&host, json!({ "uid": 4711, "without": ["namespaces", "root"] }))?;
    let text = of_berth(&report)?.join("\n");
    ensure!(text.contains(" uid 4711  gid 4711 "), "{text}");
    ensure!(text.contains("namespaces of its own: none"), "{text}");
    postconditions::kernel_is_content(&host)
}
