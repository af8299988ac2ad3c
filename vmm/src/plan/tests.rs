//! Plans and refusals for hosts made by hand, compared with the texts in `golden/`.
//!
//! `BERTH_UPDATE_GOLDEN=1 cargo test` rewrites the texts; review them like code.

mod choice;
mod hosts;
mod iommu;
mod pci;
mod placement;
mod properties;
mod refusals;
mod resets;
mod scale;
mod shapes;
mod topologies;

use std::path::PathBuf;
use std::{env, fs};

use serde_json::{Value, json};

use super::*;
use crate::host::IdSet;
use crate::host::iommu::ReservedRegion;
use crate::host::memory::Pool;
use hosts::{desktop, function, lab, member, server};

fn config(fields: Value) -> Config {
    let mut all = json!({
        "name": "router",
        "kernel": "/boot/vmlinuz",
        "initrd": "/boot/initrd",
        "cmdline": "console=ttyS0 quiet",
        "vcpus": 2,
        "memory": { "size_mib": 2048 },
        "devices": [{ "address": "0000:41:00.0" }],
    });
    let (Some(all_fields), Some(fields)) = (all.as_object_mut(), fields.as_object()) else {
        panic!("fields are an object");
    };
    all_fields.extend(fields.clone());
    serde_json::from_value(all).expect("a good config")
}

fn plan(fields: Value, host: &HostProfile) -> Plan {
    match Plan::new(&config(fields), host) {
        Ok(plan) => plan,
        Err(error) => panic!("refused: {error}"),
    }
}

/// What a plan notes, as its readers see it.
fn notes(plan: &Plan) -> Vec<String> {
    plan.notes.iter().map(Note::to_string).collect()
}

fn golden(name: &str, text: &str) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "src/plan/golden", name].iter().collect();
    if env::var_os("BERTH_UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).expect("the source tree is writable");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{}", path.display());
}

#[test]
fn a_server_gives_node_and_whole_cores_of_its_card() {
    let devices = json!([
        { "address": "0000:41:00.0" }, { "address": "0000:41:00.1" }, { "address": "0000:42:10.2" }
    ]);
    let fields = json!({ "vcpus": 3, "memory": { "size_mib": 6144 }, "devices": devices });
    golden("server.txt", &plan(fields, &server()).to_string());
}

#[test]
fn a_desktop_without_nodes_gives_small_pages() {
    let fields = json!({
        "name": "d1",
        "vcpus": 1,
        "memory": { "size_mib": 512, "page_size": "4K" },
        "devices": [{ "address": "0000:01:00.1" }],
        "initrd": "/boot/initrd",
        "console": { "file": "/var/log/d1" },
        "shutdown_timeout_s": 5,
    });
    golden("desktop.txt", &plan(fields, &desktop()).to_string());
}

#[test]
fn a_machine_without_devices_goes_where_there_is_room() {
    let mut host = server();
    pool(&mut host, 0).free = 1;
    let fields = json!({
        "devices": [],
        "vcpus": 10,
        "console": "off",
        "placement": { "cpus": [4, 5, 6, 7, 12, 13, 14, 15, 1, 2] },
    });
    golden("no-devices.txt", &plan(fields, &host).to_string());
    let free = plan(json!({ "devices": [] }), &host);
    assert_eq!(free.memory.node, Some(1));
    assert_eq!(free.limits.memlock, 0);
}

#[test]
fn the_lab_pins_to_its_only_cpu_of_the_node() {
    let fields = json!({
        "vcpus": 1, "memory": { "size_mib": 1024 }, "devices": [{ "address": "21:00.0" }]
    });
    golden("lab.txt", &plan(fields, &lab()).to_string());
}

#[test]
fn plans_are_json_too() {
    let plan = plan(json!({}), &server());
    let json = serde_json::to_string_pretty(&plan).expect("a plan is plain data") + "\n";
    golden("server.json", &json);
}

#[test]
fn the_same_two_give_the_same_plan() {
    assert_eq!(plan(json!({}), &server()), plan(json!({}), &server()));
}

fn cpus(fields: Value, host: &HostProfile) -> (Vec<u32>, Vec<u32>) {
    let plan = plan(fields, host);
    let vcpus = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    (vcpus, plan.vmm_cpus)
}

#[test]
fn cores_come_before_siblings_and_berth_gets_the_rest() {
    let host = server();
    // Node 1 has cores 4 to 7 with siblings 12 to 15.
    let vcpus = |n: u8| json!({ "vcpus": n });
    assert_eq!(cpus(vcpus(2), &host), (vec![4, 5], vec![7, 15]));
    assert_eq!(cpus(vcpus(4), &host), (vec![4, 5, 6, 7], vec![15]));
    // Siblings are next to each other.
    assert_eq!(cpus(vcpus(5), &host), (vec![4, 12, 5, 6, 7], vec![15]));
    // No CPU of the node is left, others are.
    assert_eq!(cpus(vcpus(8), &host), (vec![4, 12, 5, 13, 6, 14, 7, 15], vec![0, 8]));
    // The core of CPU 0 is the last choice.
    let node0 = json!({ "vcpus": 3, "placement": { "node": 0 } });
    assert_eq!(cpus(node0, &host), (vec![1, 2, 3], vec![0, 8]));
}

#[test]
fn berth_shares_when_vcpus_have_every_cpu() {
    let mut host = server();
    host.process.cpus = IdSet::from_iter([4, 5]);
    assert_eq!(cpus(json!({}), &host), (vec![4, 5], vec![4, 5]));
}

#[test]
fn isolated_cpus_are_taken_when_named() {
    let mut host = server();
    host.cpus.isolated = IdSet::from_iter([6, 7]);
    host.process.cpus = host.process.cpus.difference(&host.cpus.isolated);
    assert_eq!(cpus(json!({}), &host).0, [4, 5]);
    let named = json!({ "placement": { "cpus": [7, 6] } });
    assert_eq!(cpus(named, &host).0, [7, 6]);
}

#[test]
fn a_device_without_a_node_goes_where_there_is_room() {
    let mut host = server();
    function(&mut host, "0000:41:00.0").node = None;
    pool(&mut host, 0).free = 0;
    let plan = plan(json!({}), &host);
    assert_eq!(plan.memory.node, Some(1));
    assert_eq!(
        notes(&plan),
        ["the firmware names no NUMA node for the devices; node 1 was chosen"]
    );
}

#[test]
fn far_placement_is_noted() {
    let fields = json!({ "placement": { "node": 0, "cpus": [4, 1] } });
    let shortfalls = plan(fields, &server()).shortfalls;
    let what: Vec<&str> = shortfalls.iter().map(|finding| finding.seen.as_str()).collect();
    assert_eq!(
        what[..2],
        [
            "0000:41:00.0 is on node 1, the memory on node 0",
            "CPUs 4 are not on node 0, where the memory is",
        ]
    );
}

#[test]
fn bars_go_where_the_iommu_reaches_when_they_fit() {
    let mut host = server();
    let window64 = |host: &HostProfile| plan(json!({}), host).pci.roots[0].window64.clone();
    host.iommu.address_bits = Some(39);
    assert_eq!(window64(&host), Some(4 << 30..1 << 39));
    host.iommu.address_bits = Some(32);
    assert_eq!(window64(&host), Some(4 << 30..1 << 46));
}

#[test]
fn ram_goes_around_what_the_iommu_reserves() {
    let mut host = server();
    let group = host.functions.groups.get_mut(&14).expect("the card's group");
    group
        .reserved
        .push(ReservedRegion { range: 0x4000_0000..=0x4000_ffff, kind: "direct".to_owned() });
    let regions: Vec<_> = plan(json!({}), &host)
        .memory
        .regions
        .into_iter()
        .map(|region| (region.guest, region.file_offset))
        .collect();
    assert_eq!(regions, [(0..1 << 30, 0), (2 << 30..3 << 30, 1 << 30)]);
}

#[test]
fn a_capability_lifts_the_limit_of_locked_memory() {
    let mut host = server();
    host.process.memlock = Some(65_536);
    host.process.capabilities = 1 << 14;
    assert_eq!(plan(json!({}), &host).limits.memlock, 2 << 30);
}

fn pool(host: &mut HostProfile, node: u32) -> &mut Pool {
    let node = host.memory.nodes.get_mut(&node).expect("a node");
    node.pools.get_mut(&PageSize::Size1G).expect("a pool")
}

#[test]
fn unsafe_interrupts_are_allowed_with_a_note() {
    let mut host = server();
    host.iommu.interrupt_remapping = Some(false);
    host.iommu.unsafe_interrupts = true;
    assert_eq!(plan(json!({}), &host).notes.len(), 1);
}

#[test]
fn ports_and_idle_functions_may_share_a_group() {
    let mut host = server();
    member(&mut host, "0000:40:01.0", 14, Some("pcieport"));
    member(&mut host, "0000:41:00.4", 14, None);
    member(&mut host, "0000:41:00.5", 14, Some("mlx5_vfio_pci"));
    assert_eq!(notes(&plan(json!({}), &host)), Vec::<String>::new());
}
