//! Mounts that allow what giving devices back takes, and no more.
//!
//! The guard stays root, whose files are nearly all there are. In a mount namespace of its own all
//! of them are read-only, no device file can be opened, and what sysfs has of PCI and the folder of
//! berth's own state are all that it can change.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::thread::UnshareFlags;

use crate::state;

/// Drivers, which functions are bound to by a write.
const DRIVERS: &str = "/sys/bus/pci";
/// Has a folder for each root of a PCI hierarchy, with all functions below it.
const DEVICES: &str = "/sys/devices";

/// `struct mount_attr` (linux/mount.h).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const READ_ONLY: u64 = 0x1;
const NO_SETUID: u64 = 0x2;
const NO_DEVICES: u64 = 0x4;
const NO_PROGRAMS: u64 = 0x8;

/// Restricts the calling process, which has one thread. Takes CAP_SYS_ADMIN.
///
/// # Errors
/// The kernel makes no such namespace, or lacks mount_setattr(2), which Linux 5.12 has.
pub fn restrict() -> io::Result<()> {
    // SAFETY: the process has one thread, and shares neither files nor folders with another.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(c"/", private)?;
    let is_root =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"pci"));
    let roots = fs::read_dir(DEVICES)?.flatten().map(|entry| entry.path()).filter(is_root);
    let changed = [PathBuf::from(DRIVERS), state::folder()].into_iter().chain(roots);
    // Each is a mount of its own first, so that it keeps what all others lose.
    let changed: Vec<PathBuf> = changed.filter(|folder| folder.exists()).collect();
    for folder in &changed {
        mount_bind_recursive(folder, folder)?;
    }
    set(Path::new("/"), READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS, 0, libc::AT_RECURSIVE)?;
    for folder in changed {
        set(&folder, 0, READ_ONLY, 0)?;
    }
    Ok(())
}

fn set(folder: &Path, set: u64, clear: u64, flags: libc::c_int) -> io::Result<()> {
    let folder = CString::new(folder.as_os_str().as_bytes())?;
    let attributes = MountAttributes { set, clear, propagation: 0, user_namespace: 0 };
    // SAFETY: both pointers are valid for reads, and the kernel is told the structure's size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            folder.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
