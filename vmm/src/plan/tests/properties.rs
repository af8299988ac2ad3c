//! What holds of every plan, whatever the host and the config.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::config;
use super::hosts::{assign, igb};
use super::shapes::{Shape, Smt};
use crate::config::{self, Config, CpuChoice};
use crate::host::{CoreKind, HostProfile, IdSet, RunningMachine};
use crate::plan::Plan;

/// Any subset of what is below `count`.
fn some(count: u32) -> impl Strategy<Value = IdSet> {
    let all: Vec<u32> = (0..count).collect();
    let length = all.len();
    subsequence(all, 0..=length).prop_map(|ids| ids.into_iter().collect())
}

/// CPUs of the nodes, 0 to 16 each, one after the other.
fn nodes() -> impl Strategy<Value = Vec<(u32, String, u64)>> {
    prop::collection::vec((select(vec![0, 1, 3, 6, 8, 12, 16]), select(vec![0u64, 8, 64])), 1..=4)
        .prop_map(|sizes| {
            let mut first = 0;
            let node = |(id, (cpus, gib)): (usize, (u32, u64))| {
                let all: IdSet = (first..first + cpus).collect();
                first += cpus;
                let list = if cpus == 0 { String::new() } else { all.to_string() };
                (id as u32 * 2, list, gib)
            };
            sizes.into_iter().enumerate().map(node).collect()
        })
}

fn machine(pid: u32) -> impl Strategy<Value = RunningMachine> {
    (some(6), some(32)).prop_map(move |(vcpus, own)| RunningMachine {
        pid,
        name: format!("m{pid}"),
        vcpus: vcpus.iter().map(|cpu| cpu * pid % 32).collect(),
        own,
    })
}

/// What the host tells of caches, packages and kinds: each at random, or not at all.
#[derive(Clone, Debug)]
struct Near {
    /// Cores of a cache.
    cache: Option<u32>,
    /// Packages that caches are dealt to by turns.
    packages: Option<u32>,
    /// Cores of a kind, and of the other one, by turns.
    kinds: Option<u32>,
}

fn near() -> impl Strategy<Value = Near> {
    let some = |values: Vec<u32>| prop::option::weighted(0.8, select(values));
    (some(vec![1, 2, 3, 4]), some(vec![1, 2]), some(vec![2, 4, 5, 32]))
        .prop_map(|(cache, packages, kinds)| Near { cache, packages, kinds })
}

impl Near {
    fn tell(&self, host: &mut HostProfile) {
        let cpus = &mut host.cpus;
        let mut cores: Vec<u32> = cpus.online.iter().map(|cpu| cpus.core_of(cpu)).collect();
        cores.sort_unstable();
        cores.dedup();
        // The CPUs of the cores whose place in the order `group` likes.
        let sets = |group: &dyn Fn(u32) -> u32| {
            let mut sets: BTreeMap<u32, IdSet> = BTreeMap::new();
            for cpu in cpus.online.iter() {
                let place = cores.binary_search(&cpus.core_of(cpu)).expect("its core") as u32;
                let set = sets.entry(group(place)).or_default();
                *set = set.union(&IdSet::from_iter([cpu]));
            }
            sets
        };
        let cache = self.cache.unwrap_or(1);
        let caches = self.cache.map(|cores| sets(&|place| place / cores));
        let packages = self.packages.map(|count| sets(&|place| place / cache % count));
        let kinds = self.kinds.map(|cores| sets(&|place| place / cores % 2));
        let kind = |(number, cpus)| CoreKind { name: format!("kind {number}"), cpus };
        let mut caches: Vec<IdSet> = caches.unwrap_or_default().into_values().collect();
        caches.sort_by_key(IdSet::first);
        cpus.core_kinds = kinds.unwrap_or_default().into_iter().map(kind).collect();
        cpus.packages = packages.unwrap_or_default();
        cpus.l3_caches = caches;
    }
}

fn host() -> impl Strategy<Value = HostProfile> {
    let smt = select(vec![Smt::Off, Smt::Adjacent, Smt::Apart(8), Smt::Apart(4)]);
    let place = select(vec![None, Some(0), Some(2), Some(4), Some(99)]);
    let facts = (nodes(), smt, prop::collection::vec(place, 1..=3), near());
    // Of many isolated CPUs, or of none, because little would ever fit next to them.
    let isolated = prop_oneof![1 => some(32), 2 => Just(IdSet::default())];
    let sets = (some(32), isolated, some(8), prop::option::of((machine(3), machine(7))));
    (facts, sets).prop_map(|((nodes, smt, places, near), (denied, isolated, offline, machines))| {
        let nodes: Vec<(u32, &str, u64)> =
            nodes.iter().map(|(id, cpus, gib)| (*id, cpus.as_str(), *gib)).collect();
        let mut host = Shape::new("any", &nodes, smt, places[0]).into_host();
        let online = host.cpus.online.difference(&offline);
        for node in host.memory.nodes.values_mut() {
            node.cpus = node.cpus.intersection(&online);
        }
        host.cpus.siblings.retain(|cpu, _| online.contains(*cpu));
        host.cpus.isolated = isolated.intersection(&online);
        // Most of them, or little would ever fit.
        let denied = denied.iter().filter(|cpu| cpu % 4 == 1).collect();
        host.process.cpus = online.difference(&denied).difference(&host.cpus.isolated);
        host.cpus.online = online;
        near.tell(&mut host);
        host.machines = machines.into_iter().flat_map(|(a, b)| [a, b]).collect();
        for (index, place) in (0..).zip(&places).skip(1) {
            let address = format!("0000:4{}:00.0", index + 1);
            assign(&mut host, vec![(address.as_str(), igb(*place, 20 + index))]);
        }
        host
    })
}

fn wish() -> impl Strategy<Value = Value> {
    let word = |words: &[&'static str]| select(words.to_vec()).prop_map(|word| json!(word));
    let named = subsequence((0..32u32).collect::<Vec<_>>(), 1..=6).prop_map(|cpus| json!(cpus));
    let cpus = prop_oneof![4 => word(&["auto"]), 2 => word(&["isolated"]), 1 => named];
    (
        1u8..=12,
        select(vec![1024u64, 3072, 5120]),
        cpus,
        word(&["auto", "siblings", "idle"]),
        word(&["majority", "split", "refuse"]),
        word(&["auto", "off"]),
    )
        .prop_map(|(vcpus, size, cpus, smt, several_nodes, interrupt_cpus)| {
            let vcpus = cpus.as_array().map_or(usize::from(vcpus), Vec::len);
            json!({
                "vcpus": vcpus,
                "memory": { "size_mib": size },
                "placement": {
                    "cpus": cpus, "smt": smt, "several_nodes": several_nodes,
                    "interrupt_cpus": interrupt_cpus,
                },
            })
        })
}

fn cores(host: &HostProfile, cpus: &IdSet) -> IdSet {
    cpus.iter().map(|cpu| host.cpus.core_of(cpu)).collect()
}

fn check_cpus(config: &Config, host: &HostProfile, plan: &Plan) {
    let vcpus: IdSet = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    assert_eq!(plan.vcpus.len(), usize::from(config.vcpus.get()));
    assert_eq!(vcpus.len(), plan.vcpus.len(), "two vCPUs on one CPU");
    assert!(vcpus.difference(&host.cpus.online).is_empty(), "offline");
    let others: IdSet = host.machines.iter().flat_map(|m| m.vcpus.iter()).collect();
    match &config.placement.cpus {
        CpuChoice::Auto => assert!(vcpus.difference(&host.process.cpus).is_empty(), "denied"),
        CpuChoice::Isolated => assert!(vcpus.difference(&host.cpus.isolated).is_empty()),
        CpuChoice::Named(named) => assert_eq!(vcpus, named.iter().copied().collect()),
    }
    if config.placement.cpus.named().is_none() {
        let shared = cores(host, &vcpus).intersection(&cores(host, &others));
        assert!(shared.is_empty(), "cores {shared} are other machines'");
    }

    let own: IdSet = plan.vmm_cpus.iter().copied().collect();
    assert!(!own.is_empty() && own.difference(&host.cpus.online).is_empty());
    let usable = host.process.cpus.intersection(&host.cpus.online);
    let free = usable.difference(&vcpus).difference(&others);
    let busy = cores(host, &vcpus);
    let idle: IdSet = free
        .iter()
        .filter(|&cpu| {
            !busy.contains(host.cpus.core_of(cpu))
                && !cores(host, &others).contains(host.cpus.core_of(cpu))
        })
        .collect();
    let alone = config.placement.smt == config::Smt::Idle;
    if !(if alone { &idle } else { &free }).is_empty() {
        assert!(own.intersection(&vcpus).is_empty(), "berth is in vCPUs' way");
        assert!(own.intersection(&others).is_empty(), "berth is in other machines' way");
        assert!(!alone || cores(host, &own).intersection(&busy).is_empty(), "not left idle");
    }
    if alone && config.placement.cpus.named().is_none() {
        assert_eq!(busy.len(), vcpus.len(), "two vCPUs on one core");
    }
    for function in &plan.pci.functions {
        let cpus: IdSet = function.interrupt_cpus.iter().copied().collect();
        assert!(cpus.difference(&host.cpus.online).is_empty());
        assert!(cpus.intersection(&vcpus).is_empty(), "interrupts on vCPUs");
        assert!(cpus.intersection(&others).is_empty(), "interrupts on other machines' vCPUs");
        assert!(!alone || cores(host, &cpus).intersection(&busy).is_empty(), "not left idle");
    }
}

/// The sets that have some of `cpus`.
fn used<'a>(sets: impl Iterator<Item = &'a IdSet>, cpus: &IdSet) -> Vec<&'a IdSet> {
    sets.filter(|set| !set.intersection(cpus).is_empty()).collect()
}

/// One package whenever one has room, in it one kind whenever one has room, and in that one L3 cache
/// whenever one has room.
fn check_nearness(config: &Config, host: &HostProfile, plan: &Plan) {
    let vcpus: IdSet = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    let nodes: BTreeSet<_> = plan.vcpus.iter().map(|vcpu| vcpu.node).collect();
    let (Some(Some(node)), 1, 1) = (nodes.first(), nodes.len(), plan.memory.pages.len()) else {
        return;
    };
    let pool = match &config.placement.cpus {
        CpuChoice::Auto => host.process.cpus.intersection(&host.cpus.online),
        CpuChoice::Isolated => host.cpus.isolated.clone(),
        CpuChoice::Named(_) => return,
    };
    let others: IdSet = host.machines.iter().flat_map(|m| m.vcpus.iter()).collect();
    let others = cores(host, &others);
    let free = pool.intersection(&host.memory.nodes[node].cpus);
    let free: IdSet = free.iter().filter(|c| !others.contains(host.cpus.core_of(*c))).collect();
    let whole = |cpu: u32| {
        let threads = &host.cpus.siblings[&cpu];
        threads.intersection(&host.cpus.online).difference(&free).is_empty()
    };
    let whole: IdSet = free.iter().filter(|cpu| whole(*cpu)).collect();

    // Where nothing is told, all is together.
    let all = || vec![host.cpus.online.clone()];
    let or_all = |sets: Vec<IdSet>| if sets.is_empty() { all() } else { sets };
    let packages = or_all(host.cpus.packages.values().cloned().collect());
    let kinds = or_all(host.cpus.core_kinds.iter().map(|kind| kind.cpus.clone()).collect());
    let caches = or_all(host.cpus.l3_caches.clone());

    let smt = config.placement.smt;
    let count = plan.vcpus.len();
    let alone = |set: &IdSet| cores(host, &set.intersection(&free)).len() >= count;
    let fits = |set: &IdSet| match smt {
        config::Smt::Idle => alone(set),
        config::Smt::Auto | config::Smt::Siblings => set.intersection(&free).len() >= count,
    };
    let scopes: Vec<(IdSet, usize)> = packages
        .iter()
        .flat_map(|package| {
            kinds.iter().enumerate().map(|(kind, cpus)| (package.intersection(cpus), kind))
        })
        .collect();
    let (one_package, one_kind) =
        (used(packages.iter(), &vcpus).len() == 1, used(kinds.iter(), &vcpus).len() == 1);
    let both = scopes.iter().any(|(scope, _)| fits(scope));
    assert!(one_package || !packages.iter().any(&fits), "a second package");
    assert!(one_package && one_kind || !both, "a second kind");
    let another_kind = !packages.iter().any(&fits) && kinds.iter().any(&fits);
    assert!(one_kind || !another_kind, "a second kind over packages");
    if !both {
        return;
    }
    let kind = kinds.iter().position(|kind| !kind.intersection(&vcpus).is_empty());
    // With what siblings ask for, where that is to be had at all.
    let as_asked = |set: &IdSet| match smt {
        config::Smt::Auto => alone(set),
        config::Smt::Idle => cores(host, &set.intersection(&whole)).len() >= count,
        config::Smt::Siblings => fits(set),
    };
    let asked: Vec<usize> =
        scopes.iter().filter(|(scope, _)| as_asked(scope)).map(|(_, kind)| *kind).collect();
    assert_eq!(kind, asked.iter().min().copied().or(kind), "a slower kind");
    let room = |set: &IdSet| if asked.is_empty() { fits(set) } else { as_asked(set) };
    let mut spots = scopes
        .iter()
        .filter(|(_, of_kind)| Some(*of_kind) == kind)
        .flat_map(|(scope, _)| caches.iter().map(|cache| scope.intersection(cache)));
    if spots.any(|spot| room(&spot)) {
        assert_eq!(used(caches.iter(), &vcpus).len(), 1, "a second L3 cache");
    }
}

/// The guest sees which vCPUs share a core, and no more than that.
fn check_topology(host: &HostProfile, plan: &Plan) {
    assert_eq!(plan.vcpus[0].apic_id, 0);
    let ids: BTreeSet<u8> = plan.vcpus.iter().map(|vcpu| vcpu.apic_id).collect();
    assert_eq!(ids.len(), plan.vcpus.len());
    for a in &plan.vcpus {
        for b in &plan.vcpus {
            let same_core = host.cpus.core_of(a.cpu) == host.cpus.core_of(b.cpu);
            let (seen_a, seen_b) = ((a.place.socket, a.place.core), (b.place.socket, b.place.core));
            assert_eq!(same_core && a.node == b.node, seen_a == seen_b);
            assert_eq!(a.node == b.node, a.place.socket == b.place.socket);
        }
    }
}

fn check_memory(config: &Config, host: &HostProfile, plan: &Plan) {
    let memory = &plan.memory;
    let (mut by_node, mut offset, mut end) = (BTreeMap::new(), 0, 0);
    for region in &memory.regions {
        assert!(region.guest.start >= end && region.file_offset == offset);
        let length = region.guest.end - region.guest.start;
        assert!(length > 0 && length.is_multiple_of(memory.page_size.bytes()));
        *by_node.entry(region.node).or_insert(0) += length;
        (offset, end) = (offset + length, region.guest.end);
    }
    assert_eq!(offset, config.memory.size_mib.bytes());
    for part in &memory.pages {
        assert_eq!(by_node.remove(&part.node), Some(part.pages * memory.page_size.bytes()));
        let node = &host.memory.nodes[&part.node.expect("these hosts have nodes")];
        let free = node.pools[&memory.page_size].free;
        assert!(part.free == free && part.pages <= free, "node {:?} is short", part.node);
    }
    assert!(by_node.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_plan_is_sound(host in host(), wish in wish()) {
        let mut wish = wish;
        wish["devices"] = host
            .functions
            .read
            .keys()
            .map(|address| json!({ "address": address.to_string() }))
            .collect();
        let config = config(wish);
        match Plan::new(&config, &host) {
            Ok(plan) => {
                check_cpus(&config, &host, &plan);
                check_nearness(&config, &host, &plan);
                check_topology(&host, &plan);
                check_memory(&config, &host, &plan);
                prop_assert!(!plan.to_string().is_empty());
            }
            Err(error) => prop_assert!(!error.help(&host).is_empty(), "{error}"),
        }
    }
}
