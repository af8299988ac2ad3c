//! Machines beside each other on a host, and a machine on several of its nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::{self, GuestConfig, Host, Process};
use crate::placement::{nic_node, ram, threads};

const LIMIT: Duration = Duration::from_secs(240);

/// A machine with that name on the NIC's node, without devices.
fn neighbour<'host>(host: &'host Host, name: &str, placement: &Value) -> Result<Process<'host>> {
    let config = GuestConfig::new(host)
        .without_devices()
        .set("/name", name)
        .set("/vcpus", 1)
        .set("/placement", placement.clone())
        .verbs("wait");
    let path = format!("{}/{name}.json", host.scratch());
    host.write(&path, &config.to_string())?;
    host.spawn(&format!("{} run {path}", host.berth()?))
}

#[test]
fn machines_that_start_at_once_share_no_cpu() -> Result<()> {
    let host = harness::host("nic");
    let (node, node_cpus) = nic_node(&host)?;
    ensure!(node_cpus.len() == 2, "the lab's node has two CPUs: {node_cpus:?}");
    let placement = serde_json::json!({ "node": node });
    let machines = [neighbour(&host, "one", &placement)?, neighbour(&host, "two", &placement)?];
    let mut taken = BTreeSet::new();
    for machine in &machines {
        machine.wait_for("L2: up", LIMIT)?;
        let threads = threads(&host, machine)?;
        let vcpu = threads.iter().find(|thread| thread.name.ends_with("/vcpu0"));
        let vcpu = vcpu.context("a vCPU's thread")?;
        println!("{vcpu:?}");
        assert_eq!(vcpu.cpus.len(), 1);
        taken.extend(vcpu.cpus.clone());
    }
    assert_eq!(taken, node_cpus, "a CPU of its own each");

    let third = neighbour(&host, "three", &placement)?;
    assert_eq!(third.wait(LIMIT)?, 3);
    let said = third.everything();
    for name in ["one", "two"] {
        assert!(said.contains(&format!("machine {name} (process ")), "{said}");
    }
    // A capture tells of the machines, too, to whom it may concern.
    let elsewhere = host.exec(&format!(
        "cd {0} && {1} snapshot >host.tar.zst && {1} plan --host host.tar.zst three.json",
        host.scratch(),
        host.berth()?
    ))?;
    assert_eq!(elsewhere.status, 3, "{elsewhere:?}");
    assert!(elsewhere.stderr.contains("machine one (process "), "{elsewhere:?}");
    // Naming a CPU is on purpose.
    let cpu = taken.first().context("a CPU")?;
    let named = neighbour(&host, "four", &serde_json::json!({ "node": node, "cpus": [cpu] }))?;
    named.wait_for("L2: up", LIMIT)?;
    Ok(())
}

/// What a guest prints of its CPUs and nodes.
const SHAPE: &str = r#"
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    echo "shape ${cpu##*/} $(cat $cpu/topology/thread_siblings_list) $(cat $cpu/topology/physical_package_id)"
done
for node in /sys/devices/system/node/node[0-9]*; do
    echo "shape ${node##*/} $(cat $node/cpulist) $(awk '/MemTotal/ { print ($4 > 200000) ? "memory" : "none" }' $node/meminfo)"
done
dmesg | grep -E 'not on the same node|topology|mismatch' | sed 's/^/complaint /'
true
"#;

/// Runs a guest that prints its shape; the lines of it.
fn shape(host: &Host, config: GuestConfig) -> Result<Vec<String>> {
    let encoded = host.exec_with("base64 -w0", SHAPE.as_bytes(), LIMIT)?.success()?;
    let guest = host.run_guest(&config.verbs(&format!("sh:{encoded},poweroff")))?;
    let status = guest.wait(LIMIT)?;
    let console = guest.stdout()?.replace('\r', "");
    ensure!(status == 0, "exit status {status}\n{}", guest.everything());
    assert!(!console.contains("complaint "), "{console}");
    let lines = console.lines().filter_map(|line| line.strip_prefix("shape "));
    Ok(lines.map(str::to_owned).collect())
}

#[test]
fn guests_see_which_vcpus_share_a_core() -> Result<()> {
    let host = harness::host("topology");
    let siblings = host.read("/sys/devices/system/cpu/cpu2/topology/thread_siblings_list")?;
    assert_eq!(siblings, "2-3", "the lab's CPUs are threads");
    // Linux 6.1 looks for threads on AMD's CPUs from family 17h on, and the lab's are of family 6.
    let guest = |placement: Value| {
        let config = GuestConfig::new(&host).without_devices();
        shape(&host, config.set("/vcpus", 2).set("/placement", placement))
    };
    let shared = guest(serde_json::json!({ "node": 1, "smt": "siblings" }))?;
    assert_eq!(shared[..2], ["cpu0 0-1 0", "cpu1 0-1 0"], "{shared:?}");
    // CPUs of two cores, which are on two nodes here, and so in two sockets.
    let apart = guest(serde_json::json!({ "node": 1, "cpus": [2, 0] }))?;
    assert_eq!(apart[..2], ["cpu0 0 0", "cpu1 1 1"], "{apart:?}");
    Ok(())
}

#[test]
fn a_machine_is_split_over_its_devices_nodes() -> Result<()> {
    let host = harness::host("topology");
    let (near, far) = (host.nic().to_owned(), "0000:11:00.0");
    for address in [near.as_str(), far] {
        host.run(&format!("{} bind {address}", host.berth()?))?;
    }
    let devices = serde_json::json!([{ "address": near }, { "address": far }]);
    let config = GuestConfig::new(&host)
        .set("/devices", devices)
        .set("/memory", serde_json::json!({ "size_mib": 1024, "page_size": "4K" }))
        .set("/placement", serde_json::json!({ "several_nodes": "split" }));
    let shape = shape(&host, config.clone())?;
    assert_eq!(shape[2..], ["node0 0 memory", "node1 1 memory"], "{shape:?}");
    assert_eq!(shape[..2], ["cpu0 0 0", "cpu1 1 1"], "{shape:?}");

    let berth = host.run_guest(&config.verbs("wait"))?;
    berth.wait_for("L2: waiting", LIMIT)?;
    let (_, nodes) = ram(&host, &berth)?;
    println!("pages by node: {nodes:?}");
    assert_eq!(nodes, BTreeMap::from([(0, 131_072), (1, 131_072)]));
    for (vcpu, node) in [(0, 1), (1, 0)] {
        let cpu = threads(&host, &berth)?;
        let thread = cpu.iter().find(|thread| thread.name == format!("lab/vcpu{vcpu}"));
        let cpu = thread.and_then(|thread| thread.cpus.first()).context("a CPU")?;
        host.run(&format!("[ -e /sys/devices/system/node/node{node}/cpu{cpu} ]"))?;
    }
    Ok(())
}
