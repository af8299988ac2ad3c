//! Forked children: processes beside berth that each do one thing, and that outlive what ends it.
//!
//! A child is a copy of a berth that has not started a machine yet. It keeps the descriptors that
//! it is given and no others, so that it holds no device open. It has a process group of its own
//! and ignores the signals that end a job: berth follows those, and the child follows berth.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::panic::{self, AssertUnwindSafe};

use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit};
use rustix::thread::CapabilitySet;

use crate::footprint;

/// Signals that end or stop a job. `SIGTTOU` stops a process of the background that sets a
/// terminal's modes, `SIGXFSZ` comes to who writes to a file that is as large as it may be.
const IGNORED: [libc::c_int; 7] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGTTOU,
    libc::SIGXFSZ,
];

/// Starts a child called `name` (at most 15 bytes) that runs `body` and ends. Of the descriptors
/// it has `kept`; the lowest three are `/dev/null` unless they are kept, so that no file that
/// `body` opens becomes standard output. What `body` owns is dropped here, in berth.
///
/// # Errors
/// The process has more than one thread: a fork keeps the calling one only, so locks that the
/// others hold would never be released in the child. Otherwise what fork(2) says.
pub fn start(name: &CStr, kept: &[RawFd], body: impl FnOnce()) -> io::Result<()> {
    if fork()?.is_some() {
        return Ok(());
    }
    let whole = panic::catch_unwind(AssertUnwindSafe(|| {
        detach(name, kept);
        footprint::shrink();
        body();
    }));
    // SAFETY: ends this process, without running what berth has registered for its own end.
    unsafe { libc::_exit(i32::from(whole.is_err())) }
}

/// Goes on in two processes; `None` in the child.
///
/// # Errors
/// As [`start`].
pub fn fork() -> io::Result<Option<Pid>> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        let reason = format!("the process has {threads} threads, and only one of them can fork");
        return Err(io::Error::other(reason));
    }
    // SAFETY: the process has one thread, so the child may do all that this thread could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Leaves no core dump of this process, whose memory knows the guest's secrets. Where it may, it is
/// not read by others of its user either (`PR_SET_DUMPABLE`): the next berth has to see who has a
/// device, and without CAP_SYS_PTRACE sees only what is dumpable.
///
/// # Errors
/// What prctl(2) and setrlimit(2) say.
pub fn keep_memory_private() -> io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)?;
    if rustix::thread::capabilities(None)?.effective.contains(CapabilitySet::SYS_PTRACE) {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

/// Lets go of everything of berth's. Nothing here can fail in a way that keeps the child from its
/// work.
fn detach(name: &CStr, kept: &[RawFd]) {
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::thread::set_name(name);
    let _ = rustix::process::chdir(c"/");
    let _ = rustix::thread::set_no_new_privs(true);
    let _ = keep_memory_private();
    for signal in IGNORED {
        // SAFETY: installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    keep_only(kept);
}

/// Closes all descriptors but `kept`; of values that this process never touches again. The lowest
/// three are `/dev/null` then, unless they are kept.
pub fn keep_only(kept: &[RawFd]) {
    for gap in gaps(kept) {
        // SAFETY: descriptors that are closed here belong to values of the parent's that this
        // process never touches again.
        unsafe { libc::syscall(libc::SYS_close_range, *gap.start(), *gap.end(), 0) };
    }
    while let Ok(null) =
        rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        && null.as_raw_fd() <= libc::STDERR_FILENO
    {
        // Stays open until the child ends.
        let _ = null.into_raw_fd();
    }
}

/// The descriptors between and behind those of `kept`, in the ranges that close_range(2) takes.
fn gaps(kept: &[RawFd]) -> Vec<RangeInclusive<u32>> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 0;
    let mut gaps = Vec::new();
    for fd in kept {
        if first < fd {
            gaps.push(first..=fd - 1);
        }
        first = fd + 1;
    }
    gaps.push(first..=u32::MAX);
    gaps
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn gaps_are_all_but_what_is_kept() {
        assert_eq!(gaps(&[]), [0..=u32::MAX]);
        assert_eq!(gaps(&[7, 2, 8]), [0..=1, 3..=6, 9..=u32::MAX]);
        assert_eq!(gaps(&[0, 0]), [1..=u32::MAX]);
    }

    #[test]
    fn a_process_with_more_threads_does_not_fork() {
        let (release, wait) = mpsc::channel::<()>();
        let other = thread::spawn(move || wait.recv().is_err());
        let error = start(c"berth-test", &[], || {}).expect_err("this process has two threads");
        drop(release);
        assert!(other.join().expect("the thread does not panic"));
        assert!(error.to_string().contains("threads"), "{error}");
    }

    /// A copy of this process with one thread starts a child that says what it has.
    fn report_of_a_child(body: fn(File)) -> String {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let kept = writer.as_raw_fd();
        // SAFETY: the copy does what any process with one thread may, and ends.
        let copy = unsafe { libc::fork() };
        if copy == 0 {
            let out = File::from(OwnedFd::from(writer));
            let started = start(c"berth-test", &[libc::STDERR_FILENO, kept], move || body(out));
            // SAFETY: ends the copy.
            unsafe { libc::_exit(i32::from(started.is_err())) }
        }
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("a pipe is read");
        let mut status = 0;
        // SAFETY: `status` is writable.
        assert_eq!(unsafe { libc::waitpid(copy, &raw mut status, 0) }, copy);
        assert_eq!(status, 0, "the child was not started");
        text
    }

    #[test]
    fn a_child_has_nothing_of_berths_but_what_it_keeps() {
        // What a berth that starts a child has open by then.
        let _device = File::open("/proc/version").expect("a file");
        let report = report_of_a_child(|mut out| {
            let files = fs::read_dir("/proc/self/fd").expect("procfs").flatten();
            let files: Vec<String> = files
                .filter_map(|file| fs::read_link(file.path()).ok())
                .map(|target| target.display().to_string())
                .collect();
            let nulls = files.iter().filter(|file| *file == "/dev/null").count();
            let devices = files.iter().filter(|file| *file == "/proc/version").count();
            let group = rustix::process::getpgrp() == rustix::process::getpid();
            let folder = std::env::current_dir().expect("a folder");
            let name = fs::read_to_string("/proc/self/comm").expect("procfs");
            let name = name.trim();
            let folder = folder.display();
            write!(out, "{name} {folder} {group} nulls>1:{} {devices}", nulls >= 2)
                .expect("a pipe takes a line");
        });
        assert_eq!(report, "berth-test / true nulls>1:true 0");
    }

    #[test]
    fn a_child_gains_nothing_and_leaves_no_core_dump() {
        let report = report_of_a_child(|mut out| {
            let line = |file: &str, start: &str| {
                let text = fs::read_to_string(file).expect("procfs");
                let line = text.lines().find(|line| line.starts_with(start)).expect("a line");
                line.split_whitespace().collect::<Vec<_>>().join(" ")
            };
            let privileges = line("/proc/self/status", "NoNewPrivs");
            let core = line("/proc/self/limits", "Max core file size");
            write!(out, "{privileges}, {core}").expect("a pipe takes a line");
        });
        assert_eq!(report, "NoNewPrivs: 1, Max core file size 0 0 bytes");
    }

    #[test]
    fn signals_that_end_a_job_do_not_end_a_child() {
        let report = report_of_a_child(|mut out| {
            let own = rustix::process::getpid().as_raw_nonzero().get();
            for signal in IGNORED {
                // SAFETY: sends a signal to this process.
                unsafe { libc::kill(own, signal) };
            }
            write!(out, "alive").expect("a pipe takes a word");
        });
        assert_eq!(report, "alive");
    }
}
