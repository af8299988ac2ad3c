//! Distribution kernels boot, in both formats, and get what they were promised.

use std::time::Duration;

use anyhow::Result;

use crate::harness::{self, GuestConfig};
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(180);

/// The guest counts two CPUs and its memory, and pings through the assigned NIC.
fn boots(series: &str, compressed: bool) -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let config = GuestConfig::new(&host).kernel(series);
    let config = config.set("/memory/size_mib", 512).verbs("machine,net,ping:3");
    let config = if compressed { config.compressed_kernel() } else { config };
    let guest = host.run_guest(&config)?;
    guest.must_end(0, LIMIT)?;
    let console = guest.stdout()?.replace('\r', "");
    assert!(console.contains("L2: cpus 2\n"), "{}", guest.everything());
    let kib = console.split("L2: memory_kib ").nth(1).and_then(|rest| rest.lines().next());
    let kib: u32 = kib.unwrap_or("none").parse()?;
    // The kernel keeps some of its 512 MiB for itself.
    assert!((440 << 10..=512 << 10).contains(&kib), "{kib} KiB of memory");
    assert!(console.contains(&format!("L2: net eth0 {}\n", host.mac())), "{}", guest.everything());
    assert!(console.contains("L2: ping 3/3\n"), "{}", guest.everything());
    postconditions::nic_is_free(&host)?;
    postconditions::kernel_is_content(&host)
}

#[test]
fn linux_6_12_vmlinux() -> Result<()> {
    boots("6.12", false)
}

#[test]
fn linux_6_12_bzimage() -> Result<()> {
    boots("6.12", true)
}

#[test]
fn linux_6_1_vmlinux() -> Result<()> {
    boots("6.1", false)
}

#[test]
fn linux_6_1_bzimage() -> Result<()> {
    boots("6.1", true)
}
