//! The host's files and devices.

use super::attempts::{AT_FDCWD, Attempt, Outcome, call, judged, open};
use super::tracee::{Copy, Ended};

const RDWR: i32 = libc::O_RDWR;
const RDONLY: i32 = libc::O_RDONLY;
const WRONLY: i32 = libc::O_WRONLY;

fn opens(copy: &mut Copy, path: &str, flags: i32) -> Result<Outcome, Ended> {
    Ok(open(copy, path, flags)?.map_or_else(|refused| refused, |_| Outcome::Worked))
}

/// Calls on one path.
fn on(copy: &mut Copy, number: libc::c_long, path: &str, rest: &[u64]) -> Result<Outcome, Ended> {
    let path = copy.text(path);
    let arguments: Vec<u64> = [path].into_iter().chain(rest.iter().copied()).collect();
    call(copy, number, &arguments)
}

/// What is attempted.
pub fn all() -> Vec<Attempt> {
    vec![
        Attempt {
            name: "read a file of root's",
            make: |copy, scene| {
                let fd = match open(copy, &scene.secret, RDONLY)? {
                    Ok(fd) => fd,
                    Err(refused) => return Ok(refused),
                };
                let room = copy.room(64);
                let result = copy.call(libc::SYS_read, &[fd, room, 64])?;
                Ok(if result > 0 { Outcome::Worked } else { judged(result) })
            },
        },
        Attempt {
            name: "read the environment of another process",
            make: |copy, scene| opens(copy, &format!("/proc/{}/environ", scene.victim), RDONLY),
        },
        Attempt { name: "read the kernel's log", make: |copy, _| opens(copy, "/dev/kmsg", RDONLY) },
        Attempt {
            name: "write to a file of root's",
            make: |copy, scene| opens(copy, &format!("{}/victim", scene.target), WRONLY),
        },
        Attempt {
            name: "make a file",
            make: |copy, scene| {
                opens(copy, &format!("{}/made", scene.target), WRONLY | libc::O_CREAT)
            },
        },
        Attempt {
            name: "make a file in its root folder",
            make: |copy, _| opens(copy, "/made-by-berth", WRONLY | libc::O_CREAT),
        },
        Attempt {
            name: "change the mode of its own program",
            make: |copy, scene| {
                let path = copy.text(&scene.berth);
                call(copy, libc::SYS_fchmodat, &[AT_FDCWD, path, 0o755])
            },
        },
        Attempt {
            name: "make a folder",
            make: |copy, scene| on(copy, libc::SYS_mkdir, &format!("{}/f", scene.target), &[0o700]),
        },
        Attempt {
            name: "make a link",
            make: |copy, scene| {
                let (from, to) = (copy.text("/etc"), copy.text(&format!("{}/l", scene.target)));
                call(copy, libc::SYS_symlink, &[from, to])
            },
        },
        Attempt {
            name: "move a file",
            make: |copy, scene| {
                let from = copy.text(&format!("{}/moved", scene.target));
                let to = copy.text(&format!("{}/moved", scene.target));
                call(copy, libc::SYS_rename, &[from, to])
            },
        },
        Attempt {
            name: "truncate a file",
            make: |copy, scene| {
                on(copy, libc::SYS_truncate, &format!("{}/victim", scene.target), &[0])
            },
        },
        Attempt {
            name: "change the owner of a file",
            make: |copy, scene| {
                on(copy, libc::SYS_chown, &format!("{}/victim", scene.target), &[0, 0])
            },
        },
        Attempt {
            name: "remove a file",
            make: |copy, scene| {
                on(copy, libc::SYS_unlink, &format!("{}/victim", scene.target), &[])
            },
        },
        Attempt {
            name: "make a device file",
            make: |copy, scene| {
                let device = libc::makedev(1, 1);
                let path = format!("{}/mem", scene.target);
                on(copy, libc::SYS_mknod, &path, &[(libc::S_IFCHR | 0o600).into(), device])
            },
        },
        Attempt {
            name: "open a file by its handle",
            make: |copy, _| {
                // A handle of eight bytes, of no file: who may, gets ESTALE.
                let handle = copy.bytes(&[8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
                let result = copy.call(libc::SYS_open_by_handle_at, &[AT_FDCWD, handle, 0])?;
                let may = [-libc::ESTALE, -libc::EOPNOTSUPP].contains(&(result as i32));
                Ok(if may { Outcome::Worked } else { judged(result) })
            },
        },
        Attempt { name: "open the host's memory", make: |copy, _| opens(copy, "/dev/mem", RDWR) },
        Attempt { name: "open a CPU's registers", make: |copy, _| opens(copy, "/dev/port", RDWR) },
        Attempt { name: "open a drive", make: |copy, _| opens(copy, "/dev/loop0", RDWR) },
        Attempt {
            name: "open another VFIO group",
            make: |copy, scene| opens(copy, &scene.group, RDWR),
        },
        Attempt { name: "open VFIO", make: |copy, _| opens(copy, "/dev/vfio/vfio", RDWR) },
        Attempt { name: "open KVM", make: |copy, _| opens(copy, "/dev/kvm", RDWR) },
        Attempt {
            name: "change a driver",
            make: |copy, _| opens(copy, "/sys/bus/pci/drivers_probe", WRONLY),
        },
        Attempt {
            name: "change a setting of the kernel",
            make: |copy, _| opens(copy, "/proc/sys/kernel/core_pattern", WRONLY),
        },
        Attempt {
            name: "press a key of the kernel",
            make: |copy, _| opens(copy, "/proc/sysrq-trigger", WRONLY),
        },
        Attempt {
            name: "reach the host's root by procfs",
            make: |copy, _| opens(copy, "/proc/1/root/etc/passwd", RDONLY),
        },
        Attempt {
            name: "mount a file system",
            make: |copy, scene| {
                let folder = format!("{}/mount", scene.target);
                let (kind, folder) = (copy.text("tmpfs"), copy.text(&folder));
                call(copy, libc::SYS_mount, &[kind, folder, kind, 0, 0])
            },
        },
        Attempt {
            name: "take a mount away",
            make: |copy, scene| {
                on(copy, libc::SYS_umount2, &format!("{}/mount", scene.target), &[0])
            },
        },
        Attempt { name: "change its root", make: |copy, _| on(copy, libc::SYS_chroot, "/", &[]) },
        Attempt {
            name: "account for processes in a file",
            make: |copy, scene| on(copy, libc::SYS_acct, &format!("{}/acct", scene.target), &[]),
        },
        Attempt {
            name: "watch the files of a file system",
            make: |copy, _| call(copy, libc::SYS_fanotify_init, &[0, 0]),
        },
        Attempt {
            name: "swap to a file",
            make: |copy, scene| {
                let path = format!("{}/swap", scene.target);
                let path = copy.text(&path);
                let result = copy.call(libc::SYS_swapon, &[path, 0])?;
                // Who may, is told that this is no swap file.
                let may = result == i64::from(-libc::EINVAL);
                Ok(if may { Outcome::Worked } else { judged(result) })
            },
        },
        Attempt {
            name: "type into the host's console",
            make: |copy, _| {
                let fd = match open(copy, "/dev/console", RDWR | libc::O_NOCTTY)? {
                    Ok(fd) => fd,
                    Err(refused) => return Ok(refused),
                };
                let byte = copy.bytes(b"\n");
                call(copy, libc::SYS_ioctl, &[fd, libc::TIOCSTI, byte])
            },
        },
        Attempt {
            name: "have a descriptor of its own signal another process",
            make: |copy, scene| {
                call(copy, libc::SYS_fcntl, &[2, libc::F_SETOWN as u64, scene.victim])
            },
        },
        Attempt { name: "copy a descriptor", make: |copy, _| call(copy, libc::SYS_dup, &[2]) },
        Attempt {
            name: "lock a file of root's",
            make: |copy, scene| {
                let fd = match open(copy, &format!("{}/moved", scene.target), RDONLY)? {
                    Ok(fd) => fd,
                    Err(refused) => return Ok(refused),
                };
                call(copy, libc::SYS_flock, &[fd, libc::LOCK_EX as u64])
            },
        },
        Attempt {
            name: "reach berth's state folder",
            make: |copy, _| opens(copy, "/var/lib/berth", RDONLY),
        },
        Attempt {
            name: "have a file made without a name",
            make: |copy, scene| opens(copy, &scene.target, WRONLY | libc::O_TMPFILE),
        },
    ]
}
