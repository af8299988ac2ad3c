//! Which CPUs share a last-level cache or a package, and which cores are of one kind.
//!
//! All of it is a hint for placement: what is missing or malformed is unknown, and refuses nothing.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cpus::CPU;
use super::id_set::IdSet;
use super::root::Root;

/// Cores that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoreKind {
    /// What they are called, in the plural.
    pub name: String,
    /// Their CPUs.
    pub cpus: IdSet,
}

/// CPUs that share an L3 cache, a set each, by lowest CPU; none where the kernel does not say.
/// (kernel, `Documentation/ABI/testing/sysfs-devices-system-cpu`)
pub(super) fn l3_caches(root: &Root, online: &IdSet) -> Vec<IdSet> {
    let mut caches: Vec<IdSet> = Vec::new();
    let mut known = IdSet::default();
    for cpu in online.iter() {
        if known.contains(cpu) {
            continue;
        }
        let folder = format!("{CPU}/cpu{cpu}/cache");
        let is_l3 = |index: &String| {
            root.glance(format!("{folder}/{index}/level")).is_some_and(|level| level == "3")
        };
        // Nearly always index3, behind L1d, L1i and L2.
        let usual = Some("index3".to_owned()).filter(is_l3);
        let index = usual.or_else(|| {
            root.names(&folder).unwrap_or_default().into_iter().find(|name| is_l3(name))
        });
        let sharing = index.and_then(|index| list(root, &format!("{folder}/{index}/shared_cpu")));
        if let Some(sharing) = sharing {
            let cpus = sharing.intersection(online).difference(&known);
            known = known.union(&cpus);
            caches.push(cpus);
        }
    }
    caches.retain(|cpus| !cpus.is_empty());
    caches
}

/// CPUs of each package, by its number; none where the kernel does not say.
pub(super) fn packages(root: &Root, online: &IdSet) -> BTreeMap<u32, IdSet> {
    let mut packages: BTreeMap<u32, IdSet> = BTreeMap::new();
    let mut known = IdSet::default();
    for cpu in online.iter() {
        if known.contains(cpu) {
            continue;
        }
        let folder = format!("{CPU}/cpu{cpu}/topology");
        // -1 where the firmware numbers none.
        let number = root.glance(format!("{folder}/physical_package_id"));
        let Some(number) = number.and_then(|number| number.parse().ok()) else {
            continue;
        };
        // The second name is that of kernels before 5.2.
        let of_package = list(root, &format!("{folder}/package_cpus"))
            .or_else(|| list(root, &format!("{folder}/core_siblings")))
            .unwrap_or_default();
        let cpus = of_package.union(&IdSet::from_iter([cpu])).intersection(online);
        let cpus = cpus.difference(&known);
        known = known.union(&cpus);
        let package = packages.entry(number).or_default();
        *package = package.union(&cpus);
    }
    packages
}

/// Kinds of cores, fastest first; none where nothing tells, one where all are alike. `cores` are
/// the online CPUs of each core, by its lowest one.
pub(super) fn core_kinds(
    root: &Root,
    online: &IdSet,
    cores: &BTreeMap<u32, IdSet>,
) -> Vec<CoreKind> {
    let kinds = by_performance_counters(root, online);
    if !kinds.is_empty() {
        return kinds;
    }
    let measures = MEASURES.iter().map(|measure| by_measure(root, cores, measure));
    measures.into_iter().find(|kinds| !kinds.is_empty()).unwrap_or_default()
}

/// Intel's hybrid CPUs have performance counters of their own for each kind of core, with a list of
/// its CPUs (kernel, `arch/x86/events/intel/core.c`).
fn by_performance_counters(root: &Root, online: &IdSet) -> Vec<CoreKind> {
    let kinds = [
        ("cpu_core", "performance cores"),
        ("cpu_atom", "efficiency cores"),
        ("cpu_lowpower", "low-power efficiency cores"),
    ];
    let kind = |(counters, name): (&str, &str)| {
        let list = root.glance(format!("/sys/devices/{counters}/cpus"))?;
        let cpus = list.parse::<IdSet>().ok()?.intersection(online);
        (!cpus.is_empty()).then(|| CoreKind { name: name.to_owned(), cpus })
    };
    let kinds: Vec<CoreKind> = kinds.into_iter().filter_map(kind).collect();
    let all = kinds.iter().fold(IdSet::default(), |all, kind| all.union(&kind.cpus));
    if all == *online { kinds } else { Vec::new() }
}

/// A number that says how fast a core is.
struct Measure {
    /// Its file below a CPU's folder.
    file: &'static str,
    /// What cores with a value are called.
    name: fn(u64) -> String,
}

const MEASURES: [Measure; 3] = [
    Measure { file: "cpu_capacity", name: |value| format!("cores of capacity {value}") },
    Measure {
        file: "cpufreq/cpuinfo_max_freq",
        name: |khz| format!("cores of up to {}.{} GHz", khz / 1_000_000, khz / 100_000 % 10),
    },
    Measure {
        file: "acpi_cppc/highest_perf",
        name: |value| format!("cores of CPPC level {value}"),
    },
];

/// Cores of one kind differ a little, because the best ones are boosted higher: neighbours in the
/// order of a 5950X's CPPC levels, 231 to 181, are 5 apart. Kinds are a fifth apart: 5.1 and 3.3 GHz
/// of Zen 5 and Zen 5c, 5.2 and 3.9 GHz of a 12900K's cores.
const KINDS_APART: (u64, u64) = (4, 5);

fn by_measure(root: &Root, cores: &BTreeMap<u32, IdSet>, measure: &Measure) -> Vec<CoreKind> {
    let mut values: Vec<(u64, &IdSet)> = Vec::new();
    for (core, cpus) in cores {
        let value = root.glance(format!("{CPU}/cpu{core}/{}", measure.file));
        // A core of unknown speed leaves all unknown.
        match value.and_then(|value| value.parse().ok()) {
            Some(value) if value > 0 => values.push((value, cpus)),
            _ => return Vec::new(),
        }
    }
    values.sort_by_key(|(value, _)| u64::MAX - value);
    let (apart, whole) = KINDS_APART;
    let same = |a: &(u64, &IdSet), b: &(u64, &IdSet)| {
        b.0.saturating_mul(whole) >= a.0.saturating_mul(apart)
    };
    let kind = |cores: &[(u64, &IdSet)]| {
        let fastest = cores.first().map_or(0, |(value, _)| *value);
        let cpus = cores.iter().flat_map(|(_, cpus)| cpus.iter()).collect();
        CoreKind { name: (measure.name)(fastest), cpus }
    };
    values.chunk_by(same).map(kind).collect()
}

/// The list of CPUs in `FILE_list`, or else the mask in FILE (`FILE_map` for caches).
fn list(root: &Root, file: &str) -> Option<IdSet> {
    let list = root.glance(format!("{file}_list")).and_then(|list| list.parse().ok());
    list.or_else(|| {
        let mask = root.glance(file).or_else(|| root.glance(format!("{file}_map")))?;
        IdSet::from_mask(&mask)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    fn ids(text: &str) -> IdSet {
        text.parse().expect("a list")
    }

    /// CPUs 0-3 without any files.
    fn bare() -> Fixture {
        Fixture::default()
    }

    #[test]
    fn a_cache_is_found_by_its_level_and_told_once() {
        let mut host = bare();
        // Without an L2 of its own, and with a mask as old kernels have.
        host.cpu(0, "cache/index2/level", "3").cpu(0, "cache/index2/shared_cpu_list", "0-1");
        host.cpu(2, "cache/index3/level", "3").cpu(2, "cache/index3/shared_cpu_map", "0000000c");
        host.cpu(4, "cache/index2/level", "2").cpu(4, "cache/index2/shared_cpu_list", "4-5");
        host.cpu(6, "cache/index3/level", "3").cpu(6, "cache/index3/shared_cpu_list", "x");
        // CPU 3 is offline, 4 to 6 have no such cache or tell nothing.
        assert_eq!(l3_caches(&host.root(), &ids("0-2,4-6")), [ids("0-1"), ids("2")]);
    }

    #[test]
    fn packages_are_told_by_lists_masks_or_numbers() {
        let mut host = bare();
        host.cpu(0, "topology/physical_package_id", "0");
        host.cpu(0, "topology/package_cpus_list", "0,2");
        host.cpu(1, "topology/physical_package_id", "3");
        host.cpu(1, "topology/core_siblings", "0000000a");
        for cpu in [4, 6] {
            host.cpu(cpu, "topology/physical_package_id", "5");
        }
        host.cpu(7, "topology/physical_package_id", "-1");
        let packages = packages(&host.root(), &ids("0-4,6-8"));
        assert_eq!(packages, [(0, ids("0,2")), (3, ids("1,3")), (5, ids("4,6"))].into());
    }

    fn kinds(host: &Fixture, cpus: &str) -> Vec<(String, String)> {
        let online = ids(cpus);
        let cores = online.iter().map(|cpu| (cpu, IdSet::from_iter([cpu]))).collect();
        let kinds = core_kinds(&host.root(), &online, &cores);
        kinds.into_iter().map(|kind| (kind.name, kind.cpus.to_string())).collect()
    }

    fn measured(file: &str, values: &[u32]) -> Fixture {
        let mut host = bare();
        for (cpu, value) in (0..).zip(values) {
            host.cpu(cpu, file, &value.to_string());
        }
        host
    }

    #[test]
    fn kinds_are_told_by_what_the_kernel_measures() {
        let of = |name: &str, cpus: &str| (name.to_owned(), cpus.to_owned());
        let host = measured("cpufreq/cpuinfo_max_freq", &[3_300_000, 5_100_000, 5_000_000]);
        let expected = [of("cores of up to 5.1 GHz", "1-2"), of("cores of up to 3.3 GHz", "0")];
        assert_eq!(kinds(&host, "0-2"), expected);
        let host = measured("cpu_capacity", &[1024, 1024, 446]);
        assert_eq!(
            kinds(&host, "0-2"),
            [of("cores of capacity 1024", "0-1"), of("cores of capacity 446", "2")]
        );
        // The preferred cores of a 5950X are no kind of their own: each is near the next.
        let levels: Vec<u32> = (0..11).map(|step| 181 + 5 * step).collect();
        let host = measured("acpi_cppc/highest_perf", &levels);
        assert_eq!(kinds(&host, "0-10"), [of("cores of CPPC level 231", "0-10")]);
        // Nothing, or not all, is unknown.
        assert_eq!(kinds(&bare(), "0-2"), []);
        assert_eq!(kinds(&measured("cpu_capacity", &[1024, 446]), "0-2"), []);
    }

    #[test]
    fn intels_kinds_have_names() {
        let mut host = measured("cpufreq/cpuinfo_max_freq", &[5_000_000; 6]);
        host.file("/sys/devices/cpu_core/cpus", "0-1").file("/sys/devices/cpu_atom/cpus", "2-4");
        // A list that leaves a CPU out is not all.
        assert_eq!(kinds(&host, "0-5").len(), 1);
        host.file("/sys/devices/cpu_lowpower/cpus", "5");
        let names: Vec<String> = kinds(&host, "0-5").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["performance cores", "efficiency cores", "low-power efficiency cores"]);
    }
}
