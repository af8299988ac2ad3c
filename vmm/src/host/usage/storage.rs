//! What block devices are used for: mounts, swap, volumes, pools, and whoever has claimed them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use berth_devices::pci::HostBdf;

use super::super::HostUse;
use super::super::root::Root;
use super::functions_of;
use super::in_use::InUse;

const BLOCK: &str = "/sys/class/block";

/// Block devices of the host.
#[derive(Debug, Default)]
pub(super) struct Storage {
    /// Names by number, such as `259:1`.
    by_number: BTreeMap<String, String>,
    /// Those below a function.
    below: BTreeMap<HostBdf, Vec<String>>,
    /// What is mounted, with where.
    mounted: BTreeMap<String, String>,
    /// Members of a file system that has several, with its name.
    members: BTreeMap<String, String>,
    /// Files that loop devices read, with the loop device.
    loops: BTreeMap<String, String>,
    /// Imported pools of ZFS: which devices they have shows nowhere.
    pools: Vec<String>,
    /// Tags of file systems that a hypervisor shares, with where they are mounted.
    shared: BTreeMap<String, String>,
}

impl Storage {
    pub(super) fn read(root: &Root) -> Self {
        let mut storage = Self::default();
        for name in root.names(BLOCK).unwrap_or_default() {
            let folder = format!("{BLOCK}/{name}");
            if let Some(number) = root.glance(format!("{folder}/dev")) {
                storage.by_number.insert(number, name.clone());
            }
            let target = root.link(&folder).unwrap_or_default();
            for function in functions_of(root, &target) {
                storage.below.entry(function).or_default().push(name.clone());
            }
            let file = root.glance(format!("{folder}/loop/backing_file"));
            if let Some(file) = file.as_deref().and_then(|file| file.strip_prefix("/dev/")) {
                storage.loops.insert(file.to_owned(), name);
            }
        }
        storage.read_mounts(root);
        storage.read_btrfs(root);
        // A folder for each pool (module zfs, spl-kstat).
        let kstat = "/proc/spl/kstat/zfs";
        let names = root.names(kstat).unwrap_or_default();
        storage.pools =
            names.into_iter().filter(|name| root.exists(format!("{kstat}/{name}/state"))).collect();
        storage
    }

    fn read_mounts(&mut self, root: &Root) {
        // ID Parent Major:Minor Root MountPoint Options [Fields...] - Type Source Options
        for line in root.glance("/proc/self/mountinfo").unwrap_or_default().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(number), Some(at)) = (words.get(2), words.get(4)) else {
                continue;
            };
            let end = words.iter().position(|word| *word == "-").unwrap_or(words.len());
            let source = words.get(end + 2).copied().unwrap_or_default();
            if matches!(words.get(end + 1), Some(&("9p" | "virtiofs"))) {
                self.shared.insert(source.to_owned(), (*at).to_owned());
            }
            if let Some(name) = self.name_of(number, source) {
                self.mounted.entry(name).or_insert_with(|| (*at).to_owned());
            }
        }
        for line in root.glance("/proc/swaps").unwrap_or_default().lines().skip(1) {
            let file = line.split_whitespace().next().unwrap_or_default();
            if let Some(name) = file.strip_prefix("/dev/") {
                self.mounted.insert(name.to_owned(), "swap".to_owned());
            }
        }
    }

    /// The block device that is mounted. btrfs mounts have a number of no device; their source is
    /// one's file.
    fn name_of(&self, number: &str, source: &str) -> Option<String> {
        let by_source = || source.strip_prefix("/dev/").map(str::to_owned);
        self.by_number.get(number).cloned().or_else(by_source)
    }

    /// A btrfs file system names all of its devices in sysfs while it is mounted.
    fn read_btrfs(&mut self, root: &Root) {
        const BTRFS: &str = "/sys/fs/btrfs";

        for name in root.names(BTRFS).unwrap_or_default() {
            let devices = root.names(format!("{BTRFS}/{name}/devices")).unwrap_or_default();
            let at = devices.iter().find_map(|device| self.mounted.get(device)).cloned();
            for device in devices {
                match &at {
                    Some(at) => {
                        self.mounted.entry(device).or_insert_with(|| at.clone());
                    }
                    None => {
                        self.members.insert(device, format!("the btrfs {name}"));
                    }
                }
            }
        }
    }

    /// Whole disks below functions.
    pub(super) fn disks(&self, root: &Root) -> BTreeSet<String> {
        self.below.values().flatten().filter(|name| is_disk(root, name)).cloned().collect()
    }

    /// Whether a block device is below `function`.
    pub(super) fn has_below(&self, function: HostBdf) -> bool {
        self.below.contains_key(&function)
    }

    /// Where a file system that a hypervisor shares is mounted.
    pub(super) fn shared(&self, tag: &str) -> Option<&String> {
        self.shared.get(tag)
    }

    /// What is made of the block devices below `function`, and which disks could not be tried.
    pub(super) fn of(
        &self,
        root: &Root,
        function: HostBdf,
        in_use: &InUse,
    ) -> (Vec<HostUse>, Vec<String>) {
        let (mut uses, mut untried) = (Vec::new(), Vec::new());
        let below = self.below.get(&function).map(Vec::as_slice).unwrap_or_default();
        for block in below {
            uses.extend(self.use_of(root, block, in_use));
        }
        if !uses.is_empty() {
            return (uses, untried);
        }
        for disk in below.iter().filter(|name| is_disk(root, name)) {
            match in_use.is_claimed(disk) {
                Some(true) => uses.push(HostUse::Claimed { device: disk.clone() }),
                Some(false) => {}
                None if self.pools.is_empty() => untried.push(disk.clone()),
                None => {
                    let (device, pools) = (disk.clone(), self.pools.clone());
                    uses.push(HostUse::PoolMember { device, pools });
                }
            }
        }
        (uses, untried)
    }

    fn use_of(&self, root: &Root, block: &str, in_use: &InUse) -> Option<HostUse> {
        if let Some((device, at)) = self.mounted_on(root, block, 0) {
            return Some(HostUse::Mounted { device, at });
        }
        let device = block.to_owned();
        if let Some(of) = holders(root, block).into_iter().next() {
            return Some(HostUse::Volume { device, of });
        }
        if let Some(of) = self.members.get(block).or_else(|| self.loops.get(block)) {
            return Some(HostUse::Volume { device, of: of.clone() });
        }
        let elsewhere = |mount: &&super::in_use::MountElsewhere| {
            self.name_of(&mount.number, &mount.source).as_deref() == Some(block)
        };
        let mount = in_use.mounts.iter().find(elsewhere)?;
        let (at, holder) = (mount.at.clone(), mount.holder.clone());
        Some(HostUse::MountedElsewhere { device, at, holder })
    }

    /// What is mounted of `block`: itself, or what is made of it (partitions have their own
    /// entries, volumes are its holders).
    fn mounted_on(&self, root: &Root, block: &str, depth: u8) -> Option<(String, String)> {
        /// Encryption on a volume on a RAID is three.
        const DEEPEST: u8 = 8;

        if let Some(at) = self.mounted.get(block) {
            return Some((block.to_owned(), at.clone()));
        }
        if depth == DEEPEST {
            return None;
        }
        holders(root, block).iter().find_map(|holder| self.mounted_on(root, holder, depth + 1))
    }
}

/// Whether it is a whole disk that somebody can open. One of several paths to a disk is hidden and
/// has no node: NVMe's multipath makes the disk of them (`GENHD_FL_HIDDEN` in the kernel's
/// include/linux/blkdev.h).
fn is_disk(root: &Root, block: &str) -> bool {
    let folder = format!("{BLOCK}/{block}");
    let is_hidden = || root.glance(format!("{folder}/hidden")).as_deref() == Some("1");
    !root.exists(format!("{folder}/partition")) && !is_hidden()
}

/// Volumes that are made of a block device.
fn holders(root: &Root, block: &str) -> Vec<String> {
    root.names(Path::new(BLOCK).join(block).join("holders")).unwrap_or_default()
}
