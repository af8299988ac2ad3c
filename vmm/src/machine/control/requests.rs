//! Signals that ask for an end, as the parent passes them on.

use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use event_manager::EventOps;

use super::RunError;
use super::event_loop::{Subscriber, unwatch, watch};
use super::shutdown::Request;
use crate::exit::Exit;

/// A byte for each signal. Its end is that of the parent, which the machine does not outlive.
pub struct Requests(PipeReader);

impl From<PipeReader> for Requests {
    fn from(reader: PipeReader) -> Self {
        Self(reader)
    }
}

impl AsFd for Requests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Subscriber for Requests {
    fn start(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError> {
        watch(ops, &self.0).map(drop)
    }

    fn serve(&mut self, _: RawFd, ops: &mut EventOps<'_>) -> Result<Option<Request>, RunError> {
        // One at a time: each asks anew.
        match self.0.read(&mut [0]) {
            Ok(0) => {
                unwatch(ops, &self.0);
                Ok(Some(Request::End(Exit::Killed)))
            }
            Ok(_) => Ok(Some(Request::Terminate)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(RunError::System { doing: "read signals", source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::*;
    use crate::machine::control::event_loop::EventLoop;

    #[test]
    fn each_signal_asks_once_and_the_parents_end_is_the_end() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let mut requests = Requests::from(reader);
        let mut events = EventLoop::new().expect("an epoll");
        events.add(&mut requests).expect("it is watched");
        writer.write_all(&[1, 1]).expect("a pipe takes that");
        for _ in 0..2 {
            assert_eq!(events.wait(None).ok(), Some(vec![Request::Terminate]));
        }
        drop(writer);
        assert_eq!(events.wait(None).ok(), Some(vec![Request::End(Exit::Killed)]));
    }
}
