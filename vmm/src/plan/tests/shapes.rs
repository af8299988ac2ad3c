//! Where a machine goes on hosts of many shapes, in one text to be read by eye.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::hosts::{assign, host, igb, node};
use super::{config, golden};
use crate::advice::{Code, Finding};
use crate::host::{CoreKind, CpuVendor, Cpus, HostProfile, IdSet, Memory, RunningMachine};
use crate::plan::Plan;
use crate::units::{PageSize, Seen};

/// Which threads share a core.
#[derive(Clone, Copy, Debug)]
pub(super) enum Smt {
    /// None do.
    Off,
    /// CPU n and n + this, as most servers number them.
    Apart(u32),
    /// CPUs 2n and 2n + 1, as some clouds do.
    Adjacent,
}

/// A host, by what placement looks at.
pub(super) struct Shape {
    name: &'static str,
    host: HostProfile,
    fields: Value,
}

pub(super) fn ids(text: &str) -> IdSet {
    text.parse().expect("a list of ids")
}

impl Shape {
    /// A host with these `nodes`, each with its CPUs and GiB of memory, half of it 1 GiB pages; a
    /// NIC on node `nic`, and two vCPUs with 2 GiB.
    pub(super) fn new(
        name: &'static str,
        nodes: &[(u32, &str, u64)],
        smt: Smt,
        nic: Option<u32>,
    ) -> Self {
        let online: IdSet =
            nodes.iter().flat_map(|(_, cpus, _)| ids(cpus).iter().collect::<Vec<_>>()).collect();
        let with_cpus =
            || nodes.iter().map(|(id, cpus, _)| (*id, ids(cpus))).filter(|(_, c)| !c.is_empty());
        let core = |cpu: u32| match smt {
            Smt::Off => cpu,
            Smt::Apart(distance) => cpu % distance,
            Smt::Adjacent => cpu / 2,
        };
        let siblings = online.iter().map(|cpu| {
            (cpu, online.iter().filter(|other| core(*other) == core(cpu)).collect::<IdSet>())
        });
        let cpus = Cpus {
            siblings: siblings.collect(),
            vendor: CpuVendor::Amd,
            virtualization: Some(true),
            gigabyte_pages: Some(true),
            physical_bits: Some(48),
            // As many servers are: a node is a socket with one cache.
            l3_caches: with_cpus().map(|(_, cpus)| cpus).collect(),
            packages: with_cpus().collect(),
            core_kinds: vec![CoreKind { name: "cores".to_owned(), cpus: online.clone() }],
            online,
            ..Cpus::default()
        };
        let facts = nodes.iter().map(|(id, cpus, gib)| {
            let mut facts = node(ids(cpus), (*gib).max(2), gib / 2);
            facts.total = gib << 30;
            // The nearer its number, the nearer it is.
            facts.distances = nodes
                .iter()
                .map(|(other, ..)| {
                    (*other, if other == id { 10 } else { 20 + other.abs_diff(*id) })
                })
                .collect();
            (*id, facts)
        });
        let memory = Memory {
            numa: true,
            nodes: facts.collect(),
            reserved: BTreeMap::from([(PageSize::Size2M, 0), (PageSize::Size1G, 0)]),
        };
        let mut host = host(cpus, memory);
        assign(&mut host, vec![("0000:41:00.0", igb(nic, 14))]);
        Self { name, host, fields: json!({}) }
    }

    /// The host alone.
    pub(super) fn into_host(self) -> HostProfile {
        self.host
    }

    pub(super) fn fields(mut self, fields: Value) -> Self {
        self.fields = fields;
        self
    }

    pub(super) fn change(mut self, change: impl FnOnce(&mut HostProfile)) -> Self {
        change(&mut self.host);
        self
    }

    /// The shape and what placement makes of it, without the rest of the plan.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("# {}\n", self.name);
        for (id, node) in &self.host.memory.nodes {
            let gib = node.total >> 30;
            let _ = writeln!(text, "node {id}: CPUs {}, {gib} GiB", node.cpus);
        }
        for (address, found) in &self.host.functions.read {
            let place =
                found.function.node.map_or("no node".to_owned(), |node| format!("node {node}"));
            let _ = writeln!(text, "{address}: {place}");
        }
        text += "->\n";
        match Plan::new(&config(self.fields.clone()), &self.host) {
            Ok(plan) => {
                let shortfalls = plan.shortfalls.clone();
                let plan = plan.to_string();
                let parts = plan.split("\n\n");
                let names = ["host memory", "CPUs", "NUMA", "interrupts", "notes"];
                let wanted = parts.enumerate().filter(|(index, part)| {
                    *index == 0 || names.iter().any(|name| part.starts_with(name))
                });
                for (_, part) in wanted {
                    text += part.trim_end();
                    text.push('\n');
                }
                let about_cpus = |finding: &&Finding| finding.code != Code::LinkReduced;
                for shortfall in shortfalls.iter().filter(about_cpus) {
                    let _ = writeln!(text, "better: {} ({})", shortfall.seen, shortfall.code);
                    for step in &shortfall.remedy {
                        let _ = writeln!(text, "        {step}");
                    }
                }
            }
            Err(error) => {
                let help = error.help(&self.host).join("\n      ");
                let _ = writeln!(text, "refused: {error}\nhelp: {help}");
            }
        }
        text
    }
}

pub(super) fn vcpus(count: u8) -> Value {
    json!({ "vcpus": count })
}

pub(super) fn smt(policy: &str, vcpus: u8) -> Value {
    json!({ "vcpus": vcpus, "placement": { "smt": policy } })
}

/// A machine that runs already.
pub(super) fn machine(pid: u32, name: &str, vcpus: &str, own: &str) -> RunningMachine {
    RunningMachine { pid, name: name.to_owned(), vcpus: ids(vcpus), own: ids(own) }
}

/// The devices of "devices on two nodes", with a policy for them.
fn on_two_nodes(policy: &str, vcpus: u8) -> Value {
    let addresses = ["41:00.0", "41:00.1", "01:00.0"];
    let devices: Vec<Value> = addresses.iter().map(|a| json!({ "address": a })).collect();
    json!({
        "devices": devices,
        "vcpus": vcpus,
        "memory": { "size_mib": 5120 },
        "placement": { "several_nodes": policy },
    })
}

fn add_devices(host: &mut HostProfile) {
    let more = vec![("0000:41:00.1", igb(Some(1), 15)), ("0000:01:00.0", igb(Some(0), 16))];
    assign(host, more);
}

fn policies() -> Vec<Shape> {
    let two = [(0, "0-7,16-23", 64), (1, "8-15,24-31", 64)];
    let apart = Smt::Apart(16);
    let shape = |name| Shape::new(name, &two, apart, Some(1));
    let isolate = |host: &mut HostProfile| {
        host.cpus.isolated = ids("10-13,26-29");
        host.process.cpus = host.process.cpus.difference(&host.cpus.isolated);
    };
    vec![
        shape("siblings share cores in the guest, too").fields(smt("siblings", 5)),
        shape("siblings, CPU 0's core last")
            .fields(json!({ "vcpus": 4, "placement": { "smt": "siblings", "node": 0 } })),
        shape("whole cores, their other threads idle").fields(smt("idle", 8)),
        shape("more vCPUs than whole cores").fields(smt("idle", 9)),
        shape("siblings of a cpuset that has only some").fields(smt("siblings", 4)).change(
            |host| {
                host.process.cpus = ids("0,10,11,12,26,28");
            },
        ),
        shape("isolated CPUs, by the word")
            .fields(json!({ "vcpus": 3, "placement": { "cpus": "isolated", "smt": "siblings" } }))
            .change(isolate),
        shape("more vCPUs than isolated CPUs")
            .fields(json!({ "vcpus": 9, "placement": { "cpus": "isolated" } }))
            .change(isolate),
        shape("a second machine on the node").fields(vcpus(3)).change(|host| {
            host.machines = vec![machine(4711, "first", "8-11", "15,31")];
        }),
        shape("a third machine, which has to share cores").fields(vcpus(5)).change(|host| {
            host.machines = vec![
                machine(4711, "first", "8-11", "15,31"),
                machine(4712, "second", "13", "15,31"),
            ];
        }),
        shape("a third machine, and too little is left").fields(vcpus(7)).change(|host| {
            host.machines = vec![
                machine(4711, "first", "8-11", "15,31"),
                machine(4712, "second", "13", "15,31"),
            ];
        }),
        shape("a second machine that names the first one's CPUs")
            .fields(json!({ "placement": { "cpus": [8, 12] } }))
            .change(|host| host.machines = vec![machine(4711, "first", "8-11", "15,31")]),
        shape("devices on two nodes, which are split")
            .fields(on_two_nodes("split", 5))
            .change(add_devices),
        shape("devices on two nodes, which are refused")
            .fields(on_two_nodes("refuse", 2))
            .change(add_devices),
        shape("split over two nodes, with pages on one only")
            .fields(on_two_nodes("split", 2))
            .change(|host| {
                add_devices(host);
                let pools = &mut host.memory.nodes.get_mut(&0).expect("node 0").pools;
                pools.get_mut(&PageSize::Size1G).expect("a pool").free = 1;
            }),
        shape("interrupts named").fields(json!({ "placement": { "interrupt_cpus": [0, 16] } })),
        shape("interrupts where the kernel puts them")
            .fields(json!({ "placement": { "interrupt_cpus": "off" } })),
        shape("interrupts that are nobody's business without root").change(|host| {
            host.process.capabilities = 1 << 14;
        }),
        shape("interrupts that irqbalance moves").change(|host| host.irqbalance = Seen::Yes),
        shape("no CPU left but the vCPUs'").change(|host| {
            host.process.cpus = ids("8-9");
            host.cpus.online = ids("8-9");
            host.cpus.siblings.clear();
        }),
    ]
}

fn shapes() -> Vec<Shape> {
    let two = [(0, "0-7,16-23", 64), (1, "8-15,24-31", 64)];
    let nps4: Vec<(u32, String)> = (0..8)
        .map(|id| (id, format!("{}-{},{}-{}", id * 8, id * 8 + 7, id * 8 + 64, id * 8 + 71)))
        .collect();
    let nps4: Vec<(u32, &str, u64)> =
        nps4.iter().map(|(id, cpus)| (*id, cpus.as_str(), 32)).collect();
    let apart = Smt::Apart(16);
    vec![
        Shape::new("two sockets", &two, apart, Some(1)).fields(vcpus(4)),
        Shape::new("two sockets, the first one's core 0 spared", &two, apart, Some(0))
            .fields(vcpus(7)),
        Shape::new("two sockets, more vCPUs than the socket has cores", &two, apart, Some(1))
            .fields(vcpus(12)),
        Shape::new("two sockets, every thread of one", &two, apart, Some(1)).fields(vcpus(16)),
        Shape::new("two sockets, more vCPUs than one has threads", &two, apart, Some(1))
            .fields(vcpus(17)),
        Shape::new("SMT off", &[(0, "0-7", 64), (1, "8-15", 64)], Smt::Off, Some(1))
            .fields(vcpus(4)),
        Shape::new("siblings with adjacent numbers", &[(0, "0-15", 64)], Smt::Adjacent, Some(0))
            .fields(vcpus(4)),
        Shape::new("EPYC NPS4: eight nodes on two sockets", &nps4, Smt::Apart(64), Some(5))
            .fields(vcpus(8))
            .change(|host| {
                host.cpus.packages = [(0, ids("0-31,64-95")), (1, ids("32-63,96-127"))].into();
            }),
        Shape::new(
            "offline CPUs, some of them siblings",
            &[(0, "0-7,16-19", 64), (1, "9,11,13,15,24-26", 64)],
            apart,
            Some(1),
        )
        .fields(vcpus(5)),
        Shape::new(
            "a node of only memory beside",
            &[(0, "0-7", 64), (1, "8-15", 64), (2, "", 256)],
            Smt::Off,
            Some(1),
        ),
        Shape::new(
            "memory asked of a node of only memory",
            &[(0, "0-7", 64), (1, "8-15", 64), (2, "", 256)],
            Smt::Off,
            Some(1),
        )
        .fields(json!({ "placement": { "node": 2 } })),
        Shape::new(
            "device on a node without CPUs",
            &[(0, "0-7", 64), (1, "8-15", 64), (2, "", 16)],
            Smt::Off,
            Some(2),
        ),
        Shape::new(
            "device on a node without memory",
            &[(0, "0-7", 64), (1, "8-11", 64), (2, "12-15", 0)],
            Smt::Off,
            Some(2),
        ),
        Shape::new("container with a cpuset", &two, apart, Some(1)).fields(vcpus(3)).change(
            |host| {
                host.process.cpus = ids("2-3,10,14,26");
                host.process.nodes = ids("1");
            },
        ),
        Shape::new("container whose cpuset is on the other socket", &two, apart, Some(1)).change(
            |host| {
                host.process.cpus = ids("2-3");
                host.process.nodes = ids("0");
            },
        ),
        Shape::new(
            "nodes numbered with gaps",
            &[(0, "0-3", 64), (8, "32-35", 64), (252, "", 16)],
            Smt::Off,
            Some(8),
        )
        .fields(vcpus(3)),
        Shape::new(
            "320 CPUs",
            &[(0, "0-79,160-239", 512), (1, "80-159,240-319", 512)],
            Smt::Apart(160),
            Some(1),
        )
        .fields(vcpus(64)),
        Shape::new("isolated CPUs are left to those who name them", &two, apart, Some(1))
            .fields(vcpus(2))
            .change(|host| {
                host.cpus.isolated = ids("10-15,26-31");
                host.process.cpus = host.process.cpus.difference(&host.cpus.isolated);
            }),
        Shape::new("isolated CPUs, named", &two, apart, Some(1))
            .fields(json!({ "vcpus": 2, "placement": { "cpus": [10, 26] } }))
            .change(|host| {
                host.cpus.isolated = ids("10-15,26-31");
                host.process.cpus = host.process.cpus.difference(&host.cpus.isolated);
            }),
        Shape::new("devices on two nodes", &two, apart, Some(1))
            .fields(on_two_nodes("majority", 2))
            .change(add_devices),
        Shape::new("device of no node", &two, apart, None).change(|host| {
            let pools = &mut host.memory.nodes.get_mut(&0).expect("node 0").pools;
            pools.get_mut(&PageSize::Size1G).expect("a pool").free = 0;
        }),
    ]
}

#[test]
fn every_shape_of_host_has_its_place() {
    let text: Vec<String> = shapes().iter().map(Shape::describe).collect();
    golden("shapes.txt", &text.join("\n"));
}

#[test]
fn every_choice_can_be_made_otherwise() {
    let text: Vec<String> = policies().iter().map(Shape::describe).collect();
    golden("policies.txt", &text.join("\n"));
}

/// APIC IDs of cores with two threads are even numbers, and 254 is the last.
#[test]
fn too_many_cores_with_threads_are_not_told_of() {
    let nodes = [(0, "0-159,160-319", 64)];
    let shape = Shape::new("one large socket", &nodes, Smt::Apart(160), Some(0));
    let plan = |cores: u32| {
        let named: Vec<u32> = (0..cores).chain([160]).collect();
        let fields = json!({ "vcpus": named.len(), "placement": { "cpus": named } });
        Plan::new(&config(fields), &shape.host).expect("a plan")
    };
    let told = |plan: &Plan| plan.vcpus.iter().any(|vcpu| vcpu.place.thread == 1);
    let said = |plan: &Plan| plan.shortfalls.iter().any(|s| s.seen.contains("too many to tell"));
    let (most, more) = (plan(128), plan(129));
    assert!(told(&most) && !said(&most));
    assert_eq!(most.vcpus[127].apic_id, 254);
    assert!(!told(&more) && said(&more));
    assert_eq!(more.vcpus[128].apic_id, 128);
}
