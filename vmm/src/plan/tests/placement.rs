//! Rules of placement that a golden text would not give a name to.

use std::time::Duration;

use serde_json::json;

use super::hosts::{assign, igb};
use super::shapes::{Shape, Smt, ids, machine, smt, vcpus};
use super::{config, plan};
use crate::host::{CoreKind, HostProfile, IdSet, RunningMachine};
use crate::plan::{Fill, FillReason, Plan, PlanError};

const TWO: [(u32, &str, u64); 2] = [(0, "0-7,16-23", 64), (1, "8-15,24-31", 64)];

fn host(change: impl FnOnce(&mut HostProfile)) -> HostProfile {
    let mut host = Shape::new("two sockets", &TWO, Smt::Apart(16), Some(1)).into_host();
    change(&mut host);
    host
}

fn pins(plan: &Plan) -> Vec<u32> {
    plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect()
}

fn set(cpus: &[u32]) -> IdSet {
    cpus.iter().copied().collect()
}

#[test]
fn idle_siblings_come_from_whole_cores_first() {
    // Of cores 8 and 9 the cpuset has one thread each.
    let host = host(|host| host.process.cpus = ids("0-7,8,9,10-12,26-28"));
    assert_eq!(pins(&plan(smt("idle", 2), &host)), [10, 11]);
    // They are the last choice, and a choice.
    assert_eq!(pins(&plan(smt("idle", 4), &host)), [8, 10, 11, 12]);
    assert_eq!(pins(&plan(smt("idle", 5), &host)), [8, 9, 10, 11, 12]);
}

/// A policy that is met in two caches comes before one cache where it is not.
#[test]
fn idle_siblings_count_more_than_one_cache() {
    let host = host(|host| {
        host.process.cpus = ids("8-13,26-29");
        host.cpus.l3_caches = vec![ids("8-10,24-26"), ids("11-12,27-28"), ids("13-15,29-31")];
    });
    assert_eq!(pins(&plan(smt("idle", 2), &host)), [11, 12]);
    assert_eq!(pins(&plan(smt("idle", 3), &host)), [10, 11, 12]);
}

#[test]
fn idle_siblings_count_more_than_a_faster_kind() {
    let host = host(|host| {
        host.process.cpus = ids("8-13,27-29");
        let kind = |name: &str, cpus| CoreKind { name: name.to_owned(), cpus: ids(cpus) };
        host.cpus.core_kinds =
            vec![kind("fast cores", "0-10,16-26"), kind("slow cores", "11-15,27-31")];
    });
    assert_eq!(pins(&plan(smt("idle", 2), &host)), [11, 12]);
}

#[test]
fn cores_of_one_share_are_idle_for_the_next_one() {
    // Both shares' memory is on nodes without CPUs, and both take theirs from the only other one.
    let nodes = [(0, "0-7,16-23", 64), (1, "", 64), (2, "", 64)];
    let mut host = Shape::new("two memory nodes", &nodes, Smt::Apart(16), Some(1)).into_host();
    assign(&mut host, vec![("0000:42:00.0", igb(Some(2), 15))]);
    let fields = |vcpus: u8| {
        json!({
            "vcpus": vcpus,
            "devices": [{ "address": "0000:41:00.0" }, { "address": "0000:42:00.0" }],
            "placement": { "smt": "idle", "several_nodes": "split" },
        })
    };
    // Of eight cores the first share takes five, and their other threads are nobody's.
    match Plan::new(&config(fields(10)), &host) {
        Err(PlanError::TooFewCpus { vcpus: 5, .. }) => {}
        other => panic!("{other:?}"),
    }
    let plan = plan(fields(4), &host);
    assert_eq!(plan.memory.pages.len(), 2);
    let cores: IdSet = pins(&plan).iter().map(|cpu| cpu % 16).collect();
    assert_eq!(cores.len(), 4, "two vCPUs share a core: {:?}", pins(&plan));
}

#[test]
fn interrupts_may_leave_the_cpuset_and_never_go_to_isolated_cpus() {
    let steered = |change: &dyn Fn(&mut HostProfile)| {
        let host = host(|host| {
            host.process.cpus = ids("8-9");
            change(host);
        });
        set(&plan(vcpus(2), &host).pci.functions[0].interrupt_cpus)
    };
    // All of the cpuset is vCPUs': the rest of the node is there.
    assert_eq!(steered(&|_| ()), ids("15,31"));
    assert_eq!(steered(&|host| host.cpus.isolated = ids("15,31")), ids("14,30"));
    assert_eq!(steered(&|host| host.cpus.partitioned = ids("14-15,30-31")), ids("13,29"));
    // Nothing open is left on any node.
    let none = steered(&|host| host.cpus.isolated = ids("0-7,10-31"));
    assert_eq!(none, IdSet::default());
}

#[test]
fn of_nodes_with_as_many_devices_the_first_device_decides() {
    for (first, second) in [(0, 1), (1, 0)] {
        let host = host(|host| {
            let devices = [("0000:42:00.0", first, 15), ("0000:43:00.0", second, 16)];
            assign(host, devices.map(|(at, node, group)| (at, igb(Some(node), group))).into());
        });
        let devices = json!([{ "address": "0000:42:00.0" }, { "address": "0000:43:00.0" }]);
        let plan = plan(json!({ "devices": devices }), &host);
        assert_eq!(plan.memory.node, Some(first));
    }
}

#[test]
fn of_nodes_with_as_much_room_the_lowest_is_taken() {
    let without_devices = json!({ "devices": [] });
    assert_eq!(plan(without_devices, &host(|_| ())).memory.node, Some(0));
}

#[test]
fn a_promise_is_held_against_the_whole_guest() {
    // Each node has pages for its half, and of the sum three are promised to others.
    let host = host(|host| {
        assign(host, vec![("0000:42:00.0", igb(Some(0), 15))]);
        for node in host.memory.nodes.values_mut() {
            for pool in node.pools.values_mut() {
                (pool.total, pool.free) = (2, 2);
            }
        }
        for reserved in host.memory.reserved.values_mut() {
            *reserved = 3;
        }
    });
    let fields = json!({
        "devices": [{ "address": "0000:41:00.0" }, { "address": "0000:42:00.0" }],
        "placement": { "several_nodes": "split" },
    });
    match Plan::new(&config(fields), &host) {
        Err(PlanError::PagesPromised { need: 2, unreserved: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn small_pages_are_locked_unless_devices_pin_them() {
    let memory = json!({ "size_mib": 512, "page_size": "4K" });
    let alone = json!({ "memory": memory, "devices": [] });
    assert!(plan(alone, &host(|_| ())).memory.locked);
    assert!(!plan(json!({ "memory": memory }), &host(|_| ())).memory.locked);
    assert!(!plan(json!({ "devices": [] }), &host(|_| ())).memory.locked, "huge pages stay");
}

/// What it takes is had before berth gives up what it was started with.
#[test]
fn memory_is_filled_behind_the_guest_unless_that_could_fail_where_before_it_could_not() {
    let of = |fields, change: fn(&mut HostProfile)| plan(fields, &host(change)).memory.fill;
    let before = |why| Fill::Before { why };
    assert_eq!(of(json!({}), |_| ()), Fill::Behind);
    assert_eq!(of(json!({ "devices": [] }), |_| ()), Fill::Behind);
    let asked = json!({ "memory": { "size_mib": 2048, "fill": "before" } });
    assert_eq!(of(asked, |_| ()), before(FillReason::Asked));
    // The limit does not bind who has CAP_IPC_LOCK, and may not be raised.
    let only_locks = |host: &mut HostProfile| host.process.capabilities = 1 << 14;
    assert_eq!(of(json!({}), only_locks), before(FillReason::LockLimit));
    assert_eq!(of(json!({ "devices": [] }), only_locks), Fill::Behind, "nothing is locked");
    assert_eq!(
        of(json!({}), |host| {
            host.process.capabilities = 0;
            host.process.memlock = None;
        }),
        Fill::Behind
    );
}

/// Somebody else's threads would not run on a CPU that is never given away.
#[test]
fn dedicated_cpus_are_those_of_nobody_else() {
    let fields = json!({ "cpu": { "dedicated": true } });
    let text = plan(fields.clone(), &host(|_| ())).to_string();
    assert!(text.contains("HLT and PAUSE do not exit"), "{text}");
    let shared = host(|host| {
        let (name, own) = ("other".to_owned(), IdSet::default());
        host.machines = vec![RunningMachine { pid: 70, name, vcpus: ids("8-15,24-31"), own }];
    });
    let named = |dedicated| json!({ "placement": { "cpus": [8, 9] }, "cpu": { "dedicated": dedicated }, "vcpus": 2 });
    match Plan::new(&config(named(true)), &shared) {
        Err(PlanError::CpuShared { shared, .. }) => assert!(shared.contains("machine other")),
        other => panic!("{other:?}"),
    }
    assert!(!plan(named(false), &shared).dedicated);
}

/// A node of three caches: one of two cores, two of four.
fn three_caches(change: impl FnOnce(&mut HostProfile)) -> HostProfile {
    let nodes = [(0, "0-9", 64)];
    let mut host = Shape::new("three caches", &nodes, Smt::Off, Some(0)).into_host();
    host.cpus.l3_caches = ["0-1", "2-5", "6-9"].map(ids).into();
    change(&mut host);
    host
}

#[test]
fn the_smallest_cache_with_room_is_taken() {
    assert_eq!(pins(&plan(vcpus(3), &three_caches(|_| ()))), [2, 3, 4]);
    assert_eq!(pins(&plan(vcpus(1), &three_caches(|_| ()))), [1]);
    // The host's own work and other machines' threads are a reason for another one.
    assert_eq!(pins(&plan(vcpus(2), &three_caches(|_| ()))), [2, 3]);
    let busy = three_caches(|host| host.machines = vec![machine(9, "m", "9", "2")]);
    assert_eq!(pins(&plan(vcpus(3), &busy)), [6, 7, 8]);
    // One that is partly taken has less room.
    let partly = three_caches(|host| host.machines = vec![machine(9, "m", "3", "0")]);
    assert_eq!(pins(&plan(vcpus(4), &partly)), [6, 7, 8, 9]);
}

/// Threads of another machine that may run on any CPU are on none in particular.
#[test]
fn threads_that_may_run_anywhere_have_no_place() {
    let busy = |own: &str| three_caches(|host| host.machines = vec![machine(9, "m", "9", own)]);
    assert_eq!(pins(&plan(vcpus(2), &busy("0-9"))), [6, 7]);
    assert_eq!(pins(&plan(vcpus(2), &busy("0,6-8"))), [2, 3]);
}

#[test]
fn berth_stays_in_the_vcpus_cache_and_leaves_others_whole() {
    let host = three_caches(|host| host.process.cpus = ids("2-9"));
    let plan = plan(vcpus(3), &host);
    assert_eq!((pins(&plan), plan.vmm_cpus), (vec![2, 3, 4], vec![5]));
}

#[test]
fn berth_stays_in_the_vcpus_package() {
    let host = three_caches(|host| {
        host.process.cpus = ids("2-9");
        host.cpus.l3_caches.clear();
        host.cpus.packages = [(0, ids("0-5")), (1, ids("6-9"))].into();
    });
    let plan = plan(vcpus(2), &host);
    assert_eq!((pins(&plan), plan.vmm_cpus), (vec![2, 3], vec![5]));
}

/// Seven vCPUs have room in two caches of four, or in one of those and two of two.
#[test]
fn as_few_caches_as_can_be_are_taken() {
    let mut host = Shape::new("caches", &[(0, "0-13", 64)], Smt::Off, Some(0)).into_host();
    host.cpus.l3_caches = ["0-1", "2-3", "4-5", "6-9", "10-13"].map(ids).into();
    host.process.cpus = ids("2-13");
    let plan = plan(vcpus(7), &host);
    assert_eq!(pins(&plan), [6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(plan.locality.l3_caches, ["6-9", "10-13"].map(ids));
}

#[test]
fn the_fastest_kind_with_room_is_taken() {
    let host = three_caches(|host| {
        let kind = |name: &str, cpus| CoreKind { name: name.to_owned(), cpus: ids(cpus) };
        host.cpus.core_kinds = vec![kind("fast cores", "6-9"), kind("slow cores", "0-5")];
    });
    assert_eq!(pins(&plan(vcpus(2), &host)), [6, 7]);
    assert_eq!(pins(&plan(vcpus(5), &host)), [1, 2, 3, 4, 5]);
}

#[test]
fn a_mix_of_kinds_is_said() {
    let host = three_caches(|host| {
        let kind = |name: &str, cpus| CoreKind { name: name.to_owned(), cpus: ids(cpus) };
        host.cpus.core_kinds = vec![kind("fast cores", "0-5"), kind("slow cores", "6-9")];
    });
    let said = |count: u8| {
        let plan = plan(vcpus(count), &host);
        plan.shortfalls.iter().any(|s| s.seen.contains("CPUs 6-8 are slow cores"))
    };
    assert!(said(7) && !said(6));
}

/// Processor time of this thread, which others on the same CPUs do not add to.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a `timespec` to the one that is given to it, and nothing else.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(done, 0, "every Linux has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The shortest of several plans for a host of `cores` cores with two threads each, on 8 nodes and
/// with 64 devices.
fn shortest_plan(cores: u32) -> Duration {
    let node = cores / 8;
    let nodes: Vec<(u32, String)> = (0..8)
        .map(|id| {
            let first = id * node;
            let (last, twin) = (first + node - 1, first + cores);
            (id, format!("{first}-{last},{twin}-{}", last + cores))
        })
        .collect();
    let nodes: Vec<(u32, &str, u64)> =
        nodes.iter().map(|(id, cpus)| (*id, cpus.as_str(), 512)).collect();
    let mut host = Shape::new("large", &nodes, Smt::Apart(cores), Some(3)).into_host();
    let cache = |first: u32| (first..first + 8).flat_map(|cpu| [cpu, cpu + cores]).collect();
    host.cpus.l3_caches = (0..cores).step_by(8).map(cache).collect();
    let addresses: Vec<String> = (0..64).map(|n| format!("0000:{:02x}:00.0", 0x50 + n)).collect();
    for (address, (group, node)) in addresses.iter().zip((20..).zip((0..8).cycle())) {
        assign(&mut host, vec![(address.as_str(), igb(Some(node), group))]);
    }
    let devices: Vec<_> = addresses.iter().map(|a| json!({ "address": a })).collect();
    let config = config(json!({ "vcpus": 30, "devices": devices }));
    let times = (0..5).map(|_| {
        let start = thread_time();
        let plan = Plan::new(&config, &host).expect("a plan");
        assert_eq!((plan.vcpus.len(), plan.pci.functions.len()), (30, 64));
        thread_time() - start
    });
    times.min().expect("five")
}

/// Milliseconds count before the guest's first instruction: what a plan costs must not grow with
/// the square of the host. Eight times the CPUs are 64 times the work then.
#[test]
fn a_plan_for_a_large_host_costs_no_more_for_each_cpu() {
    let (small, large) = (shortest_plan(128), shortest_plan(1024));
    let times = large.as_secs_f64() / small.as_secs_f64();
    println!("256 CPUs: {small:?}, 2048 CPUs: {large:?}, {times:.1} times as long");
    assert!(times < 24.0, "{small:?}, {large:?}: {times:.1} times");
}
