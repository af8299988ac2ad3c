//! Hosts that tests run berth on.
//!
//! ```ignore
//! let host = harness::host("nic");            // booted once, shared, ours until dropped
//! host.bind_vfio()?;
//! let guest = host.run_guest(&GuestConfig::new(&host).verbs("net,ping:3"))?;
//! guest.wait_for("L2: ping 3/3", Duration::from_secs(60))?;
//! ```
//!
//! A host is a **lab host** (L1): a Linux that QEMU emulates in software as a profile of
//! `resources/lab` says, so that the tests need neither hardware nor `/dev/kvm`. With
//! `BERTH_TEST_DEVICE=0000:41:00.0` in the environment, `host("nic")` is this very machine and
//! that device instead. Facts that only an outside view can give (packet capture, QEMU's monitor)
//! are then absent, and the methods for them say so.
//!
//! Nothing here skips a test: a lab that cannot run is a failure that says why.

mod agent;
mod guest;
mod here;
mod host;
mod l1;
mod pcap;
mod process;
mod profile;
mod turn;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};

pub use guest::GuestConfig;
pub use host::Host;
pub use pcap::Frame;
pub use process::Process;

/// The root of the source tree; this file is compiled as part of the vmm package.
pub const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// How a script ended and what it printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status; 128 + N for signal N.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output without its last newline, if the script succeeded.
    pub fn success(self) -> Result<String> {
        if self.status != 0 {
            bail!("exit status {}\n{}{}", self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout.trim_end().to_owned())
    }
}

/// The folder of artefacts that `scripts/lab prepare` filled.
pub fn cache() -> PathBuf {
    std::env::var_os("BERTH_LAB_CACHE")
        .map_or_else(|| PathBuf::from(REPOSITORY).join("target/lab"), PathBuf::from)
}

/// A host of our own until dropped. One test runs at a time: two cores emulate one host at a
/// bearable speed, not several.
pub struct HostGuard {
    host: Arc<Host>,
    _turn: MutexGuard<'static, ()>,
}

impl std::ops::Deref for HostGuard {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// The host of a profile, booted on first use and cleared of what the last test left running.
///
/// # Panics
/// When the host cannot be had: the test then fails.
pub fn host(profile: &str) -> HostGuard {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has poisoned the lock; the host gets cleared, so carry on.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    match shared_host(profile) {
        Ok(host) => HostGuard { host, _turn: turn },
        Err(reason) => panic!("no host {profile}: {reason}"),
    }
}

/// A host that did not boot is remembered too: its tests then fail at once, not one by one after
/// two minutes each.
type Hosts = BTreeMap<String, Result<Arc<Host>, String>>;

fn shared_host(profile: &str) -> Result<Arc<Host>, String> {
    static HOSTS: Mutex<Hosts> = Mutex::new(BTreeMap::new());

    let readable = |error: anyhow::Error| format!("{error:?}");
    let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(hosts.get(profile), Some(Ok(host)) if !host.is_running()) {
        hosts.remove(profile);
    }
    let boot = || Host::new(profile).map(Arc::new).map_err(readable);
    let host = hosts.entry(profile.to_owned()).or_insert_with(boot).clone()?;
    if let Err(error) = host.clear() {
        // It runs but does not answer: the next test gets a new one.
        host.retire();
        return Err(readable(error));
    }
    Ok(host)
}

/// Checks all of `cases`, so that one run tells of every failure.
pub fn check_all<T>(cases: &[T], what: &str, check: impl Fn(&T) -> Result<()>) -> Result<()> {
    let failures = cases.iter().filter_map(|case| check(case).err());
    let failures: Vec<String> = failures.map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    println!("{} {what}", cases.len());
    Ok(())
}
