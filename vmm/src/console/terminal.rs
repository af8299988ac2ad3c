//! A terminal in raw mode, and back, whatever becomes of berth.
//!
//! A process that is killed restores nothing, and berth's own seccomp filters kill it. So a guard
//! does it: a child that does nothing but wait for berth's end.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

const STDIN: libc::c_int = libc::STDIN_FILENO;

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
    // SAFETY: neither call touches memory of ours.
    unsafe {
        if libc::isatty(STDIN) != 1 {
            State::None
        } else if libc::tcgetpgrp(STDIN) == libc::getpgrp() {
            State::Foreground
        } else {
            State::Background
        }
    }
}

/// The terminal on standard input with a guard beside it.
pub struct Terminal {
    before: libc::termios,
    raw: libc::termios,
    /// Tells the guard that there is nothing left to do.
    guard: PipeWriter,
}

impl Terminal {
    /// Starts the guard; the terminal stays as it is for now.
    ///
    /// To be called before anything is opened or mapped, because the child has it all too for a
    /// moment longer than berth, and while the process has one thread, because only that one is
    /// in the child.
    pub fn guarded() -> io::Result<Self> {
        let before = get()?;
        let mut raw = before;
        // SAFETY: `raw` is a valid termios.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // Output is berth's as well as the guest's: its messages need their carriage returns.
        raw.c_oflag = before.c_oflag;
        let (reader, guard) = io::pipe()?;
        // SAFETY: the child makes system calls and nothing else.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(guard);
                stand_guard(reader, &before, &raw)
            }
            _ => Ok(Self { before, raw, guard }),
        }
    }

    /// Makes it raw, until dropped or until this process is gone.
    pub fn make_raw(&self) -> io::Result<()> {
        set(&self.raw)
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
fn stand_guard(reader: PipeReader, before: &libc::termios, raw: &libc::termios) -> ! {
    // SAFETY: system calls on values of our own. The guard lets go of everything of berth's, so
    // that it neither keeps a device busy nor dies by a signal to berth's process group.
    unsafe {
        libc::setpgid(0, 0);
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_NAME, c"berth-tty".as_ptr());
        let keep = reader.as_raw_fd();
        for fd in 1..keep {
            libc::close(fd);
        }
        libc::syscall(libc::SYS_close_range, keep + 1, libc::c_uint::MAX, 0);
    }
    let mut byte = [0];
    let left_alone = File::from(OwnedFd::from(reader)).read(&mut byte).unwrap_or(0) == 0;
    // Whoever had the terminal next may have set modes of its own by now.
    if left_alone && get().is_ok_and(|now| same(&now, raw)) {
        let _ = set(before);
    }
    // SAFETY: ends this process, without running what berth has registered for its own end.
    unsafe { libc::_exit(0) }
}

fn same(a: &libc::termios, b: &libc::termios) -> bool {
    (a.c_iflag, a.c_lflag, a.c_cflag) == (b.c_iflag, b.c_lflag, b.c_cflag)
}

fn get() -> io::Result<libc::termios> {
    let mut termios = MaybeUninit::uninit();
    // SAFETY: `termios` is writable, and filled in when the call succeeds.
    unsafe {
        match libc::tcgetattr(STDIN, termios.as_mut_ptr()) {
            0 => Ok(termios.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn set(termios: &libc::termios) -> io::Result<()> {
    // SAFETY: `termios` is valid.
    match unsafe { libc::tcsetattr(STDIN, libc::TCSANOW, termios) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
