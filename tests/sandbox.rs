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
    let is_alone = config.to_string().contains("\"devices\":[]");
    let config = config.verbs(if is_alone { "commands" } else { "net,commands" });
    let path = format!("{}/vm.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let guest = host.spawn(&format!("{} run {path} --sandbox-report", host.berth()?))?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    if !is_alone {
        ensure!(guest.in_guest("pings 3", LIMIT)? == "L2: ping 3/3", "{}", guest.everything());
    }
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

/// In a user namespace, as nobody but itself. Costs a guest.
#[test]
fn an_ordinary_user_has_the_same_sandbox() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let group = host.run(&format!("basename $(readlink {}/iommu_group)", host.nic_sysfs()))?;
    let files = format!("/dev/kvm /dev/vfio/{}", group.trim());
    let config = GuestConfig::new(&host).verbs("net,commands");
    let path = format!("{}/user.json", host.scratch());
    host.write(&path, &config.to_string())?;
    host.run(&format!("chown 1000 {files}; chmod 711 {}", host.scratch()))?;
    let run = format!("{} run {path} --sandbox-report", host.berth()?);
    let run = format!("ulimit -l 600000; exec su user -c '{run}'");
    let guest = host.spawn(&format!("sh -c \"{run}\""))?;
    let pinged = guest
        .wait_for("L2: takes commands", LIMIT)
        .and_then(|_| guest.in_guest("pings 3", LIMIT))
        .with_context(|| guest.everything());
    host.run(&format!("chown 0 {files}"))?;
    ensure!(pinged? == "L2: ping 3/3", "{}", guest.everything());
    let report = guest.stderr()?;
    guest.send("end\n")?;
    guest.must_end(0, LIMIT)?;
    let text = of_process(&report, "/vcpu0 ")?.join("\n");
    ensure!(text.contains(" uid 1000  gid 1000 "), "{text}");
    ensure!(text.contains(" capabilities 0/0/0/0/"), "{text}");
    ensure!(text.contains("namespaces of its own: cgroup ipc mnt net pid user uts"), "{text}");
    ensure!(text.contains("root      0 entries"), "{text}");
    postconditions::nic_is_free(&host)
}

/// The profile as it is shipped, for a berth of the lab's. Costs a guest.
#[test]
fn a_machine_runs_within_its_apparmor_profile() -> Result<()> {
    const LOAD: &str = "/lab/volumes/ld-linux-x86-64.so.2 --library-path /lab/volumes /lab/volumes/apparmor_parser";
    let host = harness::host("nic");
    host.bind("igb")?;
    host.run(
        "mountpoint -q /sys/kernel/security || mount -t securityfs securityfs /sys/kernel/security",
    )?;
    let shipped = include_str!("../resources/host/apparmor.profile");
    let berth = host.berth()?;
    let profile = shipped
        .replace("/usr/{local/,}{s,}bin/berth", berth)
        .replace("include if exists <local/berth>", "/lab/** r,");
    ensure!(profile.matches(berth).count() == 1 && profile.contains("/lab/"), "{profile}");
    let file = format!("{}/berth.profile", host.scratch());
    host.write(&file, &profile)?;
    host.run(&format!("{LOAD} -r -K {file}"))?;

    let confined = || -> Result<()> {
        let config = GuestConfig::new(&host).verbs("net,commands").set("/devices/0/bind", "auto");
        let guest = host.run_guest(&config)?;
        guest.wait_for("L2: takes commands", LIMIT)?;
        ensure!(guest.in_guest("pings 3", LIMIT)? == "L2: ping 3/3", "{}", guest.everything());
        let current = format!("cat /proc/{}/attr/current", guest.machine()?);
        ensure!(host.run(&current)?.trim() == "berth (enforce)", "it is not confined");
        guest.send("end\n")?;
        guest.must_end(0, LIMIT)?;
        host.write("/root/secret", "{}")?;
        let refused = host.exec(&format!("{berth} plan /root/secret"))?;
        ensure!(refused.status == 2 && refused.stderr.contains("denied"), "{}", refused.stderr);
        Ok(())
    };
    let result = confined();
    host.run(&format!("{LOAD} -R {file}; rm -f /root/secret"))?;
    let denied = host.kernel_log()?;
    let denied: Vec<&str> = denied
        .lines()
        .filter(|line| line.contains("apparmor=\"DENIED\"") && !line.contains("/root/secret"))
        .collect();
    ensure!(denied.is_empty(), "{denied:#?}\n{result:?}");
    result
}

/// On a host with two threads a core. Costs a guest.
#[test]
fn a_vcpu_shares_its_core_with_its_own_machine_only() -> Result<()> {
    let host = harness::host("topology");
    let report = report_of(&host, GuestConfig::new(&host).without_devices())?;
    let text = of_process(&report, "/vcpu0 ")?.join("\n");
    ensure!(text.contains("cores     shared with its own threads only"), "{text}");
    let text = of_process(&report, "    berth  ")?.join("\n");
    ensure!(text.contains("cores     shared with others"), "{text}");
    Ok(())
}
