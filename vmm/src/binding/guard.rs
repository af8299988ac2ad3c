//! The process that gives a run's devices back, whichever way the run ends.
//!
//! berth cannot do it itself: a process that is killed does nothing more, and one that ends in
//! order is by then under a seccomp filter without open(). So a child that was forked before
//! waits for the end of a pipe, which the kernel closes with berth's last descriptor. SIGKILL for
//! both leaves the journal, from which the next berth gives the devices back.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use berth_devices::pci::HostBdf;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::owner::Owner;
use super::{BindingError, Session, Target};
use crate::child;
use crate::host::{Functions, HostUse};
use crate::sandbox::Restriction;

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
    /// Starts it, while the process has one thread, and waits until it is restricted.
    ///
    /// # Errors
    /// No pipe, or no child ([`child::start`]), or no restriction.
    pub fn start(
        target: &Target,
        owner: Owner,
        devices: &[HostBdf],
        restriction: Restriction,
    ) -> Result<Self, BindingError> {
        let (reader, alive) = io::pipe().map_err(BindingError::Guard)?;
        let (mut result, writer) = io::pipe().map_err(BindingError::Guard)?;
        let kept = [libc::STDERR_FILENO, reader.as_raw_fd(), writer.as_raw_fd(), owner.fd()];
        child::start(c"berth-guard", &kept, || match restriction.apply() {
            Ok(()) => stand_guard(reader, writer, target, &owner, devices),
            Err(error) => log::error!("{:#}", anyhow::Error::from(error)),
        })
        .map_err(BindingError::Guard)?;
        match result.read(&mut [0]) {
            Ok(1) => Ok(Self { alive, result, _owner: owner }),
            Ok(_) => Err(BindingError::Guard(io::Error::other("it has no sandbox"))),
            Err(error) => Err(BindingError::Guard(error)),
        }
    }

    /// What it hears and says, from berth's side.
    pub fn fds(&self) -> [RawFd; 2] {
        [self.alive.as_raw_fd(), self.result.as_raw_fd()]
    }

    /// Tells it whose process the machine is.
    pub fn watch(&self, machine: u32) {
        // A guard that is gone is seen in the end.
        let _ = (&self.alive).write_all(&machine.to_ne_bytes());
    }

    /// Tells it that the devices are closed, and waits until they are given back. Makes no
    /// system calls but close and read.
    pub fn dismiss(mut self) -> bool {
        drop(self.alive);
        matches!(self.result.read(&mut [0]), Ok(1))
    }
}

fn stand_guard(
    reader: PipeReader,
    mut result: PipeWriter,
    target: &Target,
    owner: &Owner,
    devices: &[HostBdf],
) {
    let _ = result.write(&[1]);
    wait_for_end(reader);
    match give_back(target, owner, devices) {
        Ok(true) => {
            // Without berth there is nobody to tell.
            let _ = result.write(&[1]);
        }
        Ok(false) => {}
        Err(error) => log::error!("devices are not given back: {}", error.with_cause()),
    }
}

/// The number of the machine's process comes through this pipe, once there is one, and its end when
/// berth ends. A machine that is still there then has lost its parent, and is ended.
fn wait_for_end(mut reader: PipeReader) {
    let mut number = [0; 4];
    let machine = match reader.read_exact(&mut number) {
        Ok(()) => Pid::from_raw(i32::from_ne_bytes(number)),
        Err(_) => None,
    };
    let machine = machine.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let _ = reader.read(&mut [0]);
    if let Some(machine) = machine {
        // It has ended, as nearly always, or is about to.
        let _ = pidfd_send_signal(&machine, Signal::KILL);
        let limit = Timespec { tv_sec: RELEASE.as_secs() as i64, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&machine, PollFlags::IN)], Some(&limit));
    }
}

fn give_back(target: &Target, owner: &Owner, devices: &[HostBdf]) -> Result<bool, BindingError> {
    wait_until_released(target, devices)?;
    let mut session = Session::open(target)?;
    let id = owner.id().to_owned();
    let restored = session.give_back(|other| *other == id)?;
    owner.retire();
    Ok(restored.iter().all(|one| one.reason.is_none()))
}

/// The pipe ends before the kernel has closed the devices of a berth that was killed, and
/// vfio-pci's unbind would wait for that where nothing can interrupt it.
fn wait_until_released(target: &Target, devices: &[HostBdf]) -> Result<(), BindingError> {
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
