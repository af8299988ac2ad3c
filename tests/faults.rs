//! One system call of a run fails, whichever process of berth's makes it: the run ends with a code and
//! words, or goes on, and nothing is left behind.
//!
//! In the suite a few calls, other ones each time; `scripts/faults` has each kind of call fail.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::harness::{self, GuestConfig, Host};
use crate::postconditions;

/// How many in the suite: about 4 s each. `BERTH_FAULTS` says otherwise, `all` among others.
const FEW: usize = 10;

/// Of a call that is made often, so many are tried.
const OF_A_KIND: usize = 2;

/// ENOMEM, EIO, EPERM, EMFILE, ENOSPC, EAGAIN.
const ERRORS: [u32; 6] = [12, 5, 1, 24, 28, 11];

/// Codes that README has.
const CODES: [i32; 13] = [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15];

const STATE: &str = "/tmp/berth-faults";

/// A call of a run: its number, and what it is: thread, call, request.
struct Call {
    number: u64,
    what: String,
}

/// All calls of a run that is left alone.
fn calls(host: &Host, config: &str) -> Result<Vec<Call>> {
    let script = format!(
        "export BERTH_STATE_DIR={STATE}; {} faults list {} run {config} 2>&1 </dev/null",
        host.probe()?,
        host.berth()?
    );
    let said = host.exec_with(&script, &[], Duration::from_secs(120))?.success()?;
    let call = |line: &str| {
        let (number, what) = line.split_once('\t')?;
        Some(Call { number: number.parse().ok()?, what: what.to_owned() })
    };
    let calls: Vec<Call> = said.lines().filter_map(call).collect();
    ensure!(calls.len() > 500, "{} calls\n{said}", calls.len());
    Ok(calls)
}

/// Those that differ, and of each the first few.
fn chosen(calls: Vec<Call>) -> Vec<Call> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut is_new = |call: &Call| {
        let count = seen.entry(call.what.clone()).or_default();
        *count += 1;
        *count <= OF_A_KIND
    };
    calls.into_iter().filter(|call| is_new(call)).collect()
}

#[test]
fn a_run_of_which_a_call_fails_leaves_nothing_behind() -> Result<()> {
    let host = harness::host("nic");
    host.bind("igb")?;
    let config = GuestConfig::new(&host).verbs("poweroff").set("/devices/0/bind", "auto");
    let path = format!("{}/faults.json", host.scratch());
    host.write(&path, &config.set("/vcpus", 1).to_string())?;
    let mut calls = chosen(calls(&host, &path)?);
    let given = std::env::var("BERTH_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_micros() as usize;
    let seed: usize = given.unwrap_or(now);
    match std::env::var("BERTH_FAULTS").as_deref() {
        Ok("all") => {}
        Ok(few) => calls = few_of(calls, few.parse().context("BERTH_FAULTS")?, seed),
        Err(_) => calls = few_of(calls, FEW, seed),
    }
    println!("BERTH_TEST_SEED={seed}: {} calls fail", calls.len());
    let (probe, berth) = (host.probe()?, host.berth()?);
    let mut ends: BTreeMap<i32, usize> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        let error = ERRORS[(at + seed) % ERRORS.len()];
        let number = call.number;
        let output = host.exec_with(
            &format!(
                "{}
                 export BERTH_STATE_DIR={STATE}; cd /tmp
                 fingerprint >/run/before
                 timeout -s KILL 90 {probe} faults fail {number} {error} {berth} run {path} \
                     >/run/out 2>/run/err </dev/null
                 code=$?; cat /run/err
                 {berth} restore >/run/restored 2>&1 || {{ echo restore: $?; cat /run/restored; }}
                 fingerprint >/run/after
                 diff /run/before /run/after && [ $code != 137 ] || exit 99
                 exit $code",
                postconditions::FINGERPRINT
            ),
            &[],
            Duration::from_secs(150),
        )?;
        let said = format!(
            "BERTH_TEST_SEED={seed}: call {number} ({}) fails with {error}: {}\n{}{}",
            call.what, output.status, output.stdout, output.stderr
        );
        println!("{said}");
        ensure!(CODES.contains(&output.status), "{said}");
        ensure!(!output.stdout.contains("panicked"), "{said}");
        ensure!(!output.stdout.contains("restore:"), "{said}");
        let has_words = output.stdout.contains("error") || output.stdout.contains("WARN");
        ensure!(output.status == 0 || has_words, "it does not say why: {said}");
        *ends.entry(output.status).or_default() += 1;
    }
    println!("ends by code: {ends:?}");
    host.run(&format!("rm -rf {STATE}")).map(drop)
}

/// `few` of them, spread over the run.
fn few_of(calls: Vec<Call>, few: usize, seed: usize) -> Vec<Call> {
    let step = (calls.len() / few.max(1)).max(1);
    calls.into_iter().skip(seed % step).step_by(step).collect()
}
