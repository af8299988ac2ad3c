//! What a guest that has taken over a thread of berth, or one of its helpers, could do: nothing.
//!
//! `probe escape` makes each attempt as a copy of the very thread, with its filter, and once more
//! without it, by what stands behind. The same attempts on a berth that nothing confines work, or
//! this test would see nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::devices::EDU;
use crate::harness::{self, GuestConfig, Host, Process};

const LIMIT: Duration = Duration::from_secs(120);

/// At least so many attempts are made.
const ATTEMPTS: usize = 60;

/// What a thread may do without the filter: to itself, as any process may, and has no more by it.
/// What runs in a user namespace of its own, or by io_uring, meets the same Landlock and limits.
const TO_ITSELF: [&str; 21] = [
    "add a key",
    "be dumped",
    "change how addresses are laid out",
    "copy a descriptor",
    "have its memory in core dumps",
    "have timers that signal",
    "look at keys",
    "make a file in memory",
    "make a user namespace",
    "make another vCPU",
    "make calls around the filter (io_uring)",
    "make memory executable",
    "make memory executable (pkey_mprotect)",
    "map memory that can be executed",
    "merge pages with other processes",
    "pass a descriptor on",
    "set a segment of its own",
    "signal all processes",
    "start a process",
    "start a process (fork)",
    "start a process in a user namespace of its own",
];

/// What the guard is there for: it reads what the host has, changes drivers, and the ports of
/// virtual functions.
const OF_THE_GUARD: [&str; 8] = [
    "change a driver",
    "change the host's network interfaces",
    "lock a file of root's",
    "reach berth's state folder",
    "reach the host's root by procfs",
    "read a file of root's",
    "read the environment of another process",
    "read what a link of the host says",
];

/// What comes of each attempt: `worked`, or why not.
type Outcomes = BTreeMap<String, String>;

/// A machine and what its attempts are made on.
struct Scene<'a> {
    host: &'a Host,
    guest: Process<'a>,
    victim: Process<'a>,
    arguments: String,
}

impl<'a> Scene<'a> {
    fn start(host: &'a Host, arguments: &str, sandbox: serde_json::Value) -> Result<Self> {
        let config = GuestConfig::new(host).verbs("net,commands").set("/sandbox", sandbox);
        let config = config.set("/devices/0/bind", "auto").set("/vcpus", 1);
        let path = format!("{}/vm.json", host.scratch());
        host.write(&path, &config.to_string())?;
        let guest = host.spawn(&format!("{} run {path} {arguments}", host.berth()?))?;
        guest.wait_for("L2: takes commands", LIMIT)?;
        let victim = host.spawn("sleep 1000")?;
        let arguments = format!(
            "{} /root/secret /root/target /dev/vfio/$(basename $(readlink \
             /sys/bus/pci/devices/{EDU}/iommu_group)) /root/socket {}",
            victim.pid(),
            host.berth()?
        );
        Ok(Self { host, guest, victim, arguments })
    }

    /// Threads by role.
    fn threads(&self) -> Result<BTreeMap<&'static str, u32>> {
        let machine = self.guest.machine()?;
        let of = |name: &str| -> Result<u32> {
            let script = format!(
                "awk '/^Name:/ {{n = $2}} /^PPid:/ && $2 == {} && n == \"{name}\" {{print FILENAME}}' \
                     /proc/[0-9]*/status | cut -d/ -f3",
                self.guest.pid()
            );
            self.host.run(&script)?.trim().parse().with_context(|| format!("no {name}"))
        };
        let vcpu = format!("cd /proc/{machine}/task && grep -l '/vcpu0' */comm | cut -d/ -f1");
        Ok(BTreeMap::from([
            ("parent", self.guest.pid()),
            ("control", machine),
            ("vCPU", self.host.run(&vcpu)?.trim().parse()?),
            ("guard", of("berth-guard")?),
            ("interrupts", of("berth-irq")?),
        ]))
    }

    /// Pipes that the machine shares with its guard.
    fn shared_pipes(&self) -> Result<usize> {
        let threads = self.threads()?;
        let (machine, guard) = (threads["control"], threads["guard"]);
        let script = format!(
            "pipes() {{ for fd in /proc/$1/fd/*; do readlink $fd; done | grep ^pipe: | sort -u; }}
             (pipes {machine}; pipes {guard}) | sort | uniq -d | grep -vxF \"$(readlink \
             /proc/{guard}/fd/2)\" | wc -l"
        );
        Ok(self.host.run(&script)?.trim().parse()?)
    }

    fn attempts(&self, thread: u32, mode: &str) -> Result<Outcomes> {
        let target = "rm -rf /root/target /root/socket; mkdir -p /root/target/mount;
             cd /root/target && touch victim moved acct swap && ln -s victim link && echo x >/root/secret &&
             chmod 600 /root/secret";
        self.host.run(target)?;
        let probe = self.host.probe()?;
        let script = format!("{probe} escape {thread} {mode} {}", self.arguments);
        let said = self.host.exec_with(&script, &[], LIMIT)?;
        let said = said.success().with_context(|| format!("thread {thread}, {mode}"))?;
        let pair = |line: &str| {
            let (name, outcome) = line.split_once('\t')?;
            Some((name.to_owned(), outcome.replace('\t', ": ")))
        };
        Ok(said.lines().filter_map(pair).collect())
    }

    fn end(self) -> Result<()> {
        drop(self.victim);
        ensure!(self.guest.in_guest("pings 3", LIMIT)? == "L2: ping 3/3", "it goes on");
        self.guest.send("end\n")?;
        self.guest.must_end(0, LIMIT)
    }
}

fn worked(outcomes: &Outcomes) -> Vec<&str> {
    outcomes.iter().filter(|(_, outcome)| *outcome == "worked").map(|(name, _)| &**name).collect()
}

/// Costs two guests.
#[test]
fn who_has_taken_over_a_thread_has_nothing() -> Result<()> {
    let host = harness::host("devices");
    host.bind("igb")?;
    host.bind_all(&[EDU])?;
    host.run("modprobe loop && ip link set lo up")?;
    let scene = Scene::start(&host, "", json!({}))?;
    ensure!(scene.shared_pipes()? == 0, "the machine has a way to its guard");
    let mut made = Outcomes::new();
    for (role, thread) in scene.threads()? {
        // Behind the filters of helpers stands less: they are root.
        let is_helper = ["guard", "interrupts"].contains(&role);
        for mode in ["filtered", "bare"].into_iter().take(if is_helper { 1 } else { 2 }) {
            let outcomes = scene.attempts(thread, mode)?;
            ensure!(outcomes.len() >= ATTEMPTS, "{} attempts", outcomes.len());
            let allowed = |name: &&str| match (role, mode) {
                ("guard", _) => OF_THE_GUARD.contains(name),
                (_, "bare") => TO_ITSELF.contains(name),
                _ => false,
            };
            let worked: Vec<&str> =
                worked(&outcomes).into_iter().filter(|name| !allowed(name)).collect();
            ensure!(worked.is_empty(), "{role}, {mode}: {worked:?}");
            made = outcomes;
        }
    }
    scene.end()?;

    let without = json!({ "without": ["user", "namespaces", "root", "landlock"] });
    let scene = Scene::start(&host, "--seccomp off", without)?;
    let free = scene.attempts(scene.threads()?["control"], "filtered")?;
    ensure!(free.keys().eq(made.keys()), "the same attempts");
    let refused: Vec<_> = free.iter().filter(|(_, outcome)| *outcome != "worked").collect();
    ensure!(refused.is_empty(), "attempts that see nothing: {refused:?}");
    scene.end()
}
