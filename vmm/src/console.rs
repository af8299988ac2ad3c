//! The terminal of the guest's serial console.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::plan::ConsolePlan;

/// Why the console cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The file cannot be written.
    #[error("cannot write the console file {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The terminal cannot be put into raw mode.
    #[error("cannot put the terminal into raw mode")]
    Terminal(#[source] io::Error),
}

/// Both ends of the console.
pub struct Console {
    /// Where the guest's output goes; taken by the serial port.
    pub output: Box<dyn Write + Send>,
    /// Standard input, when the guest gets it.
    pub input: Option<Input>,
}

impl Console {
    /// Opens it as planned. A terminal is raw from here on, until [`Input`] is dropped.
    pub fn open(plan: &ConsolePlan) -> Result<Self, ConsoleError> {
        Ok(match plan {
            ConsolePlan::Stdio => Self {
                output: Box::new(io::stdout()),
                input: Some(Input::new().map_err(ConsoleError::Terminal)?),
            },
            ConsolePlan::File(path) => Self { output: Box::new(create(path)?), input: None },
            ConsolePlan::Off => Self { output: Box::new(io::sink()), input: None },
        })
    }
}

fn create(path: &Path) -> Result<std::fs::File, ConsoleError> {
    // What a guest prints may be secret; its reader is chosen by the operator.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map_err(|source| ConsoleError::File { path: path.to_owned(), source })
}

/// What the person at the console wants of berth itself, after Ctrl-A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `Ctrl-A p`: press the guest's power button.
    PowerButton,
    /// `Ctrl-A x`: end at once.
    Kill,
}

const ESCAPE: u8 = 0x01;

/// Standard input as the guest's keyboard.
pub struct Input {
    _raw: Option<RawMode>,
    escaped: bool,
}

impl Input {
    fn new() -> io::Result<Self> {
        let stdin = io::stdin();
        let raw = stdin.is_terminal().then(|| RawMode::set(stdin.as_raw_fd())).transpose()?;
        Ok(Self { _raw: raw, escaped: false })
    }

    /// Reads what is there, at most `room` bytes. `None` when the input has ended.
    ///
    /// Not through `std::io::Stdin`, whose buffer would hide input from the poll.
    pub fn read(&mut self, room: usize) -> io::Result<Option<(Vec<u8>, Option<Request>)>> {
        let mut bytes = vec![0; room];
        let mut stdin = StdinFd;
        let length = stdin.read(&mut bytes)?;
        bytes.truncate(length);
        if length == 0 {
            return Ok(None);
        }
        Ok(Some(filter_escape(&mut self.escaped, &bytes)))
    }
}

/// Takes Ctrl-A and the key after it out of `bytes`. Ctrl-A twice is one Ctrl-A for the guest.
fn filter_escape(escaped: &mut bool, bytes: &[u8]) -> (Vec<u8>, Option<Request>) {
    let (mut kept, mut request) = (Vec::new(), None);
    for byte in bytes {
        match (std::mem::take(escaped), *byte) {
            (false, ESCAPE) => *escaped = true,
            (false, byte) | (true, byte @ ESCAPE) => kept.push(byte),
            (true, b'x') => request = Some(Request::Kill),
            (true, b'p') => request = request.or(Some(Request::PowerButton)),
            (true, _) => {}
        }
    }
    (kept, request)
}

struct StdinFd;

impl Read for StdinFd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer is valid for its length.
        match unsafe { libc::read(libc::STDIN_FILENO, buffer.as_mut_ptr().cast(), buffer.len()) } {
            length @ 0.. => Ok(length as usize),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The terminal's modes from before, for whoever restores them.
static BEFORE: OnceLock<(RawFd, libc::termios)> = OnceLock::new();
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// A terminal in raw mode until dropped, also by a panic.
struct RawMode;

impl RawMode {
    fn set(fd: RawFd) -> io::Result<Self> {
        let mut termios = MaybeUninit::uninit();
        // SAFETY: `termios` is writable, and filled in when the call succeeds.
        let before = unsafe {
            if libc::tcgetattr(fd, termios.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            termios.assume_init()
        };
        BEFORE.get_or_init(|| (fd, before));
        let mut raw = before;
        // SAFETY: `raw` is a valid termios.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // Output is berth's as well as the guest's: its messages need their carriage returns.
        raw.c_oflag = before.c_oflag;
        // A panic aborts without dropping anything.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        IS_RAW.store(true, Ordering::Release);
        apply(fd, &raw).inspect_err(|_| restore())?;
        Ok(Self)
    }
}

fn apply(fd: RawFd, termios: &libc::termios) -> io::Result<()> {
    // SAFETY: `termios` is valid.
    match unsafe { libc::tcsetattr(fd, libc::TCSANOW, termios) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts the terminal back. May be called at any time, any number of times.
pub fn restore() {
    if IS_RAW.swap(false, Ordering::AcqRel)
        && let Some((fd, before)) = BEFORE.get()
    {
        // Without the terminal there is nothing to restore and nobody to tell.
        let _ = apply(*fd, before);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(bytes: &[u8]) -> (Vec<u8>, Option<Request>) {
        filter_escape(&mut false, bytes)
    }

    #[test]
    fn the_escape_key_is_berths() {
        assert_eq!(filter(b"ls\x03\r"), (b"ls\x03\r".to_vec(), None));
        assert_eq!(filter(b"a\x01xb"), (b"ab".to_vec(), Some(Request::Kill)));
        assert_eq!(filter(b"\x01p"), (vec![], Some(Request::PowerButton)));
        assert_eq!(filter(b"\x01\x01\x01q"), (vec![1], None));
    }

    #[test]
    fn an_escape_may_be_split_over_two_reads() {
        let mut escaped = false;
        assert_eq!(filter_escape(&mut escaped, b"\x01"), (vec![], None));
        assert_eq!(filter_escape(&mut escaped, b"x"), (vec![], Some(Request::Kill)));
    }

    #[test]
    fn a_console_file_that_cannot_be_made_is_named() {
        let error = create(Path::new("/nonexistent/console.log")).expect_err("no such folder");
        assert_eq!(error.to_string(), "cannot write the console file /nonexistent/console.log");
    }
}
