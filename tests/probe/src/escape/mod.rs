//! What a guest that has taken over a thread of berth could do: attempts, each made by that very
//! thread's copy, under its real filter, user, namespaces and descriptors.
//!
//! `probe escape` stops the thread with ptrace(2) and makes a copy of it by fork(2), the kernel
//! looking away from the filter for that one call (`PTRACE_O_SUSPEND_SECCOMP`). The thread itself
//! then goes on. The copy makes a copy for each attempt, which the attempt may kill. With `bare` the
//! attempts are made without the filter: by what stands behind it.

mod attempts;
mod files;
mod kernel;
mod memory;
mod others;
mod tracee;

use std::os::unix::net::UnixListener;

use anyhow::{Result, bail};

use attempts::{Outcome, Scene};
use tracee::Copier;

/// Makes all attempts as thread `thread` and prints a line for each: its name, what came of it, what
/// it is about.
pub fn run(thread: u64, mode: &str, scene: &[&str]) -> Result<()> {
    let filtered = match mode {
        "filtered" => true,
        "bare" => false,
        _ => bail!("{mode}: filtered or bare"),
    };
    let [victim, secret, target, group, unix, berth] = scene else {
        bail!("VICTIM SECRET TARGET GROUP SOCKET BERTH");
    };
    let scene = Scene {
        victim: victim.parse()?,
        secret: (*secret).to_owned(),
        target: (*target).to_owned(),
        group: (*group).to_owned(),
        socket: (*unix).to_owned(),
        berth: (*berth).to_owned(),
    };
    let _service = UnixListener::bind(&scene.socket)?;
    let mut copier = Copier::of_thread(i32::try_from(thread)?)?;
    for attempt in attempts::all() {
        let mut copy = copier.copy(filtered)?;
        // Its namespace has numbers of its own: what is done to that one would be done to itself.
        while number_inside(copy.pid()) == Some(scene.victim) {
            let next = copier.copy(filtered)?;
            copier.end(std::mem::replace(&mut copy, next));
        }
        let outcome = match (attempt.make)(&mut copy, &scene) {
            Ok(outcome) => outcome,
            Err(ended) => Outcome::Killed(ended.0),
        };
        copier.end(copy);
        println!("{}\t{outcome}", attempt.name);
    }
    copier.finish()?;
    std::fs::remove_file(&scene.socket)?;
    Ok(())
}

/// The number of process `pid` in the innermost of its PID namespaces.
fn number_inside(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last()?.parse().ok()
}
