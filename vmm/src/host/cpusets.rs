//! CPUs that cpuset partitions of control groups keep for themselves
//! (kernel, `Documentation/admin-guide/cgroup-v2.rst`, "Cpuset Interface Files").

use super::id_set::IdSet;
use super::root::Root;

const CGROUP: &str = "/sys/fs/cgroup";

/// What partitions have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Partitions {
    /// CPUs of isolated partitions, where the kernel's scheduler balances nothing.
    pub(super) isolated: IdSet,
    /// CPUs of partitions that this process is in none of: the kernel lets it run on none of them.
    pub(super) foreign: IdSet,
}

impl Partitions {
    /// Only from the root of the tree, which a container does not see: what is missing from a
    /// container's own CPUs is no partition's.
    pub(super) fn read(root: &Root, online: &IdSet) -> Self {
        let list = |path: String| root.glance(path)?.parse::<IdSet>().ok();
        // Every group but the root has a type.
        if root.exists(format!("{CGROUP}/cgroup.type")) {
            return Self::default();
        }
        let isolated = list(format!("{CGROUP}/cpuset.cpus.isolated")).unwrap_or_default();
        // The root has all CPUs but those that partitions below it have taken.
        let Some(unpartitioned) = list(format!("{CGROUP}/cpuset.cpus.effective")) else {
            return Self { isolated, foreign: IdSet::default() };
        };
        let partitioned = online.difference(&unpartitioned);
        let foreign = if partitioned.is_empty() {
            partitioned
        } else {
            partitioned.difference(&own(root).unwrap_or_default())
        };
        Self { isolated, foreign }
    }
}

/// CPUs of this process's group: of the nearest one above it that has the controller.
fn own(root: &Root) -> Option<IdSet> {
    let groups = root.glance("/proc/self/cgroup")?;
    let mut group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    while !group.is_empty() && group != "/" {
        if let Some(cpus) = root.glance(format!("{CGROUP}{group}/cpuset.cpus.effective")) {
            return cpus.parse().ok();
        }
        group = group.rsplit_once('/')?.0;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    fn ids(text: &str) -> IdSet {
        text.parse().expect("a list")
    }

    /// CPUs 4-7 are an isolated partition's, 8-9 an ordinary one's.
    fn host() -> Fixture {
        let mut host = Fixture::default();
        for (path, text) in [
            ("cpuset.cpus.effective", "0-3,10-15"),
            ("cpuset.cpus.isolated", "4-7"),
            ("dpdk.slice/cpuset.cpus.effective", "4-7"),
            ("dpdk.slice/worker/cgroup.procs", ""),
            ("rt/cpuset.cpus.effective", "8-9"),
            ("system.slice/cpuset.cpus.effective", "0-3,10-15"),
        ] {
            host.file(&format!("{CGROUP}/{path}"), text);
        }
        host
    }

    fn of(group: &str) -> Partitions {
        let mut host = host();
        host.file("/proc/self/cgroup", &format!("12:pids:/x\n0::{group}"));
        Partitions::read(&host.root(), &ids("0-15"))
    }

    #[test]
    fn partitions_of_others_are_foreign() {
        let all = Partitions { isolated: ids("4-7"), foreign: ids("4-9") };
        for group in ["/", "/system.slice", "/system.slice/berth.service", "/gone"] {
            assert_eq!(of(group), all, "{group}");
        }
        assert_eq!(of("/dpdk.slice").foreign, ids("8-9"));
        assert_eq!(of("/dpdk.slice/worker").foreign, ids("8-9"));
        assert_eq!(of("/rt").foreign, ids("4-7"));
    }

    #[test]
    fn a_container_sees_no_partitions() {
        let mut host = host();
        host.file(&format!("{CGROUP}/cgroup.type"), "domain");
        assert_eq!(Partitions::read(&host.root(), &ids("0-15")), Partitions::default());
    }

    #[test]
    fn a_host_without_the_controller_has_no_partitions() {
        let host = Fixture::default();
        assert_eq!(Partitions::read(&host.root(), &ids("0-15")), Partitions::default());
    }
}
