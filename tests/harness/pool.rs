//! Lab hosts for tests that run side by side.
//!
//! As many tests have a host at a time as there are slots. A test gets a host that another one of
//! its profile has left, or a new one; two tests of one profile so have two.

use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Deref;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;

use super::profile::Profile;
use super::{Host, logs};

/// More hosts than that are for nobody: their memory is a few GiB each.
const MOST_SLOTS: usize = 4;

/// What part of the machine's memory hosts that nobody uses leave to others.
const OTHERS_PART: u64 = 4;

/// A host that a test has left.
struct Idle {
    profile: String,
    host: Host,
}

struct Pool {
    taken: usize,
    /// The longest unused first.
    idle: Vec<Idle>,
    /// Why hosts of a profile do not boot: their tests then fail at once, not one by one after two
    /// minutes each.
    failed: Vec<(String, String)>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { taken: 0, idle: Vec::new(), failed: Vec::new() });
static RETURNED: Condvar = Condvar::new();

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hosts in use at a time: one for each CPU, because a host with one guest keeps a CPU busy. This
/// machine as the host is one.
fn slots() -> usize {
    if std::env::var_os("BERTH_TEST_DEVICE").is_some() {
        return 1;
    }
    let asked = std::env::var("BERTH_LAB_HOSTS").ok().and_then(|text| text.parse().ok());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    asked.unwrap_or_else(|| cpus.min(MOST_SLOTS)).max(1)
}

/// The right to have a host.
struct Slot;

impl Slot {
    fn take() -> Self {
        let mut pool = pool();
        while pool.taken >= slots() {
            pool = RETURNED.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.taken += 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        pool().taken -= 1;
        RETURNED.notify_one();
    }
}

/// A host of our own until dropped.
pub struct HostGuard {
    /// There until dropped.
    host: Option<Host>,
    profile: String,
    since: Instant,
    _slot: Slot,
}

impl Deref for HostGuard {
    type Target = Host;

    fn deref(&self) -> &Host {
        self.host.as_ref().expect("there until dropped")
    }
}

impl Drop for HostGuard {
    fn drop(&mut self) {
        record(self.since);
        let profile = std::mem::take(&mut self.profile);
        // Who retired it wants a fresh one.
        if let Some(host) = self.host.take().filter(Host::is_running) {
            pool().idle.push(Idle { profile, host });
        }
        // What is not known is no reason to fail a test.
        let _ = make_room(0);
    }
}

/// A host of that profile, cleared of what the last test left running.
pub fn take(profile: &str) -> Result<HostGuard, String> {
    let slot = Slot::take();
    let since = Instant::now();
    let host = loop {
        let Some(host) = take_idle(profile) else {
            break boot(profile)?;
        };
        match host.clear() {
            Ok(()) => break host,
            Err(error) => {
                // It runs but does not answer.
                eprintln!("a lab host {profile} is given up: {error:?}");
                host.retire();
            }
        }
    };
    Ok(HostGuard { host: Some(host), profile: profile.to_owned(), since, _slot: slot })
}

fn take_idle(profile: &str) -> Option<Host> {
    let mut pool = pool();
    let position = pool.idle.iter().rposition(|idle| idle.profile == profile)?;
    let host = pool.idle.remove(position).host;
    host.is_running().then_some(host)
}

fn boot(profile: &str) -> Result<Host, String> {
    let known = pool().failed.iter().find(|(failed, _)| failed == profile).cloned();
    if let Some((_, reason)) = known {
        return Err(reason);
    }
    let boot = || {
        make_room(Profile::load(profile)?.memory_mib())?;
        let host = Host::new(profile)?;
        host.clear()?;
        Ok(host)
    };
    boot().map_err(|error: anyhow::Error| {
        let reason = format!("{error:?}");
        pool().failed.push((profile.to_owned(), reason.clone()));
        reason
    })
}

/// Powers idle hosts off, the longest unused first, until a host with so much memory has room, and
/// others have theirs.
fn make_room(memory_mib: u64) -> Result<()> {
    while memory_of("MemAvailable")? < memory_mib.max(memory_of("MemTotal")? / OTHERS_PART) {
        let mut pool = pool();
        if pool.idle.is_empty() {
            // It may still do: a host takes what it touches.
            return Ok(());
        }
        let idle = pool.idle.remove(0);
        drop(pool);
        eprintln!("the idle lab host {} is powered off for its memory", idle.profile);
        idle.host.retire();
    }
    Ok(())
}

/// A figure of proc_meminfo(5) in MiB; `MemAvailable` is what new processes could get.
fn memory_of(figure: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix(figure)?.strip_prefix(':')?.trim().strip_suffix("kB")?.trim().parse().ok()
    });
    Ok(kib.unwrap_or(0_u64) / 1024)
}

/// Notes how long this test had its host, for `scripts/test`.
fn record(since: Instant) {
    let thread = std::thread::current();
    let line = format!("{:.1} {}\n", since.elapsed().as_secs_f64(), thread.name().unwrap_or("-"));
    let file = OpenOptions::new().append(true).create(true).open(logs().join("test-times"));
    // A lost figure fails no test.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}
