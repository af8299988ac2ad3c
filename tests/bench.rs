//! berth beside the peer that Debian packages, on the same host with the same kernel, initrd, memory
//! and device, in turns. For `scripts/bench`, which puts the peer together.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::harness::{self, GuestConfig, Host};
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(240);

/// The first one of each is not counted: it pays for what is cold.
const TURNS: usize = 4;

const VERBS: &str = "net,ping:1,commands";

/// What one run took, in milliseconds, and the rest as the host counts it.
struct Run {
    init: u64,
    ping: u64,
    end: u64,
    exits: u64,
    port_exits: u64,
    memory_exits: u64,
    pss_kib: u64,
}

fn measure(host: &Host, command: &str) -> Result<Run> {
    let start = Instant::now();
    let ms = |since: Instant| since.elapsed().as_millis() as u64;
    let vmm = host.spawn(command)?;
    vmm.wait_for("L2: up", LIMIT)?;
    let init = ms(start);
    vmm.wait_for("L2: ping 1/1", LIMIT)?;
    let ping = ms(start);
    vmm.wait_for("L2: takes commands", LIMIT)?;
    let counts = host.run(&format!(
        "cd /sys/kernel/debug/kvm/*-*/ && cat exits io_exits mmio_exits
         for process in $(grep -l \"^PPid:[[:space:]]*{0}$\" /proc/[0-9]*/status | cut -d/ -f3) {0}; do
             grep -h ^Pss: /proc/$process/smaps_rollup
         done | awk '{{sum += $2}} END {{print sum}}'",
        vmm.pid()
    ))?;
    let counts =
        counts.lines().map(|line| Ok(line.trim().parse()?)).collect::<Result<Vec<u64>>>()?;
    let [exits, port_exits, memory_exits, pss_kib] =
        counts.as_slice().try_into().with_context(|| format!("four numbers: {counts:?}"))?;
    let asked = Instant::now();
    vmm.send("end\n")?;
    vmm.must_end(0, LIMIT)?;
    Ok(Run { init, ping, end: ms(asked), exits, port_exits, memory_exits, pss_kib })
}

/// The command lines, berth's first.
fn machines(host: &Host) -> Result<Vec<(&'static str, String)>> {
    let config = GuestConfig::new(host).huge_memory(1024).verbs(VERBS).set("/vcpus", 1);
    let path = format!("{}/bench.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let qemu = format!(
        "/tmp/peer/lib/ld-linux-x86-64.so.2 --library-path /tmp/peer/lib /tmp/peer/qemu-system-x86_64 \
         -L /tmp/peer/share -nodefaults -no-user-config -cpu host -smp 1 -m 1G -display none -serial stdio \
         -monitor none -no-reboot -kernel {} -initrd {} -append '{}' -device vfio-pci,host={} \
         -object memory-backend-memfd,id=m,size=1G,hugetlb=on,hugetlbsize=1G,host-nodes=1,policy=bind",
        host.artefact("vmlinux-lab"),
        host.artefact("l2-lab.cpio"),
        format_args!("console=ttyS0 quiet panic=-1 berth.do={VERBS}"),
        host.nic(),
    );
    let accelerated = "accel=kvm,memory-backend=m";
    Ok(vec![
        ("berth", format!("{} run {path}", host.berth()?)),
        ("QEMU q35", format!("{qemu} -machine q35,{accelerated}")),
        (
            "QEMU microvm",
            format!("{qemu} -machine microvm,{accelerated},pcie=on,isa-serial=on -bios qboot.rom"),
        ),
    ])
}

fn median(runs: &[Run], of: impl Fn(&Run) -> u64) -> u64 {
    let mut values: Vec<u64> = runs.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

#[test]
#[ignore = "a benchmark, for scripts/bench"]
fn bench_beside_the_peer() -> Result<()> {
    let peer = std::env::var("BERTH_PEER").context("BERTH_PEER names the peer's archive")?;
    let host = harness::host("nic");
    host.push(Path::new(&peer), "/tmp/peer.tar")?;
    host.run("mkdir -p /tmp/peer && tar -xf /tmp/peer.tar -C /tmp/peer && rm /tmp/peer.tar")?;
    host.bind_vfio()?;
    let machines = machines(&host)?;
    let mut runs: Vec<Vec<Run>> = machines.iter().map(|_| Vec::new()).collect();
    for turn in 0..TURNS {
        for ((name, command), runs) in machines.iter().zip(&mut runs) {
            let run = measure(&host, command).with_context(|| format!("turn {turn} of {name}"))?;
            if turn > 0 {
                runs.push(run);
            }
        }
    }
    ensure!(runs.iter().all(|runs| runs.len() == TURNS - 1), "every machine has had its turns");
    let own = |of: fn(&Run) -> u64| median(&runs[0], of).max(1) as f64;
    for ((name, _), runs) in machines.iter().zip(&runs) {
        let row = |of: fn(&Run) -> u64| {
            let value = median(runs, of);
            json!({ "median": value, "of_berth": (value as f64 / own(of) * 100.0).round() / 100.0 })
        };
        let row = json!({
            "of": "machine", "vmm": name, "turns": runs.len(),
            "init_ms": row(|run| run.init), "ping_ms": row(|run| run.ping), "end_ms": row(|run| run.end),
            "exits": row(|run| run.exits), "port_exits": row(|run| run.port_exits),
            "memory_exits": row(|run| run.memory_exits), "pss_kib": row(|run| run.pss_kib),
        });
        println!("BENCH {row}");
    }
    postconditions::nic_is_free(&host)
}
