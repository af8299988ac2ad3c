//! The process that gives a run's devices back, whichever way the run ends.
//!
//! berth cannot do it itself: a process that is killed does nothing more, and one that ends in
//! order is by then under a seccomp filter without open(). So a child that was forked before
//! waits for the end of a pipe, which the kernel brings about with berth's last breath. It is
//! out of berth's process group and deaf to the signals that end a job; SIGKILL for both leaves
//! the journal, and the next berth.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use berth_devices::pci::Bdf;

use super::owner::Owner;
use super::{BindingError, Session, Target};
use crate::host::{Functions, HostUse};

/// How long a killed berth may take to let go of its devices. Unmapping a terabyte from an IOMMU
/// takes seconds.
const RELEASE: Duration = Duration::from_secs(60);

/// The guard, from berth's side.
pub struct Guard {
    alive: PipeWriter,
    result: PipeReader,
    /// Both processes have its lock, which ends with the last of them.
    _owner: Owner,
}

impl Guard {
    /// Starts it. To be called while the process has one thread, because only that one is in the
    /// child.
    pub fn start(target: &Target, owner: Owner, devices: &[Bdf]) -> Result<Self, BindingError> {
        let (reader, alive) = io::pipe().map_err(BindingError::Guard)?;
        let (result, writer) = io::pipe().map_err(BindingError::Guard)?;
        // SAFETY: the process has one thread, so the child may do all that it could.
        match unsafe { libc::fork() } {
            -1 => Err(BindingError::Guard(io::Error::last_os_error())),
            0 => {
                drop((alive, result));
                stand_guard(reader, writer, target, &owner, devices)
            }
            _ => Ok(Self { alive, result, _owner: owner }),
        }
    }

    /// Tells it that the devices are closed, and waits until they are given back. Makes no
    /// system calls but close and read.
    pub fn dismiss(self) -> bool {
        drop(self.alive);
        let mut byte = [0];
        matches!(File::from(OwnedFd::from(self.result)).read(&mut byte), Ok(1))
    }
}

fn stand_guard(
    reader: PipeReader,
    result: PipeWriter,
    target: &Target,
    owner: &Owner,
    devices: &[Bdf],
) -> ! {
    let mut kept = [libc::STDERR_FILENO, reader.as_raw_fd(), result.as_raw_fd(), owner.fd()];
    kept.sort_unstable();
    // SAFETY: system calls on values of our own; descriptors that are closed here belong to
    // values of the parent's that this process never touches again. The journal's lock is one.
    unsafe {
        libc::setpgid(0, 0);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, c"berth-guard".as_ptr());
        libc::chdir(c"/".as_ptr());
        let mut first = 0;
        for fd in kept {
            if first < fd {
                libc::syscall(libc::SYS_close_range, first, fd - 1, 0);
            }
            first = fd + 1;
        }
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
        // The lowest two again, so that no file of ours ever is standard output.
        for _ in 0..2 {
            libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        }
    }
    // Nobody writes: this ends when berth does.
    let _ = File::from(OwnedFd::from(reader)).read(&mut [0]);
    match give_back(target, owner, devices) {
        Ok(true) => {
            let _ = File::from(OwnedFd::from(result)).write(&[1]);
        }
        Ok(false) => {}
        Err(error) => log::error!("devices are not given back: {}", error.with_cause()),
    }
    // SAFETY: ends this process, without running what berth has registered for its own end.
    unsafe { libc::_exit(0) }
}

fn give_back(target: &Target, owner: &Owner, devices: &[Bdf]) -> Result<bool, BindingError> {
    wait_until_released(target, devices)?;
    let mut session = Session::open(target)?;
    let id = owner.id().to_owned();
    let restored = session.give_back(|other| *other == id)?;
    owner.retire();
    Ok(restored.iter().all(|one| one.reason.is_none()))
}

/// The pipe ends before the kernel has closed the devices of a berth that was killed, and
/// vfio-pci's unbind would wait for that where nothing can interrupt it.
fn wait_until_released(target: &Target, devices: &[Bdf]) -> Result<(), BindingError> {
    let root = target.root()?;
    let deadline = Instant::now() + RELEASE;
    loop {
        let host = Functions::read_to_take(&root, devices)?;
        let mut uses = host.read.values().flat_map(|found| &found.uses);
        if !uses.any(|use_| matches!(use_, HostUse::OpenVfio { .. })) || Instant::now() > deadline {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
