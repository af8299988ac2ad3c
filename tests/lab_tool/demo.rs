//! One guest with the NIC assigned, told as it happens.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::harness::{self, GuestConfig, Process};
use super::{proofs, terminal};

/// A guest needs 15 s here on two idle cores.
const GUEST_LIMIT: Duration = Duration::from_secs(180);

/// Runs the demo; an error when something it is meant to prove did not hold.
pub fn run(keep: bool) -> Result<()> {
    let clock = Clock::start();
    clock.say("booting the emulated host (7 s on two idle cores)");
    let host = harness::host("nic");
    let capture_start = host.outside_capture()?.map_or(0, |frames| frames.len());
    clock.say(&format!("host is up; NIC {} goes to vfio-pci", host.nic()));
    host.bind_vfio()?;

    let config = GuestConfig::new(&host)
        // A distribution's kernel, which a reader has seen before.
        .kernel("6.12")
        .set("/name", "router")
        .huge_memory(1024)
        .verbs("machine,pci,net,ping:3,interrupts,wait");
    let path = "/tmp/router.json";
    host.write(path, &config.to_string())?;
    println!("{config}");
    let berth = host.berth()?;
    clock.say(&format!("{berth} plan {path}"));
    indent("plan", &host.run(&format!("{berth} plan {path}"))?);

    clock.say(&format!("{berth} run {path}"));
    let guest = host.spawn(&format!("{berth} run {path}"))?;
    let mut shown = 0;
    follow(&guest, &mut shown, |stdout| stdout.contains("L2: waiting"))?;
    if guest.status()?.is_some() {
        bail!("berth ended before its guest had done its part\n{}", guest.everything());
    }
    clock.say("guest is done and waits; looking at berth from the host");
    let mut table = proofs::while_running(&host, &guest)?;
    guest.send("end\n")?;
    follow(&guest, &mut shown, |_| false)?;
    clock.say("guest powered off");
    table.extend(proofs::after_the_end(&host, &guest, capture_start)?);

    println!("\nwhat was proved, and by whom\n");
    for proof in &table {
        let verdict = if proof.holds { "yes" } else { "NO" };
        println!("  {verdict:3}  {:34} {:32} {}", proof.claim, proof.seen, proof.witness);
    }
    println!();
    let failed = table.iter().filter(|proof| !proof.holds).count();
    if keep {
        clock.say(&format!("a shell on the host; {path} is still there; `exit` ends the demo"));
        if let Some(socket) = host.console_socket() {
            terminal::attach(&socket)?;
        }
    }
    if failed != 0 {
        bail!("{failed} of {} claims did not hold\n{}", table.len(), guest.stderr()?);
    }
    clock.say("done");
    Ok(())
}

/// Shows what the guest prints until `enough`, or until berth ends.
fn follow(guest: &Process, shown: &mut usize, enough: impl Fn(&str) -> bool) -> Result<()> {
    let deadline = Instant::now() + GUEST_LIMIT;
    loop {
        let ended = guest.status()?.is_some();
        let stdout = guest.stdout()?.replace('\r', "");
        let lines: Vec<&str> = stdout.lines().collect();
        // The last line may be half printed; it is shown once another one follows it.
        let complete = if ended { lines.len() } else { lines.len().saturating_sub(1) };
        let complete = complete.max(*shown);
        for line in &lines[*shown..complete.min(lines.len())] {
            println!("  guest | {line}");
        }
        *shown = complete;
        if ended || enough(&stdout) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the guest did not get there\n{}", guest.everything());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn indent(label: &str, text: &str) {
    for line in text.lines() {
        println!("  {label} | {line}");
    }
}

/// Elapsed times that go on from where `scripts/demo` stopped.
struct Clock {
    start: Instant,
    before: u64,
}

impl Clock {
    fn start() -> Self {
        let before = std::env::var("DEMO_STARTED_AGO").ok().and_then(|text| text.parse().ok());
        Self { start: Instant::now(), before: before.unwrap_or(0) }
    }

    fn say(&self, text: &str) {
        println!("[{:4}s] {text}", self.before + self.start.elapsed().as_secs());
    }
}
