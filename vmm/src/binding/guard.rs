//! The process that gives a run's devices back, whichever way the run ends.
//!
//! berth cannot do it itself: a process that is killed does nothing more, and one that ends in
//! order is by then under a seccomp filter without open(). So a child that was forked before
//! waits for the end of a pipe, which the kernel closes with berth's last descriptor. SIGKILL for
//! both leaves the journal, from which the next berth gives the devices back.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use berth_devices::pci::HostBdf;

use super::owner::Owner;
use super::{BindingError, Session, Target};
use crate::child;
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
    /// Starts it, while the process has one thread.
    ///
    /// # Errors
    /// No pipe, or no child ([`child::start`]).
    pub fn start(target: &Target, owner: Owner, devices: &[HostBdf]) -> Result<Self, BindingError> {
        let (reader, alive) = io::pipe().map_err(BindingError::Guard)?;
        let (result, writer) = io::pipe().map_err(BindingError::Guard)?;
        let kept = [libc::STDERR_FILENO, reader.as_raw_fd(), writer.as_raw_fd(), owner.fd()];
        child::start(c"berth-guard", &kept, || {
            stand_guard(reader, writer, target, &owner, devices)
        })
        .map_err(BindingError::Guard)?;
        Ok(Self { alive, result, _owner: owner })
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

/// Nobody writes to this pipe: it ends when berth does.
fn wait_for_end(mut reader: PipeReader) {
    let _ = reader.read(&mut [0]);
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
