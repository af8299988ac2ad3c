//! What only the running kernel tells of its devices: who has them open, what is claimed, and what
//! is mounted where this process does not see it.
//!
//! A snapshot has it as a file of lines, since none of it can be read of a host that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::access::Holder;
use super::super::root::Root;
use super::super::tree::Entry;
use super::namespaces::{InterfaceElsewhere, Namespaces};

/// Where a snapshot has it.
const FILE: &str = "/berth/in-use";

/// `/proc/self/ns/pid` of who sees all processes: `PROC_PID_INIT_INO` (kernel,
/// include/linux/proc_ns.h).
const ALL_PROCESSES: &str = "pid:[4026531836]";

/// A device node that a process has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenNode {
    /// Its path, as the process opened it.
    pub(super) path: String,
    /// Its number, such as `226:1`; a snapshot that other tools made has only the path.
    pub(super) number: Option<String>,
    /// The process.
    pub(super) holder: Holder,
}

/// A block device that is mounted in another mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountElsewhere {
    /// Its number, such as `259:1`.
    pub(super) number: String,
    /// Its file, such as `/dev/sda1`, as that namespace calls it.
    pub(super) source: String,
    /// Where.
    pub(super) at: String,
    /// A process that sees it there.
    pub(super) holder: Holder,
}

/// What the kernel has of its devices.
#[derive(Debug, Default)]
pub(super) struct InUse {
    /// Device nodes that processes have open.
    pub(super) open: Vec<OpenNode>,
    /// Mounts of other namespaces.
    pub(super) mounts: Vec<MountElsewhere>,
    /// Whole disks that the kernel or a program has claimed, or `None` where that cannot be tried.
    claims: BTreeMap<String, Option<bool>>,
    /// Interfaces of other network namespaces that need a function.
    pub(super) interfaces: Vec<InterfaceElsewhere>,
    /// Whether all processes were seen.
    pub(super) is_complete: bool,
    /// Whether there is a network namespace that could not be looked into.
    pub(super) has_closed_namespace: bool,
}

/// Whether `namespace` of PIDs, or that there is none, means that every process is seen. A kernel
/// without `CONFIG_PID_NS` has no such link, and all processes are in one place.
fn sees_all_processes(namespace: io::Result<PathBuf>, has_procfs: impl Fn() -> bool) -> bool {
    match namespace {
        Ok(namespace) => namespace == Path::new(ALL_PROCESSES),
        Err(error) => error.kind() == io::ErrorKind::NotFound && has_procfs(),
    }
}

impl InUse {
    /// Reads it of a host whose whole disks are `disks`.
    pub(super) fn read(root: &Root, disks: &BTreeSet<String>) -> Self {
        let live = root.is_live();
        let found = match root.glance(FILE) {
            Some(text) => Self::parse(&text),
            None if live => Self::of_this_host(root, disks),
            None => Self::of_processes(root),
        };
        root.remember(Path::new(FILE), || Entry::File(found.text().into_bytes()));
        found
    }

    /// Whether somebody has claimed `disk`, so that nobody else may; `None` where that is unknown.
    pub(super) fn is_claimed(&self, disk: &str) -> Option<bool> {
        self.claims.get(disk).copied().flatten()
    }

    fn of_this_host(root: &Root, disks: &BTreeSet<String>) -> Self {
        let mut found = Self {
            is_complete: sees_all_processes(fs::read_link("/proc/self/ns/pid"), || {
                Path::new("/proc/self/stat").exists()
            }),
            claims: disks.iter().map(|disk| (disk.clone(), is_claimed(disk))).collect(),
            ..Self::default()
        };
        let own = fs::read_link("/proc/self/ns/mnt").ok();
        let mut namespaces: BTreeSet<_> = own.into_iter().collect();
        let mut networks = Namespaces::kept();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            if pid == std::process::id() {
                continue;
            }
            let folder = entry.path();
            let holder = || {
                let comm = fs::read_to_string(folder.join("comm")).unwrap_or_default();
                Holder { pid, comm: comm.trim().to_owned() }
            };
            match open_nodes(&folder, &holder) {
                Ok(nodes) => found.open.extend(nodes),
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(_) => found.is_complete = false,
            }
            if let Ok(namespace) = fs::read_link(folder.join("ns/mnt"))
                && namespaces.insert(namespace)
            {
                let text = fs::read_to_string(folder.join("mountinfo")).unwrap_or_default();
                found.mounts.extend(mounts(&text, &holder));
            }
            let network = folder.join("ns/net");
            if let Ok(namespace) = fs::read_link(&network) {
                let name = || {
                    let Holder { pid, comm } = holder();
                    format!("process {pid} ({comm})")
                };
                networks.add(namespace, network, name);
            }
        }
        let (interfaces, all) = networks.interfaces(root);
        found.interfaces = interfaces;
        // A process that is not seen may have one of its own.
        found.has_closed_namespace = !all || !found.is_complete;
        found
    }

    /// Of a snapshot that has the links of what processes have open.
    fn of_processes(root: &Root) -> Self {
        let mut found = Self::default();
        for pid in root.names("/proc").unwrap_or_default() {
            let folder = format!("/proc/{pid}/fd");
            let Ok(number) = pid.parse() else { continue };
            let files = root.names(&folder).unwrap_or_default();
            found.is_complete |= !files.is_empty();
            let links = files.iter().filter_map(|file| root.link(format!("{folder}/{file}")));
            let nodes = links.filter(|link| link.starts_with("/dev"));
            let comm = root.glance(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.open.extend(nodes.map(|link| OpenNode {
                path: link.to_string_lossy().into_owned(),
                number: None,
                holder: Holder { pid: number, comm: comm.clone() },
            }));
        }
        found
    }

    /// As lines; paths with white space, which no device of the kernel's has, are left out.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &[&str], rest: &str| {
            if words.iter().all(|word| !word.is_empty() && !word.contains(char::is_whitespace)) {
                let line =
                    format!("{} {}", words.join(" "), rest.replace(char::is_whitespace, " "));
                text += line.trim_end();
                text.push('\n');
            }
        };
        let process = |Holder { pid, comm }: &Holder| format!("{pid} {comm}");
        line(&["processes", if self.is_complete { "all" } else { "some" }], "");
        if self.has_closed_namespace {
            line(&["namespaces", "some"], "");
        }
        for OpenNode { path, number, holder } in &self.open {
            line(&["open", path, number.as_deref().unwrap_or("-")], &process(holder));
        }
        for MountElsewhere { number, source, at, holder } in &self.mounts {
            line(&["mounted", number, source, at], &process(holder));
        }
        for InterfaceElsewhere { name, lower, functions, namespace } in &self.interfaces {
            let functions: Vec<String> = functions.iter().map(ToString::to_string).collect();
            let functions = if functions.is_empty() { "-".to_owned() } else { functions.join(",") };
            line(&["interface", name, lower.as_deref().unwrap_or("-"), &functions], namespace);
        }
        for (disk, claimed) in &self.claims {
            if let Some(claimed) = claimed {
                line(&[if *claimed { "claimed" } else { "unclaimed" }, disk], "");
            }
        }
        text
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let holder = |words: &[&str]| {
            let (pid, comm) = words.split_first()?;
            Some(Holder { pid: pid.parse().ok()?, comm: comm.join(" ") })
        };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["processes", which] => found.is_complete = *which == "all",
                ["namespaces", which] => found.has_closed_namespace = *which != "all",
                ["interface", name, lower, functions, namespace @ ..] => {
                    found.interfaces.push(InterfaceElsewhere {
                        name: (*name).to_owned(),
                        lower: (*lower != "-").then(|| (*lower).to_owned()),
                        functions: functions
                            .split(',')
                            .filter_map(|one| one.parse().ok())
                            .collect(),
                        namespace: namespace.join(" "),
                    });
                }
                ["open", path, number, rest @ ..] => {
                    found.open.extend(holder(rest).map(|holder| {
                        let number = (*number != "-").then(|| (*number).to_owned());
                        OpenNode { path: (*path).to_owned(), number, holder }
                    }))
                }
                ["mounted", number, source, at, rest @ ..] => {
                    found.mounts.extend(holder(rest).map(|holder| MountElsewhere {
                        number: (*number).to_owned(),
                        source: (*source).to_owned(),
                        at: (*at).to_owned(),
                        holder,
                    }));
                }
                [word @ ("claimed" | "unclaimed"), disk] => {
                    found.claims.insert((*disk).to_owned(), Some(*word == "claimed"));
                }
                _ => {}
            }
        }
        found
    }
}

/// Device nodes that the process in `folder` of procfs has open, terminals and memory left out.
fn open_nodes(folder: &Path, holder: &impl Fn() -> Holder) -> io::Result<Vec<OpenNode>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir(folder.join("fd"))? {
        let path = entry?.path();
        // Others are files, sockets and pipes; to look at these might wait for a server.
        let Ok(target) = fs::read_link(&path) else { continue };
        if !target.to_string_lossy().contains("/dev/") {
            continue;
        }
        let Ok(node) = fs::metadata(&path) else { continue };
        let kind = node.file_type();
        let (major, minor) = (libc::major(node.rdev()), libc::minor(node.rdev()));
        // Documentation/admin-guide/devices.txt: 1 memory, 5 terminals, 136 to 143 their slaves.
        let is_plain = kind.is_char_device() && matches!(major, 1 | 5 | 136..=143);
        if (kind.is_char_device() && !is_plain) || kind.is_block_device() {
            nodes.push(OpenNode {
                path: target.to_string_lossy().into_owned(),
                number: Some(format!("{major}:{minor}")),
                holder: holder(),
            });
        }
    }
    Ok(nodes)
}

/// Mounts of block devices in a namespace.
fn mounts(text: &str, holder: &impl Fn() -> Holder) -> Vec<MountElsewhere> {
    let mount = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let end = words.iter().position(|word| *word == "-")?;
        let (number, at, source) = (words.get(2)?, words.get(4)?, words.get(end + 2)?);
        source.starts_with("/dev/").then(|| MountElsewhere {
            number: (*number).to_owned(),
            source: (*source).to_owned(),
            at: (*at).to_owned(),
            holder: holder(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// Whether an exclusive open of a whole disk is refused: the kernel says so of one that it or a
/// program has claimed, or a part of it (`bd_prepare_to_claim` in block/bdev.c), whoever mounted
/// or stacked it. Nothing is read, and it is closed at once.
fn is_claimed(disk: &str) -> Option<bool> {
    // The kernel writes `/` in a name as `!`.
    let path = Path::new("/dev").join(disk.replace('!', "/"));
    let flags = libc::O_EXCL | libc::O_NONBLOCK | libc::O_CLOEXEC;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(_) => Some(false),
        Err(error) => match error.raw_os_error() {
            Some(libc::EBUSY) => Some(true),
            // Nothing is in the drive.
            Some(libc::ENOMEDIUM) => Some(false),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_pid_namespaces_shows_all_processes() {
        let in_namespace = |number: u32| Ok(PathBuf::from(format!("pid:[{number}]")));
        assert!(sees_all_processes(in_namespace(4_026_531_836), || true));
        assert!(!sees_all_processes(in_namespace(4_026_532_700), || true));
        let missing = || Err(io::ErrorKind::NotFound.into());
        assert!(sees_all_processes(missing(), || true));
        assert!(!sees_all_processes(missing(), || false));
        assert!(!sees_all_processes(Err(io::ErrorKind::PermissionDenied.into()), || true));
    }

    #[test]
    fn what_is_in_use_survives_a_snapshot() {
        let x = Holder { pid: 7, comm: "X server".to_owned() };
        let found = InUse {
            open: vec![
                OpenNode {
                    path: "/dev/dri/card1".to_owned(),
                    number: Some("226:1".to_owned()),
                    holder: x.clone(),
                },
                OpenNode { path: "/dev/nvidia0".to_owned(), number: None, holder: x.clone() },
            ],
            mounts: mounts("9 1 259:1 / /data rw - ext4 /dev/sda1 rw", &|| x.clone()),
            claims: BTreeMap::from([("sda".to_owned(), Some(true)), ("sdb".to_owned(), None)]),
            interfaces: vec![
                InterfaceElsewhere {
                    name: "mv0".to_owned(),
                    lower: Some("eno1".to_owned()),
                    functions: Vec::new(),
                    namespace: "process 7 (X server)".to_owned(),
                },
                InterfaceElsewhere {
                    name: "eno2".to_owned(),
                    lower: None,
                    functions: vec!["0000:01:00.1".parse().expect("an address")],
                    namespace: "/run/netns/red".to_owned(),
                },
            ],
            is_complete: true,
            has_closed_namespace: true,
        };
        let again = InUse::parse(&found.text());
        assert_eq!((&again.open, &again.mounts), (&found.open, &found.mounts));
        assert_eq!(again.interfaces, found.interfaces);
        assert!(again.is_complete && again.has_closed_namespace);
        assert_eq!((again.is_claimed("sda"), again.is_claimed("sdb")), (Some(true), None));
    }

    #[test]
    fn a_disk_that_cannot_be_opened_is_unknown() {
        assert_eq!(is_claimed("berth-no-such-disk"), None);
    }

    #[test]
    fn nodes_that_others_have_open_are_seen() {
        // Everybody may look at their own children; this one has a node of the kernel's open.
        let file = fs::File::open("/dev/urandom").expect("a node");
        let holder = || Holder { pid: 1, comm: String::new() };
        let nodes = open_nodes(Path::new("/proc/self"), &holder).expect("our own files");
        assert!(nodes.iter().all(|node| node.path != "/dev/urandom"), "memory devices are plain");
        drop(file);
    }
}
