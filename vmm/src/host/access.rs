//! Whether this process can open the kernel's device files.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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
        if !root.is_live() {
            return Self::Unknown;
        }
        let path = root.path(path);
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(&path);
        match open {
            Ok(_) => Self::Granted,
            Err(error) => match (error.kind(), error.raw_os_error()) {
                (io::ErrorKind::NotFound, _) => Self::Missing,
                (io::ErrorKind::PermissionDenied, _) => Self::Denied,
                (_, Some(libc::EBUSY)) => Self::Busy(holder(root, &path)),
                // A static device file whose module is not loaded and cannot be.
                (_, Some(libc::ENODEV | libc::ENXIO)) => Self::Missing,
                _ => Self::Failed(error.to_string()),
            },
        }
    }
}

/// The first process that has `device` open, among those that this one may look into.
pub(super) fn holder(root: &Root, device: &Path) -> Option<Holder> {
    let pids = root.names("/proc").ok()?;
    pids.iter()
        .filter_map(|name| name.parse::<u32>().ok())
        .filter(|&pid| pid != std::process::id())
        .find(|pid| {
            let files = fs::read_dir(root.path(format!("/proc/{pid}/fd")));
            files
                .into_iter()
                .flatten()
                .flatten()
                .any(|file| fs::read_link(file.path()).is_ok_and(|target| target == device))
        })
        .map(|pid| Holder {
            pid,
            comm: root.text(format!("/proc/{pid}/comm")).ok().flatten().unwrap_or_default(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_file_is_tried() {
        let live = Root::new(Path::new("/"));
        assert_eq!(Access::probe(&live, "/dev/null"), Access::Granted);
        assert_eq!(Access::probe(&live, "/dev/vfio/none"), Access::Missing);
    }

    #[test]
    fn a_snapshot_tells_nothing_of_device_files() {
        let snapshot = Root::new(Path::new("/nonexistent"));
        assert_eq!(Access::probe(&snapshot, "/dev/null"), Access::Unknown);
    }

    #[test]
    fn the_holder_of_a_file_is_found() {
        use std::os::unix::fs::symlink;

        let snapshot = tempfile::tempdir().expect("a folder for the snapshot");
        let fd = snapshot.path().join("proc/77/fd");
        fs::create_dir_all(&fd).expect("a folder");
        fs::write(snapshot.path().join("proc/77/comm"), "qemu\n").expect("a file");
        symlink("/dev/vfio/14", fd.join("9")).expect("a link");
        let root = Root::new(snapshot.path());
        assert_eq!(
            holder(&root, Path::new("/dev/vfio/14")),
            Some(Holder { pid: 77, comm: "qemu".to_owned() })
        );
        assert_eq!(holder(&root, Path::new("/dev/vfio/15")), None);
    }
}
