//! berth is killed at any moment, and there is a way back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{STATE, STATE_SCRIPT, auto, host};

/// The journal's lines of what is to be put back.
const OPEN: &str = "grep -c '\"intent\"'";

/// A command to be killed, on a host that was made ready for it.
struct Case {
    /// What the host has done without berth, which is to be there in the end.
    prepare: String,
    /// What berth has done before.
    earlier: String,
    command: String,
    /// Afterwards, when all is as it was before the command.
    clean: String,
    /// What tells that a command which runs on has done its part.
    until: Option<String>,
}

impl Case {
    fn new(prepare: &str, command: String, clean: &str) -> Self {
        let (prepare, clean) = (prepare.to_owned(), clean.to_owned());
        Self { prepare, earlier: "true".to_owned(), command, clean, until: None }
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

/// The moments are spread over what each command takes here; `BERTH_TEST_SEED` repeats them. One
/// script makes all of a round, because a round trip to the lab takes as long as a command.
#[test]
fn fifty_kills_lose_nothing() -> Result<()> {
    const FEW: usize = 50;
    /// Which of the cases below; those that take long less often.
    const ROUND: [usize; 16] = [0, 1, 2, 5, 3, 0, 1, 2, 5, 6, 4, 0, 1, 2, 5, 7];

    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let kills = match std::env::var("BERTH_KILLS") {
        Ok(kills) => kills.parse().context("BERTH_KILLS")?,
        Err(_) => FEW,
    };
    let given = std::env::var("BERTH_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
    let seed: u64 = given.unwrap_or(now | 1);
    eprintln!("BERTH_TEST_SEED={seed}");
    let mut random = Random(seed);

    let (nic, sysfs, path) = (host.nic().to_owned(), host.nic_sysfs(), host.berth()?.to_owned());
    let [config, pages, free] =
        ["auto", "pages", "free"].map(|name| format!("{}/{name}.json", host.scratch()));
    host.write(&config, &auto(&host, "wait").to_string())?;
    // 64 pages that nobody has reserved, on the node of a device that nobody has bound.
    let short = auto(&host, "wait").page_size("2M").set("/memory/size_mib", 128);
    host.write(&pages, &short.set("/devices/0/bind", "manual").to_string())?;
    let vf = auto(&host, "wait").set("/devices/0/address", json!({ "free_vf_of": nic }));
    host.write(&free, &vf.set("/devices/0/mac", "52:54:00:00:00:42").to_string())?;

    let by_hand = |count: u32| format!("modprobe igbvf; echo {count} > {sysfs}/sriov_numvfs");
    let no_vfs = format!("echo 0 > {sysfs}/sriov_numvfs");
    let ports = "--vf 1,mac=52:54:00:00:00:11,vlan=7,trust=on";
    let bound = format!("{path} bind {nic}");
    let is_bound = |function: &str| {
        format!("[ \"$(basename \"$(readlink {function}/driver)\")\" = vfio-pci ]")
    };
    let runs = |case: Case, function: &str| Case { until: Some(is_bound(function)), ..case };
    let cases = [
        Case::new("true", format!("bind {nic} --group"), "true"),
        Case { earlier: bound, ..Case::new("true", format!("unbind {nic}"), "true") },
        Case::new("true", format!("sriov {nic} 2 {ports} --bind"), "true"),
        Case::new(&by_hand(3), format!("sriov {nic} 1 --bind"), &no_vfs),
        Case::new(&by_hand(2), format!("sriov {nic} 0"), &no_vfs),
        Case::new("true", format!("check {pages} --fix"), "true"),
        runs(Case::new("true", format!("run {config}"), "true"), &sysfs),
        runs(Case::new(&by_hand(1), format!("run {free}"), &no_vfs), &format!("{sysfs}/virtfn0")),
    ];

    let preamble = format!(
        "export BERTH_STATE_DIR={STATE}; journal={STATE}/journal
         state() {{ ({STATE_SCRIPT}); [ ! -e {sysfs}/virtfn0 ] || {path} sriov {nic}; }}
         guards() {{ grep -ls berth-guard /proc/[0-9]*/comm | cut -d/ -f3; }}
         of() {{ grep -lsx $1 /proc/[0-9]*/comm | cut -d/ -f3 | grep -vx $parent; }}
         end() {{ n=0; while [ -n \"$(guards)\" ] && [ $n -lt 200 ]; do n=$((n + 1)); usleep 100000; done; }}
         clock() {{ read -r now rest </proc/uptime; echo ${{now%.*}}${{now#*.}}; }}"
    );
    let run = |script: &str| {
        let script = format!("{preamble}\n{script}");
        host.exec_with(&script, &[], Duration::from_secs(90))
    };
    let mut spans = Vec::new();
    for Case { prepare, earlier, command, clean, until } in &cases {
        let wait = match until {
            None => "wait $!".to_owned(),
            Some(until) => format!(
                "n=0; until {until} || [ $n = 100 ]; do n=$((n + 1)); usleep 50000; done
                 time=$((time - 50)); kill -KILL $!; wait $! 2>/dev/null; end"
            ),
        };
        let output = run(&format!(
            "({prepare}; {earlier}) >/dev/null
             time=$(clock); {path} {command} >/tmp/out 2>&1 </dev/null & {wait}
             echo \"$(($(clock) - time))\"; {OPEN} $journal >&2
             {path} restore >/dev/null; {clean}"
        ))?;
        let [time, open] = [&output.stdout, &output.stderr].map(|text| text.trim().parse::<u64>());
        let (time, open) = (time.context(command.clone())?, open.unwrap_or_default());
        let leaves = until.is_none() && !command.starts_with("unbind");
        ensure!(!leaves || open > 0, "{command} changes nothing: {output:?}");
        // The clock counts in hundredths.
        spans.push(time * 10);
    }
    eprintln!("the commands take {spans:?} ms");

    let mut middle = vec![0; cases.len()];
    for kill in 0..kills {
        let which = ROUND[kill % ROUND.len()];
        let Case { prepare, earlier, command, clean, .. } = &cases[which];
        let millis = random.below(spans[which]);
        // Of a run any of its processes, in any company; who lives is asked to end.
        let subset = if command.starts_with("run ") { 1 + random.below(15) } else { 1 };
        let kin = ["$parent", "$(of berth)", "$(of berth-guard)", "$(of berth-irq)"];
        let killed = kin.iter().enumerate().filter(|(bit, _)| subset >> bit & 1 == 1);
        let killed: Vec<&str> = killed.map(|(_, process)| *process).collect();
        let killed = killed.join(" ");
        let output = run(&format!(
            "({prepare}) >/dev/null; before=$(state); ({earlier}) >/dev/null
             {path} {command} >/dev/null 2>&1 </dev/null & usleep {micros}
             parent=$!; kill -0 $parent && hit=1
             kill -KILL {killed} 2>/dev/null
             usleep 100000; kill -TERM $parent 2>/dev/null; kill -TERM $parent 2>/dev/null
             wait $parent 2>/dev/null
             [ -z \"$hit\" ] || [ \"$({OPEN} $journal)\" = 0 ] || echo middle
             end
             {path} restore; after=$(state); left=$({OPEN} $journal)
             [ \"$before\" = \"$after\" ] && [ \"$left\" = 0 ] && status=0 || status=1
             [ $status = 0 ] || echo \"was:\n$before\nis:\n$after\n$left are left in the journal\"
             {clean}; exit $status",
            micros = millis * 1000,
        ))?;
        ensure!(
            output.status == 0,
            "BERTH_TEST_SEED={seed}: kill {kill} of {killed}, {millis} ms into {command}:\n{}{}",
            output.stdout,
            output.stderr
        );
        if kill % 10 == 9 {
            eprintln!("{} kills", kill + 1);
        }
        middle[which] += u32::from(output.stdout.contains("middle"));
    }
    eprintln!("{middle:?} of {kills} kills met changes that were not undone");
    ensure!(middle.iter().sum::<u32>() >= 10, "only {middle:?} kills met anything");
    host.run("rmmod igbvf").map(drop)
}
