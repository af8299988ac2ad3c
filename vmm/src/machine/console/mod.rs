//! The guest's serial console, and the terminal, file, pipe or socket behind it.

mod output;
mod panic_line;
mod serial_console;
mod terminal;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::host::{MachineFiles, refusal_of_open};
use crate::plan::ConsolePlan;
use crate::sandbox::Restriction;
use crate::units::ConsoleKind;
pub use output::Output;
pub use serial_console::SerialConsole;
use terminal::{State, Terminal};

/// Why the console cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The file cannot be written.
    #[error("cannot write the console to {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It is nothing that a guest may write to.
    #[error("the console's {} {reason}", .path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// The rest of a sentence.
        reason: &'static str,
    },
    /// The terminal cannot be put into raw mode.
    #[error("cannot put the terminal into raw mode")]
    Terminal(#[source] io::Error),
    /// Standard input stays open.
    #[error("cannot close standard input, which the guest does not get")]
    Input(#[source] io::Error),
    /// Standard output is closed.
    #[error("cannot use standard output as the console")]
    Output(#[source] io::Error),
}

/// Both ends of the console.
pub struct Console {
    /// Where the guest's output goes.
    pub output: Output,
    /// Standard input, when the guest gets it.
    pub input: Option<Input>,
}

impl Console {
    /// Opens it as planned. A terminal is raw from here on, until [`Input`] is dropped or the
    /// process is gone, whichever way.
    pub fn open(plan: &ConsolePlan, keyboard: Option<Keyboard>) -> Result<Self, ConsoleError> {
        let output = match plan {
            ConsolePlan::Stdio => Output::stdout().map_err(ConsoleError::Output)?,
            ConsolePlan::File { path, limit, machine } => {
                Output::file(create(path, machine)?, path, *limit)
            }
            ConsolePlan::Fifo { path } => Output::lossy(open_fifo(path)?, path),
            ConsolePlan::Socket { path } => {
                let socket = connect(path)?;
                let input = socket.try_clone().map_err(|source| not_open(path, source))?;
                let output = Output::lossy(socket, path);
                return Ok(Self { output, input: Some(Input::from(OwnedFd::from(input))) });
            }
            ConsolePlan::Off => Output::new(Box::new(io::sink()), "nothing"),
        };
        let input = keyboard.map(|Keyboard(terminal)| {
            terminal.as_ref().map_or(Ok(()), Terminal::make_raw)?;
            let source = io::stdin().as_fd().try_clone_to_owned()?;
            Ok(Input { _terminal: terminal, ..Input::from(source) })
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
    pub fn prepare(
        plan: &ConsolePlan,
        restriction: &Restriction,
    ) -> Result<Option<Self>, ConsoleError> {
        if *plan != ConsolePlan::Stdio {
            close_input().map_err(ConsoleError::Input)?;
            return Ok(None);
        }
        Ok(match terminal::state() {
            State::None => Some(Self(None)),
            State::Background => None,
            State::Foreground => {
                Some(Self(Some(Terminal::guarded(restriction).map_err(ConsoleError::Terminal)?)))
            }
        })
    }
}

/// Puts `/dev/null` in the place of a standard input that is not the guest's: a terminal would
/// otherwise be at hand for who breaks out.
fn close_input() -> io::Result<()> {
    Ok(rustix::stdio::dup2_stdin(File::open("/dev/null")?)?)
}

fn not_open(path: &Path, source: io::Error) -> ConsoleError {
    ConsoleError::File { path: path.to_owned(), source }
}

/// Opened to be read, too, so that nobody has to read it yet, and it does not end when somebody no
/// longer does.
fn open_fifo(path: &Path) -> Result<File, ConsoleError> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;
    let fifo = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let fifo = fifo.map_err(|source| not_open(path, source))?;
    match refusal_of_open(&fifo, ConsoleKind::Fifo, &MachineFiles::default()) {
        Some(reason) => Err(ConsoleError::Unfit { path: path.to_owned(), reason }),
        None => Ok(fifo),
    }
}

/// Connects to who listens at the socket, without a wait for one that does not.
fn connect(path: &Path) -> Result<File, ConsoleError> {
    let connected = || -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    connected().map(File::from).map_err(|error| not_open(path, error.into()))
}

/// Nothing is waited for, and nothing is lost of a file that turns out to be another one.
fn create(path: &Path, machine: &MachineFiles) -> Result<File, ConsoleError> {
    let failed = |source| ConsoleError::File { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    // What a guest prints may be secret; its reader is chosen by the operator.
    options.write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY);
    let file = options.open(path).map_err(failed)?;
    if let Some(reason) = refusal_of_open(&file, ConsoleKind::File, machine) {
        return Err(ConsoleError::Unfit { path: path.to_owned(), reason });
    }
    file.set_len(0).map_err(failed)?;
    Ok(file)
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

/// Standard input as the guest's keyboard. Not `std::io::Stdin`, whose buffer would hide input
/// from whoever waits for it.
pub struct Input {
    source: OwnedFd,
    _terminal: Option<Terminal>,
    escaped: bool,
}

impl From<OwnedFd> for Input {
    fn from(source: OwnedFd) -> Self {
        Self { source, _terminal: None, escaped: false }
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl Input {
    /// Reads what is there, at most `room` bytes. `None` when the input has ended.
    ///
    /// # Errors
    /// The input cannot be read any more: `EIO` of a terminal that has gone, for instance.
    pub fn read(&mut self, room: usize) -> io::Result<Option<(Vec<u8>, Option<Request>)>> {
        let mut bytes = vec![0; room];
        match rustix::io::read(&self.source, &mut bytes) {
            Ok(0) => return Ok(None),
            Ok(length) => bytes.truncate(length),
            // Another process that shares standard input has read it first, or has made it
            // non-blocking.
            Err(Errno::AGAIN | Errno::INTR) => bytes.clear(),
            Err(error) => return Err(error.into()),
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use rustix::pipe::PipeFlags;

    use super::*;
    use crate::plan::SandboxPlan;
    use crate::sandbox::{Mode, Restrictions, Role};

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
        let error = create(Path::new("/nonexistent/console.log"), &MachineFiles::default())
            .expect_err("no such folder");
        assert_eq!(error.to_string(), "cannot write the console to /nonexistent/console.log");
    }

    #[test]
    fn a_console_file_is_its_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file =
            create(&folder.path().join("console.log"), &MachineFiles::default()).expect("a file");
        let mode = file.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "guests may print secrets");
    }

    /// Between the plan and this somebody may have put another file there.
    #[test]
    fn nothing_is_lost_or_waited_for_when_the_console_file_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("kernel"), "a kernel").expect("a file");
        std::fs::hard_link(at("kernel"), at("log")).expect("a link");
        std::os::unix::fs::symlink("kernel", at("link")).expect("a link");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), mode).expect("a FIFO");
        let machine = MachineFiles { kernel: Some(at("kernel")), ..MachineFiles::default() };
        for name in ["kernel", "log", "link", "fifo"] {
            assert!(create(&at(name), &machine).is_err(), "{name}");
        }
        // With a reader it can be opened.
        let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(at("fifo"));
        let error = create(&at("fifo"), &machine).expect_err("it is none");
        assert!(error.to_string().contains("is a pipe (FIFO), not a file"), "{error}");
        assert_eq!(std::fs::read(at("kernel")).expect("a file"), b"a kernel");
    }

    #[test]
    fn a_fifo_takes_what_fits_and_holds_nobody_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        std::fs::write(folder.path().join("file"), "").expect("a file");
        assert!(open_fifo(&folder.path().join("file")).is_err(), "it is none");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("a FIFO");
        let plan = ConsolePlan::Fifo { path: path.clone() };
        let Console { output, input } = Console::open(&plan, None).expect("nobody reads it yet");
        assert!(input.is_none());
        let mut reader = File::open(&path).expect("it can be read");
        output.queue().write_all(b"first").expect("a queue takes all");
        // More than a pipe holds: the rest is lost.
        output.queue().write_all(&[b'x'; 1 << 20]).expect("a queue takes all");
        output.flush();
        let mut text = [0; 5];
        reader.read_exact(&mut text).expect("it is there");
        assert_eq!(&text, b"first");
    }

    #[test]
    fn a_socket_is_both_ways() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let plan = ConsolePlan::Socket { path: path.clone() };
        assert!(Console::open(&plan, None).is_err(), "nobody listens");
        let listener = UnixListener::bind(&path).expect("a socket");
        let Console { output, input } = Console::open(&plan, None).expect("somebody listens");
        let (mut peer, _) = listener.accept().expect("berth has connected");
        output.queue().write_all(b"login:").expect("a queue takes all");
        output.flush();
        let mut text = [0; 6];
        peer.read_exact(&mut text).expect("it is there");
        assert_eq!(&text, b"login:");
        peer.write_all(b"root").expect("a socket takes four bytes");
        let mut input = input.expect("a socket has an input");
        assert_eq!(input.read(8).ok(), Some(Some((b"root".to_vec(), None))));
        drop(peer);
        assert_eq!(input.read(8).ok(), Some(None));
        // Nobody is left to read: neither a signal nor an error to the guest.
        output.queue().write_all(b"lost").expect("a queue takes all");
        output.flush();
    }

    #[test]
    fn standard_input_is_closed_where_the_guest_has_none() {
        let restriction = Restrictions::new(Mode::Off, &SandboxPlan::default()).of(Role::Terminal);
        // SAFETY: the C library keeps the heap usable in a child, which ends without unwinding.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let closed =
                Keyboard::prepare(&ConsolePlan::Off, &restriction).is_ok_and(|none| none.is_none());
            let input = std::fs::read_link("/proc/self/fd/0");
            let closed = closed && input.is_ok_and(|input| input == Path::new("/dev/null"));
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!closed)) }
        }
        let mut status = 0;
        // SAFETY: `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
    }

    #[test]
    fn input_that_another_reader_took_has_not_ended() {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).expect("a pipe");
        let mut input = Input::from(reader);
        assert_eq!(input.read(8).ok(), Some(Some((vec![], None))));
        rustix::io::write(&writer, b"ls").expect("a pipe takes two bytes");
        assert_eq!(input.read(8).ok(), Some(Some((b"ls".to_vec(), None))));
        drop(writer);
        assert_eq!(input.read(8).ok(), Some(None));
    }
}
