//! The process that was started, and the machine's own, its child.
//!
//! A machine's process is the first of a PID namespace, which only a child can be. The one that was
//! started stays behind as the parent: it has nothing of the machine's open, passes on the signals
//! that it gets, waits, and ends as the machine's process did. One that does not end is killed. What has to outlive the machine, a
//! lease of devices among it, is the parent's. When the parent is killed the kernel kills the
//! machine, too, as far as the one may signal the other: the parent is root for as long as the
//! machine is.

mod patience;
mod signals;

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::child;
use crate::footprint;
use crate::sandbox::{Confinement, Restriction, SandboxError};

use patience::Patience;
pub use signals::Signals;

/// How the machine's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildEnd {
    /// With this exit code.
    Exit(u8),
    /// By this signal.
    Signal(i32),
}

impl ChildEnd {
    /// The exit code of a process that ends as its child did, as shells have it.
    pub fn code(self) -> u8 {
        match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => 128 | signal as u8,
        }
    }
}

/// Which of the two processes this is.
pub enum Side {
    /// The one that was started.
    Parent(Box<Parent>),
    /// The machine's.
    Machine(Ties),
}

/// What ties the machine's process to its parent.
pub struct Ties {
    /// Each byte is a signal that asks for an end.
    pub requests: PipeReader,
    /// How both leave root.
    pub leaving: Leaving,
}

/// The machine leaves root first, then its parent.
pub struct Leaving {
    machine_has: PipeWriter,
    parent_has: PipeReader,
}

/// Why the machine's process is not waited for.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The host refuses.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The parent cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// The process that was started, once the machine has one of its own.
pub struct Parent {
    signals: Signals,
    pid: Pid,
    machine: OwnedFd,
    requests: PipeWriter,
    /// Its end is that of the machine's as root, or of the machine; then that of ours follows.
    machine_has: PipeReader,
    parent_has: Option<PipeWriter>,
    patience: Patience,
    confinement: Confinement,
    restriction: Restriction,
}

/// Makes the machine's process, while this one has one thread. This one will be confined as the two
/// say. Asked to end, the machine gives its guest `shutdown_timeout`.
///
/// # Errors
/// No pipe, or no child: `EAGAIN` where processes are limited.
pub fn split(
    signals: Signals,
    confinement: &Confinement,
    restriction: Restriction,
    shutdown_timeout: Duration,
) -> io::Result<Side> {
    let (reader, requests) = io::pipe()?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    // A machine that reads none must not hold its parent up.
    rustix::fs::fcntl_setfl(&requests, OFlags::NONBLOCK)?;
    let (machine_has_left, machine_has) = io::pipe()?;
    let (parent_has, parent_has_left) = io::pipe()?;
    let confinement = confinement.clone();
    let Some(pid) = child::fork()? else {
        // Copies of the parent's would keep the pipes open.
        drop((requests, machine_has_left, parent_has_left));
        end_with_parent(&reader)?;
        signals.leave_blocked();
        let leaving = Leaving { machine_has, parent_has };
        return Ok(Side::Machine(Ties { requests: reader, leaving }));
    };
    let machine = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(Side::Parent(Box::new(Parent {
        signals,
        pid,
        machine,
        requests,
        machine_has: machine_has_left,
        parent_has: Some(parent_has_left),
        patience: Patience::new(shutdown_timeout),
        confinement,
        restriction,
    })))
}

impl Leaving {
    /// The machine has left root. Waits until its parent has, too, and ties both together again.
    ///
    /// # Errors
    /// As [`end_with_parent`].
    pub fn tell(self, requests: &impl AsFd) -> io::Result<()> {
        let Self { machine_has, mut parent_has } = self;
        drop(machine_has);
        parent_has.read_to_end(&mut Vec::new())?;
        end_with_parent(requests)
    }
}

/// Has the kernel kill this process when its parent ends, whose pipe `requests` is. The kernel
/// forgets that when the process changes its user (prctl(2)).
///
/// # Errors
/// What prctl(2) says, and a parent that has ended before the kernel knew: its end of the pipe tells,
/// because a process of a PID namespace is not shown its parent's number.
fn end_with_parent(requests: &impl AsFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut ready = [PollFd::new(requests, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::default()))?;
    if ready[0].revents().contains(PollFlags::HUP) {
        return Err(io::Error::other("the process that started it has been killed"));
    }
    Ok(())
}

impl Parent {
    /// The machine's process.
    pub fn machine(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Lets go of all descriptors that are not its own but `kept`, and of the host's files.
    ///
    /// # Errors
    /// A layer cannot be had.
    pub fn confine(&self, kept: &[RawFd]) -> Result<(), SandboxError> {
        let parent_has = self.parent_has.as_ref().map(AsRawFd::as_raw_fd);
        let own = [
            libc::STDERR_FILENO,
            self.signals.as_raw_fd(),
            self.machine.as_raw_fd(),
            self.requests.as_raw_fd(),
            self.machine_has.as_raw_fd(),
        ];
        let own = own.into_iter().chain(parent_has);
        child::keep_only(&own.chain(kept.iter().copied()).collect::<Vec<_>>());
        self.confinement.confine_rest()
    }

    /// The machine has left root: this process does, too, and can do nothing any more but what is
    /// left to do. The guest has not started.
    fn leave_root(&mut self) -> Result<(), SandboxError> {
        if let Some(parent_has) = self.parent_has.take() {
            self.confinement.leave_root()?;
            self.restriction.apply()?;
            drop(parent_has);
            footprint::shrink();
        }
        Ok(())
    }

    /// Waits for the end of the machine's process, and passes on signals until then. A machine that
    /// has not ended half a minute after its guest's time is killed.
    ///
    /// # Errors
    /// The host refuses to wait, or a layer.
    pub fn wait(mut self) -> Result<ChildEnd, WaitError> {
        loop {
            let machine_has = match self.parent_has {
                // Its end would be reported for ever.
                None => self.signals.as_fd(),
                Some(_) => self.machine_has.as_fd(),
            };
            let mut ready = [
                PollFd::new(&self.machine, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::from_borrowed_fd(machine_has, PollFlags::IN),
            ];
            // One that is longer than the kernel can count has no end.
            let timeout = self.patience.left(Instant::now());
            let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut ready, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            if !ready[0].revents().is_empty() {
                break;
            }
            if ready[2].revents().contains(PollFlags::HUP) {
                self.leave_root()?;
            }
            while self.signals.take_one()? {
                // A machine that has ended needs none.
                let _ = self.requests.write(&[1]);
                self.patience.asked(Instant::now());
            }
            if self.patience.ends(Instant::now()) {
                log::warn!("the machine's process has not ended in time and is killed");
                pidfd_send_signal(&self.machine, Signal::KILL).map_err(io::Error::from)?;
            }
        }
        let status = waitid(WaitId::PidFd(self.machine.as_fd()), WaitIdOptions::EXITED);
        let status = status.map_err(io::Error::from)?;
        let status = status.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ChildEnd::Exit(code as u8),
            (None, Some(signal)) => ChildEnd::Signal(signal),
            (None, None) => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody would end it, and it would keep its devices.
    #[test]
    fn a_machine_whose_parent_was_killed_before_the_kernel_knew_does_not_start() {
        let thread = std::thread::spawn(|| {
            let (reader, parent) = io::pipe().expect("a pipe");
            assert!(end_with_parent(&reader).is_ok());
            drop(parent);
            let error = end_with_parent(&reader).expect_err("nobody is there");
            assert!(error.to_string().contains("has been killed"), "{error}");
            // The test's own process goes on.
            rustix::process::set_parent_process_death_signal(None).expect("it is its own");
        });
        thread.join().expect("it does not panic");
    }
}
