//! How the time of a plan grows with its host. A benchmark, which `scripts/bench` prints.

use std::time::{Duration, Instant};

use super::hosts::{assign, igb};
use super::shapes::{Shape, Smt};
use super::*;

const CPUS: [u32; 5] = [8, 32, 128, 512, 2048];
const DEVICES: [u32; 3] = [1, 8, 64];
const TURNS: usize = 7;

/// Cards of eight functions: a root bus has room for 31 cards.
fn address(device: u32) -> String {
    format!("0000:{:02x}:00.{}", 0x41 + device / 8, device % 8)
}

/// Eight nodes at most, the devices on the last one.
fn large_host(cpus: u32, devices: u32) -> HostProfile {
    let count = (cpus / 4).min(8);
    let each = cpus / count;
    let lists: Vec<String> =
        (0..count).map(|node| format!("{}-{}", node * each, (node + 1) * each - 1)).collect();
    let nodes: Vec<(u32, &str, u64)> =
        (0..).zip(&lists).map(|(node, list)| (node, list.as_str(), 256)).collect();
    let mut host = Shape::new("large", &nodes, Smt::Adjacent, Some(count - 1)).into_host();
    for device in 1..devices {
        assign(&mut host, vec![(address(device).as_str(), igb(Some(count - 1), 14 + device))]);
    }
    host
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
#[ignore = "a benchmark, for scripts/bench"]
fn bench_plan() {
    for cpus in CPUS {
        for devices in DEVICES {
            let host = large_host(cpus, devices);
            let addresses = (0..devices).map(|device| json!({ "address": address(device) }));
            let wish = config(json!({
                "vcpus": (cpus / 8).clamp(1, 64),
                "devices": addresses.collect::<Vec<_>>(),
            }));
            let times = (0..TURNS).map(|_| {
                let start = Instant::now();
                let plan = Plan::new(&wish, &host);
                let time = start.elapsed();
                assert!(plan.is_ok(), "{cpus} CPUs, {devices} devices: {:?}", plan.err());
                time
            });
            let ms = median(times.collect()).as_secs_f64() * 1000.0;
            let row = json!({ "of": "plan", "cpus": cpus, "devices": devices, "ms": ms });
            println!("BENCH {row}");
        }
    }
}
