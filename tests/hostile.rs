//! A guest's root that does anything to its devices, on two CPUs at once: berth and the host stay
//! sound, and the devices serve the next guest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::devices::{self, EDU, NVME, SMALL};
use crate::harness::{self, Host};

/// Seconds of hostility to each set of devices; `BERTH_HOSTILE_SECONDS` says otherwise.
const SECONDS: u64 = 15;

/// For a guest that ends when its time is over, and for berth when it is told to end.
const GRACE: Duration = Duration::from_secs(60);

/// How a guest may end that harms itself: powered off, reset, panicked, shut down, or ended by
/// the test because it is silent.
const ENDS: [i32; 5] = [0, 10, 11, 12, 15];

/// Lets guests be hostile to these devices, at these addresses of theirs, until the time is over:
/// one that harms itself is followed by another.
fn let_rage(host: &Host, devices: &[&str], mode: &str, targets: &str) -> Result<()> {
    let seconds = match std::env::var("BERTH_HOSTILE_SECONDS") {
        Ok(text) => text.parse().with_context(|| format!("BERTH_HOSTILE_SECONDS={text}"))?,
        Err(_) => SECONDS,
    };
    let mut left = Duration::from_secs(seconds);
    for seed in std::process::id().. {
        let guest = devices::guest(host, devices, &["iomem=relaxed"])?;
        // The attack is on berth: drivers in its way would only end the guest's kernel.
        let attack = format!("probe hostile {} {seed} {mode} {targets}", left.as_secs().max(1));
        guest.send(&format!("modprobe -r igb nvme; sleep 1; {attack}; poweroff -f\n"))?;
        guest.wait_for("hostile begins", devices::LIMIT)?;
        let start = Instant::now();
        if guest.wait(left + GRACE).is_err() {
            // It has silenced itself; no vCPU waits for berth.
            let stacks = host.run(&format!("cat /proc/{}/task/*/stack", guest.machine()?))?;
            println!("seed {seed} is silent:\n{stacks}");
            ensure!(!stacks.contains("futex"), "a thread of berth waits for another:\n{stacks}");
            guest.signal("TERM")?;
            guest.signal("TERM")?;
        }
        let status = guest.wait(GRACE)?;
        let said = guest.everything();
        println!("seed {seed} ended with {status}: {said}");
        ensure!(ENDS.contains(&status) && !said.contains("panicked at"), "status {status}: {said}");
        devices::host_is_content(host)?;
        left = left.saturating_sub(start.elapsed());
        if left.is_zero() {
            break;
        }
    }
    Ok(())
}

#[test]
fn devices_serve_the_next_guest_after_a_hostile_one() -> Result<()> {
    let host = harness::host("devices");
    let devices = [host.nic(), NVME, EDU, SMALL];
    let_rage(&host, &devices, "reads", "0000:01:00.0 0000:02:00.0 0000:00:03.0 0000:00:04.0")?;
    let_rage(&host, &[EDU, SMALL], "registers", "0000:00:01.0 0000:00:02.0")?;
    devices::serve(&host)
}
