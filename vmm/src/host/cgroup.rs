//! Limits of the cgroups that this process is in, up to the root of the tree.

use std::collections::BTreeMap;

use serde::Serialize;

use super::root::Root;
use crate::units::PageSize;

/// What the cgroups of this process still allow; what has no limit is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cgroup {
    /// Bytes of huge pages, by page size.
    pub huge_pages: BTreeMap<PageSize, CgroupLimit>,
    /// Bytes of memory.
    pub memory: Option<CgroupLimit>,
    /// Processes and threads.
    pub tasks: Option<CgroupLimit>,
}

/// The tightest limit of one resource on the way to the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CgroupLimit {
    /// What is left.
    pub room: u64,
    /// What is allowed in all.
    pub max: u64,
    /// The file that says so.
    pub file: String,
}

const TREE: &str = "/sys/fs/cgroup";

impl Cgroup {
    pub(super) fn read(root: &Root) -> Self {
        // "0::/system.slice/berth.service", or of version 1 "9:hugetlb:/docker/1".
        let text = root.glance("/proc/self/cgroup").unwrap_or_default();
        let of = |controller: &str| {
            let lines = text.lines().filter_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                Some((parts.next()?, parts.next()?))
            });
            let mut lines = lines.collect::<Vec<_>>().into_iter();
            let own = lines.clone().find(|(names, _)| names.split(',').any(|n| n == controller));
            match own {
                Some((names, path)) => (format!("{TREE}/{names}"), path.to_owned()),
                None => {
                    let unified = lines.find(|(names, _)| names.is_empty());
                    (TREE.to_owned(), unified.map_or("/", |(_, path)| path).to_owned())
                }
            }
        };
        let least = |controller: &str, max: &[&str], now: &[&str]| {
            let (tree, path) = of(controller);
            least(root, &tree, &path, max, now)
        };
        let mut huge_pages = BTreeMap::new();
        for (size, name) in [(PageSize::Size2M, "2MB"), (PageSize::Size1G, "1GB")] {
            let max = [format!("hugetlb.{name}.max"), format!("hugetlb.{name}.limit_in_bytes")];
            let now = [format!("hugetlb.{name}.current"), format!("hugetlb.{name}.usage_in_bytes")];
            let (max, now) =
                (max.each_ref().map(String::as_str), now.each_ref().map(String::as_str));
            huge_pages.extend(least("hugetlb", &max, &now).map(|limit| (size, limit)));
        }
        Self {
            huge_pages,
            memory: least(
                "memory",
                &["memory.max", "memory.limit_in_bytes"],
                &["memory.current", "memory.usage_in_bytes"],
            ),
            tasks: least("pids", &["pids.max"], &["pids.current"]),
        }
    }
}

/// The limit with the least room of a cgroup and all above it. A process in a namespace of its own
/// sees its cgroup as the root.
fn least(root: &Root, tree: &str, path: &str, max: &[&str], now: &[&str]) -> Option<CgroupLimit> {
    /// What version 1 says in place of "max": the largest number of pages.
    const NONE: u64 = 1 << 62;
    let mut folder = format!("{tree}{}", path.trim_end_matches('/'));
    let mut found: Option<CgroupLimit> = None;
    loop {
        let value = |names: &[&str]| -> Option<(u64, String)> {
            names.iter().find_map(|name| {
                let file = format!("{folder}/{name}");
                Some((root.glance(&file)?.parse().ok()?, file))
            })
        };
        if let Some((max, file)) = value(max).filter(|(max, _)| *max < NONE) {
            let room = max.saturating_sub(value(now).map_or(0, |(now, _)| now));
            if found.as_ref().is_none_or(|found| room < found.room) {
                found = Some(CgroupLimit { room, max, file });
            }
        }
        match folder.rsplit_once('/') {
            Some((above, _)) if folder.len() > tree.len() => folder = above.to_owned(),
            _ => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    #[test]
    fn the_tightest_limit_up_to_the_root_counts() {
        let mut host = Fixture::default();
        host.file("/proc/self/cgroup", "0::/kubepods/pod1/c1")
            .file("/sys/fs/cgroup/kubepods/pod1/c1/hugetlb.1GB.max", "max")
            .file("/sys/fs/cgroup/kubepods/pod1/hugetlb.1GB.max", "4294967296")
            .file("/sys/fs/cgroup/kubepods/pod1/hugetlb.1GB.current", "3221225472")
            .file("/sys/fs/cgroup/kubepods/hugetlb.1GB.max", "2147483648")
            .file("/sys/fs/cgroup/kubepods/pod1/c1/pids.max", "100")
            .file("/sys/fs/cgroup/memory.max", "max");
        let cgroup = Cgroup::read(&host.root());
        let limit = &cgroup.huge_pages[&PageSize::Size1G];
        assert_eq!((limit.room, limit.max), (1 << 30, 4 << 30));
        assert!(limit.file.ends_with("pod1/hugetlb.1GB.max"), "{limit:?}");
        assert_eq!(cgroup.tasks.map(|limit| limit.room), Some(100));
        assert_eq!(cgroup.memory, None);
    }

    #[test]
    fn version_1_has_a_tree_for_each_controller() {
        let mut host = Fixture::default();
        host.file("/proc/self/cgroup", "9:hugetlb:/docker/1\n4:memory:/docker/1\n0::/")
            .file("/sys/fs/cgroup/hugetlb/docker/1/hugetlb.1GB.limit_in_bytes", "1073741824")
            .file("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "9223372036854771712");
        let cgroup = Cgroup::read(&host.root());
        assert_eq!(cgroup.huge_pages[&PageSize::Size1G].room, 1 << 30);
        assert_eq!(cgroup.memory, None);
    }
}
