//! The terminal of the guest's serial console.

mod output;
mod terminal;

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::plan::ConsolePlan;
use output::Output;
use terminal::{State, Terminal};

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
    /// Standard output is closed.
    #[error("cannot use standard output as the console")]
    Output(#[source] io::Error),
}

/// Both ends of the console.
pub struct Console {
    /// Where the guest's output goes; taken by the serial port.
    pub output: Box<dyn Write + Send>,
    /// Standard input, when the guest gets it.
    pub input: Option<Input>,
}

impl Console {
    /// Opens it as planned. A terminal is raw from here on, until [`Input`] is dropped or the
    /// process is gone, whichever way.
    pub fn open(plan: &ConsolePlan, keyboard: Option<Keyboard>) -> Result<Self, ConsoleError> {
        let output: Box<dyn Write + Send> = match plan {
            ConsolePlan::Stdio => Box::new(Output::stdout().map_err(ConsoleError::Output)?),
            ConsolePlan::File(path) => Box::new(Output::from(create(path)?)),
            ConsolePlan::Off => Box::new(io::sink()),
        };
        let input = keyboard.map(|Keyboard(terminal)| {
            terminal.as_ref().map_or(Ok(()), Terminal::make_raw)?;
            Ok(Input { _terminal: terminal, escaped: false })
        });
        Ok(Self { output, input: input.transpose().map_err(ConsoleError::Terminal)? })
    }
}

/// Standard input, before the guest gets it.
pub struct Keyboard(Option<Terminal>);

impl Keyboard {
    /// Standard input if the plan gives it to the guest. A terminal gets its guard, so this comes
    /// before anything else is opened or started.
    ///
    /// `None` also for a terminal that another job has: reading it would stop berth.
    pub fn prepare(plan: &ConsolePlan) -> Result<Option<Self>, ConsoleError> {
        if *plan != ConsolePlan::Stdio {
            return Ok(None);
        }
        Ok(match terminal::state() {
            State::None => Some(Self(None)),
            State::Background => None,
            State::Foreground => {
                Some(Self(Some(Terminal::guarded().map_err(ConsoleError::Terminal)?)))
            }
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
    _terminal: Option<Terminal>,
    escaped: bool,
}

impl Input {
    /// Reads what is there, at most `room` bytes. `None` when the input has ended.
    pub fn read(&mut self, room: usize) -> io::Result<Option<(Vec<u8>, Option<Request>)>> {
        let mut bytes = vec![0; room];
        let length = StandardInput.read(&mut bytes)?;
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

/// Not `std::io::Stdin`, whose buffer would hide input from the poll.
struct StandardInput;

impl Read for StandardInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer is valid for its length.
        match unsafe { libc::read(libc::STDIN_FILENO, buffer.as_mut_ptr().cast(), buffer.len()) } {
            length @ 0.. => Ok(length as usize),
            _ => Err(io::Error::last_os_error()),
        }
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
