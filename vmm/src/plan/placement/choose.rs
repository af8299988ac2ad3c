//! Which cores a share of the vCPUs gets, of those that are free.
//!
//! What costs a guest most comes first: a second package, then cores of two kinds, of which the
//! guest knows nothing, then a sibling that is busy against the policy, then a second L3 cache, then cores on which the
//! host or other machines work.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::cores::Core;
use crate::config::Smt;

/// CPUs, and what is not good about them. The less of it, and the earlier in this order, the better.
struct Selection {
    /// A policy for siblings is not met: two vCPUs are on a core that need not share one, or what
    /// is beside a vCPU on a core that was to be idle is not for berth to say.
    misses_policy: bool,
    /// The slowest kind of core.
    kind: usize,
    l3_caches: usize,
    /// See [`compromises`].
    compromises: usize,
    cpus: Vec<u32>,
}

/// `count` CPUs of `cores`, those of a core together; `None` when there are too few.
pub(super) fn choose(smt: Smt, cores: &[Core], count: usize) -> Option<Vec<u32>> {
    // Of one package and one kind; else of one package; else of one kind; else of any.
    type Scope = (Option<Option<u32>>, Option<usize>);
    let scopes: [fn(&Core) -> Scope; 4] = [
        |core| (Some(core.package), Some(core.kind)),
        |core| (Some(core.package), None),
        |core| (None, Some(core.kind)),
        |_| (None, None),
    ];
    let best = |scope: &fn(&Core) -> Scope| {
        let mut groups: BTreeMap<Scope, Vec<&Core>> = BTreeMap::new();
        for core in cores {
            groups.entry(scope(core)).or_default().push(core);
        }
        let selections = groups.values().filter_map(|cores| select(smt, cores, count));
        selections.min_by_key(|s| (s.misses_policy, s.kind, s.l3_caches, s.compromises))
    };
    scopes.iter().find_map(best).map(|selection| selection.cpus)
}

/// How vCPUs fill a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    /// One of its threads.
    OneThread,
    /// All of its threads, if need be.
    EveryThread,
}

fn select(smt: Smt, cores: &[&Core], count: usize) -> Option<Selection> {
    let whole: Vec<&Core> = cores.iter().copied().filter(|core| core.whole).collect();
    let cores = if smt == Smt::Idle && whole.len() >= count { &whole } else { cores };
    let fill = match smt {
        Smt::Idle => Fill::OneThread,
        Smt::Auto if cores.len() >= count => Fill::OneThread,
        Smt::Auto | Smt::Siblings => Fill::EveryThread,
    };
    let (caches, cores) = fewest_caches(smt, fill, cores, count)?;
    let mut taken = take(smt, &cores, count);
    let selection = Selection {
        misses_policy: match smt {
            Smt::Auto => fill == Fill::EveryThread,
            Smt::Idle => taken.iter().any(|(core, _)| !core.whole),
            Smt::Siblings => false,
        },
        kind: taken.iter().map(|(core, _)| core.kind).max().unwrap_or(0),
        l3_caches: caches,
        compromises: compromises(smt, &taken),
        // Siblings next to each other, a cache's together, and otherwise in the order of the host.
        cpus: {
            taken.sort_by_key(|(core, cpu)| (core.package, core.l3_cache, core.threads[0], *cpu));
            taken.iter().map(|(_, cpu)| *cpu).collect()
        },
    };
    Some(selection)
}

fn capacity(fill: Fill, cores: &[&Core]) -> usize {
    match fill {
        Fill::OneThread => cores.len(),
        Fill::EveryThread => cores.iter().map(|core| core.threads.len()).sum(),
    }
}

/// Cores of as few L3 caches as have room for `count` vCPUs, and the number of caches; `None` when
/// all of them have too little.
///
/// The largest come first, until one has room for what is left. That one is the smallest which
/// does, so that caches that are all free stay so for machines that fill them.
fn fewest_caches<'a>(
    smt: Smt,
    fill: Fill,
    cores: &[&'a Core],
    count: usize,
) -> Option<(usize, Vec<&'a Core>)> {
    let mut left: BTreeMap<Option<u32>, Vec<&Core>> = BTreeMap::new();
    for &core in cores {
        left.entry(core.l3_cache).or_default().push(core);
    }
    let (mut caches, mut chosen, mut missing) = (0, Vec::new(), count);
    while missing > 0 {
        let mut ranked: Vec<_> = left
            .iter()
            .map(|(cache, cores)| {
                let room = capacity(fill, cores);
                let cost = compromises(smt, &take(smt, cores, missing.min(room)));
                (*cache, room, cost)
            })
            .collect();
        let best = match ranked.iter().any(|(_, room, _)| *room >= missing) {
            true => {
                ranked.retain(|(_, room, _)| *room >= missing);
                ranked.into_iter().min_by_key(|&(cache, room, cost)| (cost, room, cache))
            }
            false => {
                ranked.into_iter().min_by_key(|&(cache, room, cost)| (Reverse(room), cost, cache))
            }
        };
        let (cache, room, _) = best?;
        chosen.extend(left.remove(&cache).unwrap_or_default());
        missing = missing.saturating_sub(room);
        caches += 1;
    }
    Some((caches, chosen))
}

/// Up to `count` CPUs of `cores`, each with its core.
///
/// The core of CPU 0 comes last, because the host's own interrupts and timers start there, and
/// cores where other machines have theirs come next to last.
fn take<'a>(smt: Smt, cores: &[&'a Core], count: usize) -> Vec<(&'a Core, u32)> {
    let mut cores = cores.to_vec();
    let number = |core: &Core| core.threads[0];
    match smt {
        Smt::Siblings => cores.sort_by_key(|core| {
            (Reverse(core.threads.len()), core.is_first, core.is_shared, core.kind, number(core))
        }),
        // What runs beside a vCPU on a core that is not all ours is not for berth to say.
        Smt::Idle => cores.sort_by_key(|core| {
            (!core.whole, core.is_first, core.is_shared, core.kind, number(core))
        }),
        Smt::Auto => {
            cores.sort_by_key(|core| (core.is_first, core.is_shared, core.kind, number(core)))
        }
    }
    let threads = |core: &&'a Core| {
        let core = *core;
        core.threads.iter().map(move |&cpu| (core, cpu))
    };
    let mut order: Vec<(&Core, u32)> = match smt {
        Smt::Siblings => cores.iter().flat_map(threads).collect(),
        Smt::Idle => cores.iter().map(|core| (*core, core.threads[0])).collect(),
        Smt::Auto => {
            let most = cores.iter().map(|core| core.threads.len()).max().unwrap_or(0);
            let of_thread = |thread: usize| {
                cores.iter().filter_map(move |core| Some((*core, *core.threads.get(thread)?)))
            };
            (0..most).flat_map(of_thread).collect()
        }
    };
    order.truncate(count);
    order
}

/// How many of these CPUs are on cores that are not all the vCPUs' own: where the host or other
/// machines work, and where a policy for siblings counts, cores of which this process has not all.
fn compromises(smt: Smt, taken: &[(&Core, u32)]) -> usize {
    let is_one = |core: &Core| core.is_first || core.is_shared || (smt != Smt::Auto && !core.whole);
    taken.iter().filter(|(core, _)| is_one(core)).count()
}
