//! What stands behind seccomp, as the host's kernel tells it of a machine that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::faults;
use crate::harness::{self, GuestConfig, Host};
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(60);

/// Starts a guest on the NIC with such a sandbox, and has it ping; the report on the sandbox.
fn reported(host: &Host, sandbox: serde_json::Value) -> Result<String> {
    let report = report_of(host, GuestConfig::new(host).set("/sandbox", sandbox), true)?;
    postconditions::nic_is_free(host)?;
    Ok(report)
}

fn report_of(host: &Host, config: GuestConfig, has_nic: bool) -> Result<String> {
    let config = config.verbs(if has_nic { "net,commands" } else { "commands" });
    let path = format!("{}/vm.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let guest = host.spawn(&format!("{} run {path} --sandbox-report", host.berth()?))?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    if has_nic {
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
    let report = report_of(&host, config, true)?;
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

/// On a host with two threads a core, whose kernel has core scheduling. Costs a guest.
#[test]
fn a_vcpu_shares_its_core_with_its_own_machine_only() -> Result<()> {
    let host = harness::host("iommufd-card");
    let report = report_of(&host, GuestConfig::new(&host).without_devices(), false)?;
    let text = of_process(&report, "/vcpu0 ")?.join("\n");
    ensure!(text.contains("cores     shared with its own threads only"), "{text}");
    let text = of_process(&report, "    berth  ")?.join("\n");
    ensure!(text.contains("cores     shared with others"), "{text}");
    Ok(())
}

/// What a filter may list beyond what runs of the lab have used: calls for a crash, for contended
/// locks, for other C libraries and kernels, for devices that this one is not.
const SLACK: [(&str, usize); 6] = [
    ("parent", 16),
    ("control", 20),
    ("vcpu", 16),
    ("memory", 16),
    ("interrupts", 20),
    ("guard", 30),
];

macro_rules! numbers {
    ($($name:ident)*) => { [$((stringify!($name), libc::$name)),*] };
}

/// Every call that a filter names.
fn syscalls() -> BTreeMap<String, i64> {
    let all = numbers![
        SYS_access SYS_bind SYS_brk SYS_capget SYS_chmod SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_epoll_ctl SYS_epoll_wait SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fchmod SYS_fchmodat SYS_fcntl SYS_fdatasync SYS_flock SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_getdents64 SYS_geteuid SYS_getpid SYS_getrandom SYS_getsockname SYS_getuid SYS_ioctl SYS_lseek SYS_lstat SYS_madvise SYS_mkdir SYS_mkdirat SYS_mlock SYS_mmap SYS_mprotect SYS_mremap SYS_munmap SYS_nanosleep SYS_newfstatat SYS_openat SYS_pidfd_open SYS_pidfd_send_signal SYS_poll SYS_ppoll SYS_pread64 SYS_pwrite64 SYS_read SYS_readlink SYS_readlinkat SYS_recvfrom SYS_recvmsg SYS_rename SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sched_getaffinity SYS_sched_yield SYS_sendmsg SYS_sendto SYS_setsockopt SYS_sigaltstack SYS_socket SYS_stat SYS_statfs SYS_statx SYS_tgkill SYS_uname SYS_unlink SYS_unlinkat SYS_waitid SYS_write
    ];
    let name = |name: &str| name.trim_start_matches("SYS_").to_owned();
    all.into_iter().map(|(full, number)| (name(full), number)).collect()
}

/// By number, as the filters have them by name.
fn numbers_of(role: &str) -> Result<BTreeMap<i64, String>> {
    let filters: serde_json::Value =
        serde_json::from_str(include_str!("../resources/seccomp/x86_64.json"))?;
    let rules = filters[role]["filter"].as_array().context("a role")?;
    let name = |rule: &serde_json::Value| rule["syscall"].as_str().map(str::to_owned);
    let names: BTreeSet<String> = rules.iter().filter_map(name).collect();
    let table = syscalls();
    let number = |name: String| {
        let number = table.get(&name).copied();
        number.map(|number| (number, name.clone())).with_context(|| format!("{name} has no number"))
    };
    names.into_iter().map(number).collect()
}

/// A filter that lists much more than is used has grown by itself.
#[test]
fn filters_allow_little_more_than_is_used() -> Result<()> {
    // From the call by which a thread gets its filter.
    let (mut used, mut filtered) = (BTreeMap::new(), BTreeSet::new());
    let calls = faults::calls()?;
    let parent = calls.first().context("calls")?.thread;
    for call in calls {
        let role = match &*call.name {
            "berth" if call.thread == parent => "parent",
            "berth" => "control",
            "berth-guard" => "guard",
            "berth-irq" => "interrupts",
            "berth-memory" => "memory",
            name if name.contains("/vcpu") => "vcpu",
            _ => continue,
        };
        if call.call == libc::SYS_seccomp {
            filtered.insert(call.thread);
        } else if filtered.contains(&call.thread) {
            used.entry(role).or_insert_with(BTreeSet::new).insert(call.call);
        }
    }
    for (role, slack) in SLACK {
        let allowed = numbers_of(role)?;
        let used = used.get(role).with_context(|| format!("{role} has made no call"))?;
        let unused: Vec<&String> = allowed
            .iter()
            .filter(|(number, _)| !used.contains(number))
            .map(|(_, name)| name)
            .collect();
        println!("{role}: {} used, not used {unused:?}", used.len());
        ensure!(unused.len() <= slack, "{role}: {} unused: {unused:?}", unused.len());
    }
    Ok(())
}
