//! The console's input, on its way to the guest.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Instant;

use event_manager::EventOps;

use super::RunError;
use super::event_loop::{Readiness, Subscriber, unwatch, watch};
use super::shutdown::Request;
use crate::exit::Exit;
use crate::machine::console::{self, Input, SerialConsole};

/// Bytes that are read ahead of the guest, as many as a terminal holds for a process that does not
/// read (`N_TTY_BUF_SIZE`, drivers/tty/n_tty.c).
const AHEAD: usize = 4096;

/// Moves input to the guest. It is read ahead of a guest that has no room for it, so that the keys
/// for berth work on a guest that hangs.
pub struct ConsoleInput<'a> {
    input: Option<&'a mut Input>,
    console: &'a SerialConsole,
    /// Read, and not given to the guest yet; at most [`AHEAD`] bytes.
    typed: Vec<u8>,
    state: State,
}

/// Whether input is waited for. It is not while there is too much of it: epoll would report it, or
/// that its other end is gone, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The guest is too far behind, or there is no input any more.
    Idle,
    /// epoll tells.
    Watched,
    /// It is ready since then: epoll does not take files.
    Ready(Instant),
}

impl<'a> ConsoleInput<'a> {
    /// `input` goes to `console`.
    pub fn new(input: Option<&'a mut Input>, console: &'a SerialConsole) -> Self {
        Self { input, console, typed: Vec::new(), state: State::Idle }
    }

    /// Waits for input, unless the guest is too far behind.
    fn resume(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError> {
        if let (State::Idle, Some(input), ..AHEAD) = (self.state, &self.input, self.typed.len()) {
            self.state = match watch(ops, &input.as_fd())? {
                Readiness::Told => State::Watched,
                Readiness::Always => State::Ready(Instant::now()),
            };
        }
        Ok(())
    }

    /// Reads what is there; what berth itself is asked for is returned. Calls `idle` before input
    /// is no longer waited for.
    fn read(&mut self, idle: impl FnOnce(&Input)) -> Option<Request> {
        let input = self.input.as_mut()?;
        let (ended, request) = match input.read(AHEAD - self.typed.len()) {
            Ok(Some((bytes, request))) => {
                self.typed.extend(bytes);
                (false, request)
            }
            // No more input; the guest goes on without.
            Ok(None) => (true, None),
            Err(error) => {
                log::warn!("standard input cannot be read any more: {error}");
                (true, None)
            }
        };
        feed(self.console, &mut self.typed);
        if ended || self.typed.len() == AHEAD {
            idle(input);
            self.state = State::Idle;
        }
        if ended {
            self.input = None;
        }
        request.map(|request| match request {
            console::Request::Kill => Request::End(Exit::Killed),
            console::Request::PowerButton => Request::PowerButton,
        })
    }
}

/// Gives the guest what it has room for. A port in loopback mode loses it, as a real one does.
fn feed(console: &SerialConsole, typed: &mut Vec<u8>) {
    let length = console.room().min(typed.len());
    if length > 0 {
        console.input(&typed[..length]);
        typed.drain(..length);
    }
}

impl Subscriber for ConsoleInput<'_> {
    fn start(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError> {
        if self.input.is_some() {
            watch(ops, self.console.drained())?;
        }
        self.resume(ops)
    }

    fn serve(&mut self, fd: RawFd, ops: &mut EventOps<'_>) -> Result<Option<Request>, RunError> {
        if fd == self.console.drained().as_raw_fd() {
            let _ = self.console.drained().read();
            feed(self.console, &mut self.typed);
            self.resume(ops)?;
            return Ok(None);
        }
        Ok(self.read(|input| unwatch(ops, &input.as_fd())))
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Ready(since) => Some(since),
            State::Idle | State::Watched => None,
        }
    }

    fn expire(&mut self, _: Instant) -> Result<Option<Request>, RunError> {
        match self.state {
            // Nothing to unwatch: epoll never had it.
            State::Ready(_) => Ok(self.read(|_| {})),
            State::Idle | State::Watched => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Seek, Write};
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;
    use crate::machine::console::Output;
    use crate::machine::control::event_loop::EventLoop;

    fn serial() -> SerialConsole {
        let irq = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        SerialConsole::new(irq, Output::new(Box::new(io::sink()), "nothing")).expect("a console")
    }

    /// What the guest finds in its port, to the last byte.
    fn guest_reads(console: &SerialConsole, capacity: usize) -> Vec<u8> {
        let mut bytes = vec![0; capacity - console.room()];
        bytes.iter_mut().for_each(|byte| console.read(0, std::slice::from_mut(byte)));
        bytes
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    /// All that a guest gets of `source`, which ends.
    fn carried(source: OwnedFd) -> Vec<u8> {
        let (console, mut input) = (serial(), Input::from(source));
        let capacity = console.room();
        let mut events = EventLoop::new().expect("an epoll");
        events.add(ConsoleInput::new(Some(&mut input), &console)).expect("it starts");
        let (mut got, mut silent) = (Vec::new(), 0);
        // One wait may be for the news that there is room again.
        while silent < 2 {
            assert_eq!(events.wait(soon()).ok(), Some(vec![]));
            let bytes = guest_reads(&console, capacity);
            silent = if bytes.is_empty() { silent + 1 } else { 0 };
            got.extend(bytes);
        }
        got
    }

    /// More than is read ahead.
    fn text() -> Vec<u8> {
        (b'a'..=b'z').cycle().take(2 * AHEAD).collect()
    }

    #[test]
    fn a_guest_gets_all_of_a_pipe() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(&text()).expect("a pipe takes that");
        drop(writer);
        assert_eq!(carried(reader.into()), text());
    }

    /// epoll refuses files (`EPERM`).
    #[test]
    fn a_guest_gets_all_of_a_file() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&text()).expect("a file takes that");
        file.rewind().expect("a file");
        assert_eq!(carried(file.into()), text());
    }

    #[test]
    fn no_input_at_all_ends_without_a_word() {
        assert_eq!(carried(File::open("/dev/null").expect("a device").into()), Vec::<u8>::new());
    }

    /// One wait must be one sleep: input that the guest is too far behind for is not looked at.
    #[test]
    fn input_that_nobody_takes_does_not_keep_the_thread_busy() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(&text()).expect("a pipe takes that");
        drop(writer);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&text()).expect("a file takes that");
        file.rewind().expect("a file");
        for source in [OwnedFd::from(reader), OwnedFd::from(file)] {
            let (console, mut input) = (serial(), Input::from(source));
            let mut events = EventLoop::new().expect("an epoll");
            events.add(ConsoleInput::new(Some(&mut input), &console)).expect("it starts");
            // One fills the port, the next what is read ahead.
            for _ in 0..2 {
                assert_eq!(events.wait(soon()).ok(), Some(vec![]));
            }
            let start = Instant::now();
            assert_eq!(events.wait(soon()).ok(), Some(vec![]));
            assert!(start.elapsed() >= Duration::from_millis(15), "{:?}", start.elapsed());
        }
    }

    #[test]
    fn keys_for_berth_work_on_a_guest_that_hangs() {
        for (keys, request) in
            [(b"\x01p", Request::PowerButton), (b"\x01x", Request::End(Exit::Killed))]
        {
            let (reader, mut writer) = io::pipe().expect("a pipe");
            // More than the port holds.
            writer.write_all(&text()[..AHEAD / 2]).expect("a pipe takes that");
            writer.write_all(keys).expect("a pipe takes that");
            let (console, mut input) = (serial(), Input::from(OwnedFd::from(reader)));
            let mut events = EventLoop::new().expect("an epoll");
            events.add(ConsoleInput::new(Some(&mut input), &console)).expect("it starts");
            assert_eq!(events.wait(soon()).ok(), Some(vec![request]));
        }
    }
}
