//! Memory, vCPUs and berth's own threads are where the plan puts them; every thread is sandboxed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::{self, GuestConfig, Host, Process};
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(240);

/// The CPUs of a kernel list such as `0-3,8`.
pub fn cpus(list: &str) -> BTreeSet<u32> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().unwrap_or(1)..=last.parse().unwrap_or(0)
    };
    list.trim().split(',').flat_map(range).collect()
}

/// A thread of berth, as the host's kernel knows it.
#[derive(Debug)]
pub struct Thread {
    pub name: String,
    pub cpus: BTreeSet<u32>,
    pub seccomp: String,
}

pub fn threads(host: &Host, berth: &Process) -> Result<Vec<Thread>> {
    let lines = host.run(&format!(
        "for t in /proc/{}/task/*; do
             awk '/^Name/ {{n=$2}} /^Cpus_allowed_list/ {{c=$2}} /^Seccomp:/ {{s=$2}} END {{print n, c, s}}' $t/status
         done",
        berth.machine()?
    ))?;
    let thread = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        Some(Thread { name, cpus: cpus(words.next()?), seccomp: words.next()?.to_owned() })
    };
    lines.lines().map(|line| thread(line).with_context(|| format!("a thread: {line}"))).collect()
}

/// What no heap of berth's is as large as.
const LEAST_KIB: u64 = 100_000;

/// KiB of guest RAM by page size in KiB (smaps), and its pages by node (numa_maps). Guest RAM maps a
/// memfd where pages are huge, and nothing, but much of it, where they are not.
pub fn ram(host: &Host, berth: &Process) -> Result<(BTreeMap<u64, u64>, BTreeMap<u32, u64>)> {
    let proc = format!("/proc/{}", berth.machine()?);
    let sizes = host.run(&format!(
        "awk '/^[0-9a-f]+-/ {{named = /memfd:/; bare = $2 ~ /^rw-p/ && NF == 5}}
              /^Size:/ {{size = $2; ram = named || bare && size >= {LEAST_KIB}}}
              ram && /^KernelPageSize:/ {{sum[$2] += size}}
              END {{for (page in sum) print page, sum[page]}}' {proc}/smaps"
    ))?;
    let nodes = host.run(&format!(
        "awk '/memfd:/ || /anon=/ && / bind/ \
              {{for (i = 1; i <= NF; i++) if ($i ~ /^N[0-9]+=/) print substr($i, 2)}}' \
             {proc}/numa_maps | sed 's/=/ /'"
    ))?;
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.parse::<u64>().ok()?, value.parse::<u64>().ok()?))
    };
    let mut by_node = BTreeMap::new();
    for (node, pages) in nodes.lines().filter_map(pair) {
        *by_node.entry(u32::try_from(node)?).or_insert(0) += pages;
    }
    Ok((sizes.lines().filter_map(pair).collect(), by_node))
}

/// The NIC's node and its CPUs.
pub fn nic_node(host: &Host) -> Result<(u32, BTreeSet<u32>)> {
    let node = host.read(&format!("{}/numa_node", host.nic_sysfs()))?.parse()?;
    let list = host.read(&format!("/sys/devices/system/node/node{node}/cpulist"))?;
    Ok((node, cpus(&list)))
}

/// Guest RAM is `size_mib` in pages of `page_kib`, all of it there and on the NIC's node.
fn assert_ram(host: &Host, berth: &Process, size_mib: u64, page_kib: u64) -> Result<()> {
    let (sizes, nodes) = ram(host, berth)?;
    println!("guest RAM: KiB by KernelPageSize {sizes:?}, pages by node {nodes:?}");
    assert_eq!(sizes, BTreeMap::from([(page_kib, size_mib << 10)]));
    assert_eq!(nodes, BTreeMap::from([(nic_node(host)?.0, (size_mib << 10) / page_kib)]));
    Ok(())
}

#[test]
fn one_gib_pages_and_vcpus_on_the_nics_node() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let config = GuestConfig::new(&host).set("/name", "router").huge_memory(1024).verbs("commands");
    let berth = host.run_guest(&config)?;
    berth.wait_for("L2: takes commands", LIMIT)?;
    assert_ram(&host, &berth, 1024, 1 << 20)?;

    let (_, node_cpus) = nic_node(&host)?;
    let threads = threads(&host, &berth)?;
    println!("threads: {threads:?}");
    let (vcpus, others): (Vec<_>, Vec<_>) =
        threads.iter().partition(|thread| thread.name.contains("vcpu"));
    let names: BTreeSet<&str> = vcpus.iter().map(|thread| thread.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["router/vcpu0", "router/vcpu1"]));
    assert!(vcpus.iter().all(|thread| thread.cpus.len() == 1), "a CPU each: {vcpus:?}");
    let taken: BTreeSet<u32> = vcpus.iter().flat_map(|thread| thread.cpus.clone()).collect();
    assert_eq!(taken.len(), 2, "a CPU of its own each: {vcpus:?}");
    assert!(taken.is_subset(&node_cpus), "{taken:?} of {node_cpus:?}");
    assert!(!others.is_empty());
    for thread in &others {
        assert!(thread.cpus.is_disjoint(&taken), "in the vCPUs' way: {thread:?}");
    }
    for thread in &threads {
        assert_eq!(thread.seccomp, "2", "no filter: {thread:?}");
    }

    assert_eq!(berth.in_guest("nproc", LIMIT)?, "2");
    berth.send("end\n")?;
    berth.must_end(0, LIMIT)?;
    postconditions::nic_is_free(&host)
}

/// Pages of the pool on a node: all and free.
fn pool(host: &Host, node: u32, page_kib: u64) -> Result<(u64, u64)> {
    let folder = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{page_kib}kB");
    let read = |name: &str| -> Result<u64> { Ok(host.read(&format!("{folder}/{name}"))?.parse()?) };
    Ok((read("nr_hugepages")?, read("free_hugepages")?))
}

#[test]
fn two_mib_pages_reserved_at_run_time() -> Result<()> {
    const PAGES: u64 = 128;
    let host = harness::host("nic");
    host.bind_vfio()?;
    let (node, _) = nic_node(&host)?;
    let file =
        format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages");
    let before = pool(&host, node, 2048)?;
    host.run(&format!("echo {} >{file}", before.0 + PAGES))?;
    let reserved = pool(&host, node, 2048)?;
    ensure!(reserved.0 == before.0 + PAGES, "the host has no memory in pieces of 2 MiB left");

    let config =
        GuestConfig::new(&host).set("/memory/size_mib", PAGES * 2).page_size("2M").verbs("wait");
    let berth = host.run_guest(&config)?;
    berth.wait_for("L2: waiting", LIMIT)?;
    assert_ram(&host, &berth, PAGES * 2, 2048)?;
    assert_eq!(pool(&host, node, 2048)?, (reserved.0, reserved.1 - PAGES));
    berth.send("end\n")?;
    berth.must_end(0, LIMIT)?;
    assert_eq!(pool(&host, node, 2048)?, reserved, "pages given back");
    host.run(&format!("echo {} >{file}", before.0))?;
    assert_eq!(pool(&host, node, 2048)?, before);
    Ok(())
}

#[test]
fn ordinary_pages_on_the_nics_node() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let berth = host.run_guest(&GuestConfig::new(&host).verbs("wait"))?;
    berth.wait_for("L2: up", LIMIT)?;
    assert_ram(&host, &berth, 256, 4)?;
    Ok(())
}

#[test]
fn cpus_and_node_by_name() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let usable = cpus(&host.read("/sys/devices/system/cpu/online")?);
    // The other way round and, in the lab, the first on another node than the memory.
    let (node, node_cpus) = nic_node(&host)?;
    let chosen = [*usable.first().context("a CPU")?, *node_cpus.last().context("a CPU")?];
    let placement = serde_json::json!({ "node": node, "cpus": chosen });
    let berth = host.run_guest(&GuestConfig::new(&host).set("/placement", placement))?;
    berth.wait_for("L2: up", LIMIT)?;
    let threads = threads(&host, &berth)?;
    for (index, cpu) in chosen.into_iter().enumerate() {
        let name = format!("lab/vcpu{index}");
        let thread = threads.iter().find(|thread| thread.name == name).context(name.clone())?;
        assert_eq!(thread.cpus, BTreeSet::from([cpu]), "{name}");
    }
    assert_ram(&host, &berth, 256, 4)
}
