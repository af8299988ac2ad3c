//! Pools of huge pages: how they grow now, and how they are there from the next boot on.

use super::{Advice, Code, Steps, line, parameters};
use crate::host::{HostProfile, LinuxVersion};
use crate::units::PageSize;

/// The first kernel that takes `hugepages=NODE:N` (commit b5389086ad7b, "hugetlbfs: extend the
/// definition of hugepages parameter to support node allocation").
const PER_NODE: LinuxVersion = LinuxVersion(5, 16);

/// What the kernel says of parameters that it did not follow (mm/hugetlb.c).
const COMPLAINTS: [&str; 5] = [
    "specified twice",
    "does not follow a valid hugepagesz",
    "unsupported hugepagesz",
    "Invalid hugepages",
    "Only allocated",
];

/// The kernel has no pool of this size.
pub fn no_pool(host: &HostProfile, size: PageSize) -> Steps {
    vec![match (size, host.cpus.gigabyte_pages) {
        (PageSize::Size1G, Some(false)) => {
            "the CPUs have no 1 GiB pages (pdpe1gb): set memory.page_size to \"2M\"".to_owned()
        }
        (PageSize::Size1G, _) => "set memory.page_size to \"2M\" or \"4K\"".to_owned(),
        (PageSize::Size2M | PageSize::Size4K, _) => "set memory.page_size to \"4K\"".to_owned(),
    }]
}

/// All pages but `unreserved` are promised to mappings of others.
pub fn promised(size: PageSize, need: u64, unreserved: u64) -> Advice {
    Advice::new(
        format!("{}/resv_hugepages", size.pool(None)),
        format!("{need} {size} pages are needed, and all but {unreserved} are promised to others"),
    )
    .step(format!("end a process that uses {size} pages, or reserve {} more", need - unreserved))
}

/// A node's pool is short of `need` pages. The code tells whether other nodes have them.
pub fn short(host: &HostProfile, size: PageSize, node: u32, need: u64) -> (Code, Advice) {
    let memory = &host.memory;
    let pool = |id: &u32| memory.nodes.get(id).and_then(|node| node.pools.get(&size)).copied();
    let here = pool(&node).unwrap_or_default();
    let others = memory.nodes.keys().filter(|id| **id != node);
    let others: Vec<(u32, u64)> =
        others.filter_map(|id| Some((*id, pool(id)?.free))).filter(|(_, free)| *free > 0).collect();
    let elsewhere: u64 = others.iter().map(|(_, free)| free).sum();
    let code =
        if elsewhere + here.free >= need { Code::HugepagesElsewhere } else { Code::HugepagesShort };
    let source = size.pool(Some(node));
    let others: String =
        others.iter().map(|(id, free)| format!("; node {id} has {free} free")).collect();
    let seen = format!(
        "{need} {size} pages are needed on node {node}, which has {} free of {}{others}",
        here.free, here.total
    );
    let pages = here.total + need - here.free;
    let folder = size.pool(memory.numa.then_some(node));
    let mut steps = vec![format!("`echo {pages} > {folder}/nr_hugepages`")];
    // Memory fragments: 1 GiB of it in one piece is soon found only at boot.
    if size == PageSize::Size1G {
        steps.push("or, when memory is too fragmented for that, at boot:".to_owned());
        steps.extend(at_boot(host, &[(node, pages)]));
    }
    let advice = Advice::new(source, seen).said(line(&host.log, &COMPLAINTS, &[]));
    (code, advice.steps(misplaced(host, size)).steps(steps))
}

/// Steps that reserve 1 GiB pages when the host boots: as many as `wanted` says, by node, and as
/// many on the other nodes as these have.
pub fn at_boot(host: &HostProfile, wanted: &[(u32, u64)]) -> Steps {
    let memory = &host.memory;
    let old = Given::read(host, "1G");
    let is_single = !memory.numa || memory.nodes.len() < 2;
    let total = |id: &u32| {
        let node = memory.nodes.get(id);
        node.and_then(|node| node.pools.get(&PageSize::Size1G)).map_or(0, |pool| pool.total)
    };
    // Of two `hugepages=` for one size the kernel ignores one, so that all nodes are in it.
    let of = |id: &u32| {
        let own = wanted.iter().find(|(node, _)| node == id);
        own.map_or_else(|| total(id), |(_, pages)| *pages)
    };
    let nodes: Vec<(u32, u64)> =
        memory.nodes.keys().map(|id| (*id, of(id))).filter(|(_, pages)| *pages > 0).collect();
    let count = if is_single {
        wanted.iter().map(|(_, pages)| pages).sum::<u64>().to_string()
    } else if host.linux.is_some_and(|version| version < PER_NODE) {
        return on_old_kernel(host, &nodes, old.as_ref());
    } else {
        let each = nodes.iter().map(|(node, pages)| format!("{node}:{pages}"));
        each.collect::<Vec<_>>().join(",")
    };
    let parameter = format!("hugepagesz=1G hugepages={count}");
    parameters::change(host, &parameter, old.map(|old| old.words).as_deref())
}

/// Before 5.16 the kernel spreads what boots with it evenly, and a node's own number is set later.
fn on_old_kernel(host: &HostProfile, nodes: &[(u32, u64)], old: Option<&Given>) -> Steps {
    let most = nodes.iter().map(|(_, pages)| *pages).max().unwrap_or_default();
    let all = most * host.memory.nodes.len() as u64;
    let mut steps = vec![format!(
        "this kernel spreads them over all nodes evenly (it knows no number for each node, as \
         since {PER_NODE}): ask for {all} in all"
    )];
    let parameter = format!("hugepagesz=1G hugepages={all}");
    steps.extend(parameters::change(host, &parameter, old.map(|old| old.words.as_str())));
    let early: Vec<String> = nodes
        .iter()
        .map(|(node, pages)| {
            format!("echo {pages} > {}/nr_hugepages", PageSize::Size1G.pool(Some(*node)))
        })
        .collect();
    steps.push(format!("or let a unit early at boot run `{}`", early.join("; ")));
    steps
}

/// `hugepagesz=SIZE hugepages=...`, as it is on the command line.
struct Given {
    words: String,
}

impl Given {
    fn read(host: &HostProfile, size: &str) -> Option<Self> {
        let words: Vec<&str> = huge(host).collect();
        let pair = words.windows(2).find(|pair| {
            pair[0].strip_prefix("hugepagesz=").is_some_and(|of| of.eq_ignore_ascii_case(size))
                && pair[1].starts_with("hugepages=")
        })?;
        Some(Self { words: pair.join(" ") })
    }
}

fn huge(host: &HostProfile) -> impl Iterator<Item = &str> {
    let words = host.command_line.words();
    words.filter(|word| word.starts_with("hugepages"))
}

/// `hugepages=` that stands before the `hugepagesz=` it was meant for goes to the default size
/// (Documentation/admin-guide/kernel-parameters.txt).
fn misplaced(host: &HostProfile, size: PageSize) -> Steps {
    let words: Vec<&str> = huge(host).collect();
    let is_size = |word: &str| {
        word.strip_prefix("hugepagesz=")
            .is_some_and(|of| of.eq_ignore_ascii_case(&size.to_string()))
    };
    let default = parameters::find(host, |word| word.starts_with("default_hugepagesz="));
    let default = default.and_then(|word| word.split_once('=')).map_or("2M", |(_, size)| size);
    let swapped =
        words.windows(2).find(|pair| pair[0].starts_with("hugepages=") && is_size(pair[1]));
    let has_own =
        words.windows(2).any(|pair| is_size(pair[0]) && pair[1].starts_with("hugepages="));
    match swapped {
        Some(pair) if !has_own && !default.eq_ignore_ascii_case(&size.to_string()) => {
            let (count, of) = (pair[0], pair[1]);
            let mut steps = vec![format!(
                "the order on the command line is wrong: `{count}` before `{of}` asks for pages of \
                 {default}"
            )];
            let (add, remove) = (format!("{of} {count}"), format!("{count} {of}"));
            steps.extend(parameters::change(host, &add, Some(&remove)));
            steps
        }
        _ => Steps::new(),
    }
}
