//! Where a machine goes on hosts whose nodes have several L3 caches, packages or kinds of cores, in
//! one text to be read by eye.

use serde_json::json;

use super::golden;
use super::shapes::{Shape, Smt, ids, machine, smt, vcpus};
use crate::host::{CoreKind, HostProfile, IdSet};

/// EPYC 7003 with all of its memory in one node: eight caches of eight cores, two threads each.
fn nps1(name: &'static str) -> Shape {
    Shape::new(name, &[(0, "0-127", 256)], Smt::Apart(64), Some(0)).change(|host| {
        host.cpus.l3_caches = caches_of(8);
    })
}

fn caches_of(cores: u32) -> Vec<IdSet> {
    let cache = |first: u32| ids(&format!("{first}-{},{}-{}", first + 7, first + 64, first + 71));
    (0..64).step_by(cores as usize).map(cache).collect()
}

/// Two packages in one node (node interleaving), whose CPUs are numbered by turns.
fn interleaved(name: &'static str) -> Shape {
    Shape::new(name, &[(0, "0-31", 64)], Smt::Apart(16), Some(0)).change(|host| {
        let package = |odd: u32| (0..32).filter(|cpu| cpu % 2 == odd).collect::<IdSet>();
        host.cpus.packages = [(0, package(0)), (1, package(1))].into();
        host.cpus.l3_caches = host.cpus.packages.values().cloned().collect();
    })
}

/// A 13900K: eight performance cores with two threads each, sixteen efficiency cores.
fn hybrid(name: &'static str) -> Shape {
    Shape::new(name, &[(0, "0-31", 64)], Smt::Off, Some(0)).change(|host| {
        for cpu in 0..16 {
            let core = cpu & !1;
            host.cpus.siblings.insert(cpu, IdSet::from_iter([core, core + 1]));
        }
        let kind = |name: &str, cpus| CoreKind { name: name.to_owned(), cpus: ids(cpus) };
        host.cpus.core_kinds =
            vec![kind("performance cores", "0-15"), kind("efficiency cores", "16-31")];
    })
}

/// CPUs 8-11 and 24-27 are an isolated partition's, 12 and 28 another's.
fn partitions(host: &mut HostProfile) {
    host.cpus.partitioned = ids("8-12,24-28");
    host.cpus.isolated = ids("8-11,24-27");
}

fn topologies() -> Vec<Shape> {
    let two = [(0, "0-7,16-23", 64), (1, "8-15,24-31", 64)];
    let second = |name| Shape::new(name, &two, Smt::Apart(16), Some(1));
    let isolated = json!({ "vcpus": 2, "placement": { "cpus": "isolated" } });
    vec![
        nps1("EPYC NPS1: one L3 cache of eight cores").fields(vcpus(8)),
        nps1("EPYC NPS1: a cache that is in use comes before one that is whole")
            .fields(vcpus(4))
            .change(|host| host.machines = vec![machine(4711, "first", "8-10", "0,64")]),
        nps1("EPYC NPS1: two caches and no more").fields(vcpus(12)),
        nps1("EPYC NPS1: siblings, all of one cache").fields(smt("siblings", 16)),
        nps1("EPYC NPS1: seven caches have a machine each").fields(vcpus(8)).change(|host| {
            let each = |cache: u32| {
                let cores = format!("{}-{}", cache * 8 + 1, cache * 8 + 7);
                machine(4711 + cache, "other", &cores, "0,64")
            };
            host.machines = (0..7).map(each).collect();
        }),
        nps1("EPYC NPS1: the host does not say which CPUs share a cache").fields(vcpus(8)).change(
            |host| {
                host.cpus.l3_caches.clear();
                host.cpus.packages.clear();
                host.cpus.core_kinds.clear();
            },
        ),
        interleaved("two packages, CPU numbers interleaved").fields(vcpus(4)),
        interleaved("two packages, more vCPUs than one has cores").fields(vcpus(10)),
        interleaved("two packages, more vCPUs than one has threads").fields(vcpus(18)),
        hybrid("Intel hybrid: performance cores").fields(vcpus(6)),
        hybrid("Intel hybrid: more vCPUs than performance cores").fields(vcpus(12)),
        hybrid("Intel hybrid: more vCPUs than cores of a kind").fields(vcpus(20)),
        second("cpuset partitions of other software").fields(vcpus(2)).change(partitions),
        second("isolated CPUs, and all are another partition's")
            .fields(isolated.clone())
            .change(partitions),
        second("isolated CPUs of this process's own partition").fields(isolated).change(|host| {
            partitions(host);
            host.cpus.partitioned = ids("12,28");
            host.process.cpus = host.cpus.isolated.clone();
        }),
        second("another partition's CPU, named")
            .fields(json!({ "placement": { "cpus": [10, 13] } }))
            .change(partitions),
        second("berth's threads stay off CPUs without ticks").fields(vcpus(2)).change(|host| {
            host.cpus.nohz_full = ids("8-9,12-15,24-25,28-31");
        }),
        Shape::new(
            "CXL memory, where all huge pages are",
            &[(0, "0-15", 32), (1, "", 128)],
            Smt::Off,
            None,
        )
        .change(|host| {
            let node = host.memory.nodes.get_mut(&0).expect("node 0");
            node.pools.values_mut().for_each(|pool| (pool.total, pool.free) = (0, 0));
        }),
        Shape::new("CXL memory, asked for", &[(0, "0-15", 32), (1, "", 128)], Smt::Off, None)
            .fields(json!({ "placement": { "node": 1 } })),
    ]
}

#[test]
fn caches_packages_and_kinds_come_one_after_the_other() {
    let text: Vec<String> = topologies().iter().map(Shape::describe).collect();
    golden("topologies.txt", &text.join("\n"));
}
