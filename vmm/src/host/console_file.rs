//! Where a guest's console goes: what may be written to by somebody in a guest.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatFs};

use super::root::Root;
use crate::units::ConsoleKind;

/// File systems whose files are the kernel's own (magic.h): a write there is an order to it.
const KERNELS_OWN: [(&str, u64); 12] = [
    ("proc", 0x9fa0),
    ("sysfs", 0x6265_6572),
    ("cgroup", 0x0027_e0eb),
    ("cgroup2", 0x6367_7270),
    ("debugfs", 0x6462_6720),
    ("tracefs", 0x7472_6163),
    ("securityfs", 0x7363_6673),
    ("configfs", 0x6265_6570),
    ("bpf", 0xcafe_4a11),
    ("efivarfs", 0xde5e_81e4),
    ("selinuxfs", 0xf97c_ff8c),
    ("binfmt_misc", 0x4249_4e4d),
];

/// What a machine is made from, and never writes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineFiles {
    /// The guest's kernel.
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The machine's config.
    pub config: Option<PathBuf>,
}

impl MachineFiles {
    /// Which of them `file` is, under whatever name, as the rest of a sentence.
    fn named(&self, file: &Metadata) -> Option<&'static str> {
        let is = |path: &Option<PathBuf>| {
            let found = path.as_ref().and_then(|path| fs::metadata(path).ok());
            found.is_some_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
        };
        [
            (&self.kernel, "is the guest's kernel"),
            (&self.initrd, "is the guest's initrd"),
            (&self.config, "is the machine's config"),
        ]
        .into_iter()
        .find_map(|(path, what)| is(path).then_some(what))
    }
}

/// Why this process cannot write a console to the file at `path`, or make it, as the rest of a
/// sentence that begins with the path. Asks without doing it: a plan changes nothing.
pub(super) fn refusal(
    root: &Root,
    kind: ConsoleKind,
    path: &Path,
    machine: &MachineFiles,
) -> Option<&'static str> {
    if !root.is_live() {
        return None;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) => {
            let system = rustix::fs::statfs(path).ok();
            unfit(kind, &metadata, system.as_ref(), machine)
                .or_else(|| (!may_write(path)).then_some("may not be written by this process"))
        }
        Err(_) if kind != ConsoleKind::File => Some("does not exist"),
        Err(_) => match path.parent() {
            Some(folder) if !folder.is_dir() => Some("cannot be made: its folder does not exist"),
            Some(folder) if !may_write(folder) => {
                Some("cannot be made: this process may not write in its folder")
            }
            _ => None,
        },
    }
}

/// The same of a file that is open, before anything is written to it.
pub fn refusal_of_open(
    file: &File,
    kind: ConsoleKind,
    machine: &MachineFiles,
) -> Option<&'static str> {
    let Ok(metadata) = file.metadata() else { return Some("tells nothing of itself") };
    unfit(kind, &metadata, rustix::fs::fstatfs(file).ok().as_ref(), machine)
}

fn unfit(
    wanted: ConsoleKind,
    metadata: &Metadata,
    system: Option<&StatFs>,
    machine: &MachineFiles,
) -> Option<&'static str> {
    let kind = metadata.file_type();
    match wanted {
        ConsoleKind::Fifo => return (!kind.is_fifo()).then_some("is no pipe with a name (FIFO)"),
        ConsoleKind::Socket => return (!kind.is_socket()).then_some("is no Unix socket"),
        ConsoleKind::File => {}
    }
    if kind.is_dir() {
        Some("is a directory, not a file")
    } else if kind.is_symlink() {
        Some("is a symbolic link, not a file")
    } else if kind.is_fifo() {
        Some("is a pipe (FIFO), not a file: its word is `fifo`")
    } else if kind.is_socket() {
        Some("is a socket, not a file: its word is `socket`")
    } else if !kind.is_file() {
        Some("is a device, not a file")
    } else if system.is_some_and(is_kernels_own) {
        Some("is an order to the host's kernel, not a file on a disk")
    } else {
        machine.named(metadata)
    }
}

fn is_kernels_own(system: &StatFs) -> bool {
    // The field is as wide as a word and signed; the numbers have 32 bits.
    let magic = system.f_type as u64 & 0xffff_ffff;
    KERNELS_OWN.iter().any(|(_, own)| *own == magic)
}

fn may_write(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::Mode;

    use super::*;

    #[test]
    fn only_files_on_disks_are_written_and_none_of_the_machines_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["kernel", "initrd", "vm.json", "old.log"] {
            fs::write(at(name), "text").expect("a file");
        }
        fs::hard_link(at("kernel"), at("second-name")).expect("a link");
        symlink("old.log", at("link")).expect("a link");
        symlink("nothing", at("loose")).expect("a link");
        let fifo = rustix::fs::mkfifoat(CWD, at("fifo"), Mode::RUSR | Mode::WUSR);
        fifo.expect("a FIFO");
        let _socket = UnixListener::bind(at("socket")).expect("a socket");
        let machine = MachineFiles {
            kernel: Some(at("kernel")),
            initrd: Some(at("initrd")),
            config: Some(at("vm.json")),
        };
        let root = Root::live();
        let refusal_as =
            |kind, path: &Path| refusal(&root, kind, path, &machine).unwrap_or("is fine");
        let refusal = |path: &Path| refusal_as(ConsoleKind::File, path);
        for (name, said) in [
            ("old.log", "is fine"),
            ("new.log", "is fine"),
            ("kernel", "is the guest's kernel"),
            ("second-name", "is the guest's kernel"),
            ("initrd", "is the guest's initrd"),
            ("vm.json", "is the machine's config"),
            ("link", "is a symbolic link, not a file"),
            ("loose", "is a symbolic link, not a file"),
            ("fifo", "is a pipe (FIFO), not a file: its word is `fifo`"),
            ("socket", "is a socket, not a file: its word is `socket`"),
            ("", "is a directory, not a file"),
            ("nowhere/log", "cannot be made: its folder does not exist"),
        ] {
            assert_eq!(refusal(&at(name)), said, "{name}");
        }
        for (kind, name, said) in [
            (ConsoleKind::Fifo, "fifo", "is fine"),
            (ConsoleKind::Fifo, "kernel", "is no pipe with a name (FIFO)"),
            (ConsoleKind::Fifo, "new.fifo", "does not exist"),
            (ConsoleKind::Socket, "socket", "is fine"),
            (ConsoleKind::Socket, "fifo", "is no Unix socket"),
        ] {
            assert_eq!(refusal_as(kind, &at(name)), said, "{kind} {name}");
        }
        assert_eq!(refusal(Path::new("/dev/full")), "is a device, not a file");
        for order in ["/proc/sys/kernel/core_pattern", "/proc/self/comm"] {
            assert!(refusal(Path::new(order)).contains("order to the host's kernel"), "{order}");
        }
    }
}
