//! One system call of a run fails, whichever process of berth's makes it: the run ends with a code and
//! words, or goes on, and nothing is left behind.
//!
//! `scripts/faults` has each kind of call fail; the suite takes the list of calls only.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};

use crate::harness::{self, GuestConfig, Host};
use crate::postconditions;

/// How many unless it is said: 6 s to 15 s each, as every call of a run stops for the tracer. `BERTH_FAULTS` says otherwise, `all` among others.
const FEW: usize = 3;

/// Of a call that is made often, so many are tried.
const OF_A_KIND: usize = 2;

/// ENOMEM, EIO, EPERM, EMFILE, ENOSPC, EAGAIN.
const ERRORS: [u32; 6] = [12, 5, 1, 24, 28, 11];

/// Codes that README has.
const CODES: [i32; 13] = [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15];

const STATE: &str = "/tmp/berth-faults";

/// A call of a run.
pub struct Call {
    number: u64,
    /// The thread that makes it, and its name.
    pub thread: u32,
    /// The thread's name.
    pub name: String,
    /// The call.
    pub call: i64,
    /// The request of an ioctl, in hexadecimal.
    pub request: String,
}

impl Call {
    fn what(&self) -> (&str, i64, &str) {
        (&self.name, self.call, &self.request)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split('\t');
        let number = words.next()?.parse().ok()?;
        let thread = words.next()?.parse().ok()?;
        let name = words.next()?.to_owned();
        let call = words.next()?.parse().ok()?;
        Some(Self { number, thread, name, call, request: words.next()?.to_owned() })
    }
}

/// Writes the config of the run, which takes its device and gives it back; where it is.
fn config(host: &Host) -> Result<String> {
    host.bind("igb")?;
    let config = GuestConfig::new(host).verbs("net,ping:3,poweroff").set("/vcpus", 1);
    let config = config.set("/devices/0/bind", "auto").set("/console", "off");
    let path = format!("{}/faults.json", host.scratch());
    host.write(&path, &config.to_string())?;
    Ok(path)
}

/// All calls of a run that is left alone. It is made once, under ptrace(2), which takes 40 s.
pub fn calls() -> Result<&'static [Call]> {
    static CALLS: OnceLock<Result<Vec<Call>, String>> = OnceLock::new();
    let made = || -> Result<Vec<Call>> {
        let host = harness::host("nic");
        list(&host, &config(&host)?)
    };
    let calls = CALLS.get_or_init(|| made().map_err(|error| format!("{error:#}")));
    calls.as_deref().map_err(|error| anyhow!("{error}"))
}

/// All calls of a run of the config at `path`, under ptrace(2).
pub fn list(host: &Host, path: &str) -> Result<Vec<Call>> {
    let script = format!(
        "export BERTH_STATE_DIR={STATE}
         {} faults list {} run {path} 2>/run/err </dev/null || {{ cat /run/err; exit 1; }}
         rm -rf {STATE}",
        host.probe()?,
        host.berth()?,
    );
    let said = host.exec_with(&script, &[], Duration::from_secs(120))?.success()?;
    // The C library's first calls come before any of berth's own instructions; then Rust's
    // runtime looks at the standard descriptors.
    let calls = said.lines().filter_map(Call::parse);
    let calls: Vec<Call> = calls.skip_while(|call| call.call != libc::SYS_poll).collect();
    ensure!(calls.len() > 500, "{} calls\n{said}", calls.len());
    Ok(calls)
}

/// Those that differ, and of each the first few.
fn chosen(calls: &[Call]) -> Vec<&Call> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut is_new = |call: &&Call| {
        let count = seen.entry(format!("{:?}", call.what())).or_default();
        *count += 1;
        *count <= OF_A_KIND
    };
    calls.iter().filter(|call| is_new(call)).collect()
}

#[test]
#[ignore = "minutes, and other calls each time: scripts/faults"]
fn a_run_of_which_a_call_fails_leaves_nothing_behind() -> Result<()> {
    let mut calls = chosen(calls()?);
    let host = harness::host("nic");
    let path = config(&host)?;
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
                 seen() {{ fingerprint | sed -E '/berth-faults/d; s/[A-Z][a-z][a-z] +[0-9]+ [0-9:]{{5}}//'; }}
                 seen >/run/before
                 timeout -s KILL 90 {probe} faults fail {number} {error} {berth} run {path} \
                     >/run/out 2>/run/err </dev/null
                 code=$?; cat /run/err
                 {berth} restore >/run/restored 2>&1 || {{ echo restore: $?; cat /run/restored; }}
                 seen >/run/after
                 diff /run/before /run/after && [ $code != 137 ] || exit 99
                 exit $code",
                postconditions::FINGERPRINT
            ),
            &[],
            Duration::from_secs(150),
        )?;
        let said = format!(
            "BERTH_TEST_SEED={seed}: call {number} of {} fails with {error}: {}\n{}{}",
            call.name, output.status, output.stdout, output.stderr
        );
        println!("{said}");
        // A heap that does not grow ends any Rust program, with words and SIGABRT.
        let is_out_of_memory = output.stdout.contains("memory allocation of");
        ensure!(CODES.contains(&output.status) || is_out_of_memory, "{said}");
        ensure!(!output.stdout.contains("panicked"), "{said}");
        ensure!(!output.stdout.contains("restore:"), "{said}");
        let has_words = output.stdout.contains("error") || output.stdout.contains("WARN");
        ensure!(output.status == 0 || has_words || is_out_of_memory, "it does not say why: {said}");
        *ends.entry(output.status).or_default() += 1;
    }
    println!("ends by code: {ends:?}");
    host.run(&format!("rm -rf {STATE}")).map(drop)
}

/// `few` of them, spread over the run.
fn few_of(calls: Vec<&Call>, few: usize, seed: usize) -> Vec<&Call> {
    let step = (calls.len() / few.max(1)).max(1);
    calls.into_iter().skip(seed % step).step_by(step).collect()
}
