//! Hosts that tests run berth on.
//!
//! ```ignore
//! let host = harness::host("nic");            // booted or left by another test; ours until dropped
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
mod pool;
mod process;
mod profile;
mod turn;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

pub use guest::GuestConfig;
pub use host::Host;
pub use pcap::Frame;
pub use pool::HostGuard;
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

/// What all clones on this machine share; `scripts` say where.
pub fn cache() -> Result<PathBuf> {
    std::env::var_os("BERTH_LAB_CACHE")
        .map(PathBuf::from)
        .context("no BERTH_LAB_CACHE: run scripts/test")
}

/// The folder of kernels and initramfs archives that `scripts/lab prepare` filled.
pub fn artefacts() -> Result<PathBuf> {
    std::env::var_os("BERTH_LAB_SET")
        .map(PathBuf::from)
        .context("no BERTH_LAB_SET: run scripts/test")
}

/// Where runs of this clone leave what they want to be looked at.
pub fn logs() -> PathBuf {
    let logs = PathBuf::from(REPOSITORY).join("target/lab");
    // Who writes there says what is wrong.
    let _ = std::fs::create_dir_all(&logs);
    logs
}

/// A host of our own until dropped: one of the profile that an earlier test has left, or a new one.
/// A test has one at a time.
///
/// # Panics
/// When the host cannot be had: the test then fails.
pub fn host(profile: &str) -> HostGuard {
    match pool::take(profile) {
        Ok(host) => host,
        Err(reason) => panic!("no host {profile}: {reason}"),
    }
}

/// Checks all of `cases`, so that one run tells of every failure.
pub fn check_all<T>(cases: &[T], what: &str, check: impl Fn(&T) -> Result<()>) -> Result<()> {
    let failures = cases.iter().filter_map(|case| check(case).err());
    let failures: Vec<String> = failures.map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    println!("{} {what}", cases.len());
    Ok(())
}
