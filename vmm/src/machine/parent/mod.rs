//! The process that was started, and the machine's own, its child.
//!
//! A machine's process is the first of a PID namespace, which only a child can be. The one that was
//! started stays behind as the parent: it has nothing of the machine's open, passes on the signals
//! that it gets, waits, and ends as the machine's process did. One that does not end is killed. What has to outlive the machine, a
//! lease of devices among it, is the parent's. When the parent is killed the kernel kills the
//! machine, too.

mod patience;
mod signals;

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::child;
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
    /// The machine's. Each byte is a signal that asks for an end.
    Machine(PipeReader),
}

/// The process that was started, once the machine has one of its own.
pub struct Parent {
    signals: Signals,
    pid: Pid,
    machine: OwnedFd,
    requests: PipeWriter,
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
    let confinement = confinement.clone();
    let Some(pid) = child::fork()? else {
        // Its copy would keep the pipe open.
        drop(requests);
        end_with_parent(&reader)?;
        signals.leave_blocked();
        return Ok(Side::Machine(reader));
    };
    let machine = pidfd_open(pid, PidfdFlags::empty())?;
    let patience = Patience::new(shutdown_timeout);
    let parent = Parent { signals, pid, machine, requests, patience, confinement, restriction };
    Ok(Side::Parent(Box::new(parent)))
}

/// Has the kernel kill this process when its parent ends, whose pipe `requests` is. The kernel
/// forgets that when the process changes its user (prctl(2)).
///
/// # Errors
/// What prctl(2) says, and a parent that has ended before the kernel knew: its end of the pipe tells,
/// because a process of a PID namespace is not shown its parent's number.
pub fn end_with_parent(requests: &impl AsFd) -> io::Result<()> {
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

    /// Lets go of all descriptors that are not its own but `kept`, and can do nothing any more but
    /// what is left to do.
    ///
    /// # Errors
    /// A layer cannot be had.
    pub fn confine(&self, kept: &[RawFd]) -> Result<(), SandboxError> {
        let own = [
            libc::STDERR_FILENO,
            self.signals.as_raw_fd(),
            self.machine.as_raw_fd(),
            self.requests.as_raw_fd(),
        ];
        child::keep_only(&own.iter().chain(kept).copied().collect::<Vec<_>>());
        self.confinement.confine_rest()?;
        self.restriction.apply()
    }

    /// Waits for the end of the machine's process, and passes on signals until then. A machine that
    /// has not ended when the parent's [`Patience`] has is killed.
    ///
    /// # Errors
    /// The host refuses to wait.
    pub fn wait(mut self) -> io::Result<ChildEnd> {
        loop {
            let mut ready = [
                PollFd::new(&self.machine, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            // One that is longer than the kernel can count has no end.
            let timeout = self.patience.left(Instant::now());
            let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut ready, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !ready[0].revents().is_empty() {
                break;
            }
            while self.signals.take_one()? {
                // A machine that has ended needs none.
                let _ = self.requests.write(&[1]);
                self.patience.asked(Instant::now());
            }
            if self.patience.ends(Instant::now()) {
                log::warn!("the machine's process has not ended in time and is killed");
                pidfd_send_signal(&self.machine, Signal::KILL)?;
            }
        }
        let status = waitid(WaitId::PidFd(self.machine.as_fd()), WaitIdOptions::EXITED)?;
        let status = status.ok_or(io::ErrorKind::NotFound)?;
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ChildEnd::Exit(code as u8),
            (None, Some(signal)) => ChildEnd::Signal(signal),
            (None, None) => return Err(io::ErrorKind::InvalidData.into()),
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
