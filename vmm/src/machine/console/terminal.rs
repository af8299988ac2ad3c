//! A terminal in raw mode, and back, whatever becomes of berth.
//!
//! A process that is killed restores nothing, and berth's own seccomp filters kill it. So a guard
//! does it: a child that does nothing but wait for berth's end.

use std::io::{self, IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use crate::child;
use crate::sandbox::Restriction;

/// What standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No terminal.
    None,
    /// A terminal that is this process's.
    Foreground,
    /// A terminal that another job has now.
    Background,
}

/// What standard input is.
pub fn state() -> State {
    if !io::stdin().is_terminal() {
        State::None
    } else if tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp()) {
        State::Foreground
    } else {
        State::Background
    }
}

/// The terminal on standard input with a guard beside it.
pub struct Terminal {
    before: Termios,
    raw: Termios,
    /// Tells the guard that there is nothing left to do.
    guard: PipeWriter,
}

impl Terminal {
    /// Starts the guard, while the process has one thread; the terminal stays as it is for now.
    ///
    /// Nothing is opened or mapped by then: the guard has a copy of it all until it has closed
    /// what it inherits.
    ///
    /// # Errors
    /// No modes, no pipe, or no child ([`child::start`]).
    pub fn guarded(restriction: &Restriction) -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        // Output is berth's as well as the guest's: its messages need their carriage returns.
        raw.output_modes = before.output_modes;
        let (reader, guard) = io::pipe()?;
        let kept = [libc::STDIN_FILENO, reader.as_raw_fd()];
        child::start(c"berth-tty", &kept, || match restriction.apply() {
            Ok(()) => stand_guard(reader, &before, &raw),
            Err(error) => log::error!("{error}"),
        })?;
        Ok(Self { before, raw, guard })
    }

    /// Makes it raw, until dropped or until this process is gone.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn make_raw(&self) -> io::Result<()> {
        Ok(set(&self.raw)?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Without the terminal there is nothing to restore and nobody to tell.
        let _ = set(&self.before);
        let _ = self.guard.write_all(&[1]);
    }
}

/// The guard's life. A byte from berth means that it has restored the terminal itself, an end of
/// file that it has not.
fn stand_guard(mut reader: PipeReader, before: &Termios, raw: &Termios) {
    let left_alone = reader.read(&mut [0]).unwrap_or(0) == 0;
    // Whoever had the terminal next may have set modes of its own by now.
    if left_alone && tcgetattr(stdin()).is_ok_and(|now| same(&now, raw)) {
        let _ = set(before);
    }
}

fn same(a: &Termios, b: &Termios) -> bool {
    (a.input_modes, a.local_modes, a.control_modes)
        == (b.input_modes, b.local_modes, b.control_modes)
}

fn set(termios: &Termios) -> rustix::io::Result<()> {
    tcsetattr(stdin(), OptionalActions::Now, termios)
}
