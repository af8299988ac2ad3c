//! Machines come and go on one host, in good order or not, and leave nothing behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::harness::{self, GuestConfig, Host};
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(240);
const RUNS: u32 = 20;

/// How a run ends.
enum End {
    /// The guest powers off once its NIC is up.
    PowerOff,
    /// SIGKILL after so many milliseconds.
    KillAfter(u64),
    /// SIGKILL once the guest has said this.
    KillAt(&'static str),
}

/// Every other run is killed: from before the guest's first instruction to full traffic.
fn end_of(run: u32) -> End {
    match run {
        1 => End::KillAfter(0),
        3 | 15 => End::KillAt("L2: net eth0"),
        5 => End::KillAfter(300),
        7 | 19 => End::KillAt("L2: up"),
        9 => End::KillAfter(1000),
        11 => End::KillAt("PING 10.0.2.2"),
        13 => End::KillAfter(2000),
        17 => End::KillAfter(3500),
        _ => End::PowerOff,
    }
}

fn one_run(host: &Host, run: u32) -> Result<()> {
    let end = end_of(run);
    let verbs = match end {
        End::PowerOff => "net,poweroff",
        // Killed in the middle of traffic, unless sooner.
        End::KillAfter(_) | End::KillAt(_) => "net,bandwidth:1000",
    };
    let guest = host.run_guest(&GuestConfig::new(host).huge_memory(1024).verbs(verbs))?;
    match end {
        End::PowerOff => {
            guest.must_end(0, LIMIT)?;
            let console = guest.stdout()?;
            ensure!(console.contains("L2: net eth0 "), "{}", guest.everything());
        }
        End::KillAfter(milliseconds) => {
            std::thread::sleep(Duration::from_millis(milliseconds));
            guest.signal("KILL")?;
            guest.must_end(128 + 9, LIMIT)?;
        }
        End::KillAt(text) => {
            guest.wait_for(text, LIMIT)?;
            guest.signal("KILL")?;
            guest.must_end(128 + 9, LIMIT)?;
        }
    }
    postconditions::nic_is_free(host)
}

#[test]
fn twenty_runs_half_of_them_killed() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let start = Instant::now();
    for run in 0..RUNS {
        one_run(&host, run).with_context(|| format!("run {} of {RUNS}", run + 1))?;
    }
    println!("{RUNS} runs in {:.0?}", start.elapsed());
    postconditions::kernel_is_content(&host)
}
