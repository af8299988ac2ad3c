//! What the sandbox has come to, as the kernel tells it.
//!
//! berth itself reads no file any more by then. So a child that was forked before looks at it from
//! outside, in `/proc`, once every thread is restricted, prints that, and ends.

use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use super::{SandboxError, cores};
use crate::child;

/// The process that reports, from berth's side.
pub struct Reporter(PipeWriter);

impl Reporter {
    /// Starts it, while the process has one thread.
    ///
    /// # Errors
    /// No pipe, or no child.
    pub fn start() -> Result<Self, SandboxError> {
        let (reader, writer) = io::pipe().map_err(SandboxError::Reporter)?;
        let berth = std::process::id();
        let kept = [libc::STDERR_FILENO, reader.as_raw_fd()];
        child::start(c"berth-report", &kept, || wait_and_report(reader, berth))
            .map_err(SandboxError::Reporter)?;
        Ok(Self(writer))
    }

    /// All threads are restricted: it may look.
    pub fn report(mut self) {
        // One that is gone prints nothing, which is seen.
        let _ = self.0.write(&[1]);
    }
}

fn wait_and_report(mut reader: PipeReader, berth: u32) {
    if matches!(reader.read(&mut [0]), Ok(1)) {
        let text = report(berth);
        // One write, so that no line of another process comes between.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Lines on all threads of `berth`, and of the processes that it has started: the machine's and the
/// helpers.
fn report(berth: u32) -> String {
    let mut text = String::from("sandbox\n");
    let children = processes().filter(|pid| {
        let parent = status_of(&format!("/proc/{pid}"), "PPid").and_then(|pid| pid.parse().ok());
        parent == Some(berth) && *pid != std::process::id()
    });
    let children: Vec<u32> = children.collect();
    for pid in std::iter::once(berth).chain(children) {
        let mut threads = numbers(&format!("/proc/{pid}/task")).collect::<Vec<_>>();
        threads.sort_unstable();
        text += &format!("  process {pid}\n");
        for thread in threads {
            text += &thread_line(&format!("/proc/{pid}/task/{thread}"));
        }
        text += &format!("    root      {}\n", root_of(pid));
        text += &format!("    namespaces of its own: {}\n", own_namespaces(pid));
        text += &format!("    limits    {}\n", limits_of(pid));
        text += &format!("    cores     {}\n", cores_of(pid));
    }
    text
}

fn numbers(folder: &str) -> impl Iterator<Item = u32> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn processes() -> impl Iterator<Item = u32> {
    numbers("/proc")
}

fn status_of(folder: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("{folder}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// `    router/vcpu0  uid 1900000711  gid ...  capabilities 0 ...`.
fn thread_line(folder: &str) -> String {
    let of = |key: &str| status_of(folder, key).unwrap_or_else(|| "?".to_owned());
    let first = |key: &str| of(key).split(' ').next().unwrap_or("?").to_owned();
    // Effective, permitted, inheritable, ambient, and those that a program could get.
    let sets = ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"].map(|key| {
        let set = of(key);
        let short = set.trim_start_matches('0');
        if short.is_empty() { "0".to_owned() } else { short.to_owned() }
    });
    format!(
        "    {:15}  uid {}  gid {}  groups [{}]  capabilities {}  no_new_privs {}  seccomp {} ({})\n",
        of("Name"),
        first("Uid"),
        first("Gid"),
        of("Groups"),
        sets.join("/"),
        of("NoNewPrivs"),
        of("Seccomp"),
        of("Seccomp_filters"),
    )
}

/// How many mounts it sees, and whether its root has anything in it.
fn root_of(pid: u32) -> String {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let entries = match fs::read_dir(format!("/proc/{pid}/root")) {
        Ok(entries) => format!("{} entries", entries.count()),
        Err(error) => format!("not to be seen ({error})"),
    };
    format!("{entries}, {} mounts", mounts.lines().count())
}

fn own_namespaces(pid: u32) -> String {
    let of = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let own = kinds.into_iter().filter(|kind| {
        let (its, here) = (of(&pid.to_string(), kind), of("self", kind));
        its.is_some() && its != here
    });
    let own: Vec<&str> = own.collect();
    if own.is_empty() { "none".to_owned() } else { own.join(" ") }
}

fn cores_of(pid: u32) -> &'static str {
    match cores::keeps_to_itself(pid) {
        Some(true) => "shared with its own threads only",
        Some(false) => "shared with others",
        None => {
            "no core scheduling here: a host without SMT, or a kernel without CONFIG_SCHED_CORE"
        }
    }
}

fn limits_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let wanted = [
        ("Max locked memory", "locked memory"),
        ("Max address space", "address space"),
        ("Max file size", "file size"),
        ("Max processes", "tasks"),
        ("Max core file size", "core dump"),
    ];
    let limit = |(key, name): (&str, &str)| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(format!("{name} {}", line.split_whitespace().nth(1)?))
    };
    wanted.into_iter().filter_map(limit).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_what_the_kernel_says_of_each_thread() {
        let text = report(std::process::id());
        let uid = rustix::process::geteuid().as_raw();
        assert!(text.contains(&format!("uid {uid}  gid ")), "{text}");
        assert!(text.contains("namespaces of its own: none"), "{text}");
        assert!(text.contains("core dump "), "{text}");
        // A process that is not there has no threads, and nothing is made up for it.
        assert!(!report(u32::MAX).contains("uid"), "{}", report(u32::MAX));
    }
}
