//! Whether this process can open the kernel's device files.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::root::Root;

/// Whether this process can open a device file for reading and writing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// A snapshot of a host has no device files.
    #[default]
    Unknown,
    /// It can.
    Granted,
    /// There is no such file.
    Missing,
    /// The file's mode or a security module says no.
    Denied,
    /// Another process holds it, and only one can; `None` when that process cannot be seen.
    Busy(Option<Holder>),
    /// It fails otherwise, with the system's reason.
    Failed(String),
}

/// A process that holds a device file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Process ID.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}

/// As the rest of a sentence that begins with the file's name.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("is not in the snapshot"),
            Self::Granted => f.write_str("opens"),
            Self::Missing => f.write_str("does not exist"),
            Self::Denied => f.write_str("may not be opened by this process"),
            Self::Busy(None) => f.write_str("is held by another process"),
            Self::Busy(Some(Holder { pid, comm })) => {
                write!(f, "is held by process {pid} ({comm})")
            }
            Self::Failed(reason) => write!(f, "does not open: {reason}"),
        }
    }
}

impl Access {
    /// Opens the file and closes it again: unlike access(2) that also tells who holds an IOMMU
    /// group, and neither KVM nor VFIO keeps anything of a file that only was open.
    pub(super) fn probe(root: &Root, path: &str) -> Self {
        if !root.is_live() || root.is_recorded() {
            return Self::Unknown;
        }
        let path = root.path(path);
        match Self::open(&path) {
            Self::Busy(_) => Self::Busy(Holder::of(root, &path)),
            access => access,
        }
    }

    /// The same of a file of this host, without a look at who holds it.
    pub(super) fn open(path: &Path) -> Self {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path);
        match open {
            Ok(_) => Self::Granted,
            Err(error) => match (error.kind(), error.raw_os_error()) {
                (io::ErrorKind::NotFound, _) => Self::Missing,
                (io::ErrorKind::PermissionDenied, _) => Self::Denied,
                (_, Some(libc::EBUSY)) => Self::Busy(None),
                // A static device file whose module is not loaded and cannot be.
                (_, Some(libc::ENODEV | libc::ENXIO)) => Self::Missing,
                _ => Self::Failed(error.to_string()),
            },
        }
    }
}

impl Holder {
    /// The first process that has `device` open, among those that this one may look into. No snapshot
    /// has other processes' files.
    pub(super) fn of(root: &Root, device: &Path) -> Option<Self> {
        processes(root)
            .find(|pid| open_files(root, *pid).any(|file| file == device))
            .map(named(root))
    }

    /// The first process of each open file below `folder`, among those that this one may look into.
    pub(super) fn all_below(root: &Root, folder: &str) -> BTreeMap<PathBuf, Self> {
        let mut holders = BTreeMap::new();
        for pid in processes(root) {
            for file in open_files(root, pid).filter(|file| file.starts_with(folder)) {
                holders.entry(file).or_insert_with(|| named(root)(pid));
            }
        }
        holders
    }
}

/// All but this one.
fn processes(root: &Root) -> impl Iterator<Item = u32> {
    // What processes have open belongs in no snapshot.
    let names =
        if root.is_recorded() { Vec::new() } else { root.names("/proc").unwrap_or_default() };
    names.into_iter().filter_map(|name| name.parse().ok()).filter(|&pid| pid != std::process::id())
}

fn open_files(root: &Root, pid: u32) -> impl Iterator<Item = PathBuf> {
    let folder = format!("/proc/{pid}/fd");
    let files = root.names(&folder).unwrap_or_default();
    files.into_iter().filter_map(move |file| root.link(format!("{folder}/{file}")))
}

fn named(root: &Root) -> impl Fn(u32) -> Holder {
    |pid| Holder { pid, comm: root.glance(format!("/proc/{pid}/comm")).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_file_is_tried() {
        let live = Root::live();
        assert_eq!(Access::probe(&live, "/dev/null"), Access::Granted);
        assert_eq!(Access::probe(&live, "/dev/vfio/none"), Access::Missing);
    }

    #[test]
    fn a_snapshot_tells_nothing_of_device_files() {
        let snapshot = tempfile::tempdir().expect("a folder for the snapshot");
        std::fs::create_dir(snapshot.path().join("sys")).expect("a folder");
        let snapshot = Root::open(snapshot.path()).expect("a root");
        assert_eq!(Access::probe(&snapshot, "/dev/null"), Access::Unknown);
    }

    #[test]
    fn the_holder_of_a_file_is_found() {
        use std::fs;
        use std::os::unix::fs::symlink;

        let snapshot = tempfile::tempdir().expect("a folder for the snapshot");
        let fd = snapshot.path().join("proc/77/fd");
        fs::create_dir_all(&fd).expect("a folder");
        fs::write(snapshot.path().join("proc/77/comm"), "qemu\n").expect("a file");
        symlink("/dev/vfio/14", fd.join("9")).expect("a link");
        let root = Root::open(snapshot.path()).expect("a root");
        assert_eq!(
            Holder::of(&root, Path::new("/dev/vfio/14")),
            Some(Holder { pid: 77, comm: "qemu".to_owned() })
        );
        assert_eq!(Holder::of(&root, Path::new("/dev/vfio/15")), None);
        let all = Holder::all_below(&root, "/dev/vfio");
        assert_eq!(all.keys().collect::<Vec<_>>(), [Path::new("/dev/vfio/14")]);
        assert_eq!(Holder::all_below(&root, "/dev/kvm").len(), 0);
    }
}
