//! The lab for people: `demo [--keep]`, `shell PROFILE` and `exec PROFILE SCRIPT`, called by `scripts/demo` and
//! `scripts/lab`. A test target without libtest, because it drives the same harness.

#[allow(dead_code, unused_imports, reason = "a vocabulary: no binary needs all of it")]
#[path = "../harness/mod.rs"]
mod harness;

mod demo;
mod proofs;
mod terminal;

use std::time::Duration;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["demo"] => demo::run(false),
        ["demo", "--keep"] => demo::run(true),
        ["shell", profile] => shell(profile),
        ["exec", profile, script] => exec(profile, script),
        _ => bail!("usage: demo [--keep] | shell PROFILE | exec PROFILE SCRIPT"),
    }
}

fn shell(profile: &str) -> Result<()> {
    let host = harness::host(profile);
    match host.berth() {
        Ok(path) => eprintln!("berth is {path}, kernels and initramfs archives are in /lab"),
        Err(error) => eprintln!("no berth there: {error:#}"),
    }
    terminal::attach(&host.console_socket().context("a shell needs a lab host")?)
}

/// Boots a host for one script, with the NIC bound to vfio-pci if there is an IOMMU.
fn exec(profile: &str, script: &str) -> Result<()> {
    let host = harness::host(profile);
    host.berth()?;
    if host.bind_vfio().is_err() {
        eprintln!("the NIC stays without vfio-pci");
    }
    let output = host.exec_with(script, &[], Duration::from_secs(300))?;
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    std::process::exit(output.status)
}
