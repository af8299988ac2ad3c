//! The loop of the control thread: `event-manager` over epoll, and what that crate lacks.
//!
//! Each of these is a gap that could be closed there:
//! - `init` and `process` of its subscribers return nothing. A [`Subscriber`] of this loop can
//!   fail, and says what it asks for.
//! - It has no timers. A [`Subscriber`] names its next deadline, and the wait ends by then; a
//!   timerfd each would need system calls of their own in the seccomp filter.
//! - epoll refuses what cannot be waited for (`EPERM`): a regular file, `/dev/null`. poll(2) calls
//!   such a descriptor ready, and so does [`watch`].
//! - A descriptor that is closed before it is removed stays in the crate's tables: the next one of
//!   that number is refused as registered twice, and an event of a copy that is still open runs
//!   into `unreachable!`. [`unwatch`] comes before a descriptor is closed.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use event_manager::{
    Error, EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId,
    SubscriberOps,
};

use super::RunError;
use super::shutdown::Request;

/// A source of events.
pub trait Subscriber {
    /// Registers what it waits for.
    ///
    /// # Errors
    /// The host refuses it.
    fn start(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError>;

    /// Something that it waits for is ready.
    ///
    /// # Errors
    /// The machine cannot go on.
    fn serve(&mut self, fd: RawFd, ops: &mut EventOps<'_>) -> Result<Option<Request>, RunError>;

    /// When it has to be called without an event.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Time has passed. Called after each wait, with or without an event.
    ///
    /// # Errors
    /// The machine cannot go on.
    fn expire(&mut self, _now: Instant) -> Result<Option<Request>, RunError> {
        Ok(None)
    }
}

impl<S: Subscriber> Subscriber for &mut S {
    fn start(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError> {
        (**self).start(ops)
    }

    fn serve(&mut self, fd: RawFd, ops: &mut EventOps<'_>) -> Result<Option<Request>, RunError> {
        (**self).serve(fd, ops)
    }

    fn deadline(&self) -> Option<Instant> {
        (**self).deadline()
    }

    fn expire(&mut self, now: Instant) -> Result<Option<Request>, RunError> {
        (**self).expire(now)
    }
}

/// Whether epoll tells when a descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// An event comes for it.
    Told,
    /// It is always ready, and no event ever comes for it.
    Always,
}

/// Waits for input on `fd` from now on.
///
/// # Errors
/// `ENOSPC` or `ENOMEM` of epoll_ctl(2).
pub fn watch(ops: &mut EventOps<'_>, fd: &impl AsRawFd) -> Result<Readiness, RunError> {
    match ops.add(Events::new_raw(fd.as_raw_fd(), EventSet::IN)) {
        Ok(()) => Ok(Readiness::Told),
        Err(Error::Epoll(error)) if error.errno() == libc::EPERM => Ok(Readiness::Always),
        Err(error) => Err(failed(error)),
    }
}

/// Waits for `fd` no longer. To be called before it is closed.
pub fn unwatch(ops: &mut EventOps<'_>, fd: &impl AsRawFd) {
    // One that is not watched is none the less not watched.
    let _ = ops.remove(Events::empty_raw(fd.as_raw_fd()));
}

fn failed(error: Error) -> RunError {
    let source = match error {
        Error::Epoll(error) => io::Error::from_raw_os_error(error.errno()),
        error => io::Error::other(error.to_string()),
    };
    RunError::System { doing: "wait for events", source }
}

/// A subscriber as `event-manager` has it.
struct Adapter<'a> {
    subscriber: Box<dyn Subscriber + 'a>,
    said: Vec<Result<Request, RunError>>,
}

impl MutEventSubscriber for Adapter<'_> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.said.extend(self.subscriber.start(ops).err().map(Err));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        self.said.extend(self.subscriber.serve(events.fd(), ops).transpose());
    }
}

/// All subscribers, and the wait for them.
pub struct EventLoop<'a> {
    manager: EventManager<Adapter<'a>>,
    /// In the order in which they were added.
    subscribers: Vec<SubscriberId>,
}

impl<'a> EventLoop<'a> {
    /// A loop that waits for nothing yet.
    ///
    /// # Errors
    /// The host refuses an epoll descriptor.
    pub fn new() -> Result<Self, RunError> {
        Ok(Self { manager: EventManager::new().map_err(failed)?, subscribers: Vec::new() })
    }

    /// Adds a subscriber.
    ///
    /// # Errors
    /// It cannot start.
    pub fn add(&mut self, subscriber: impl Subscriber + 'a) -> Result<(), RunError> {
        let adapter = Adapter { subscriber: Box::new(subscriber), said: Vec::new() };
        let id = self.manager.add_subscriber(adapter);
        self.subscribers.push(id);
        self.adapter(id).said.drain(..).try_for_each(|said| said.map(drop))
    }

    /// Waits for events, until the first deadline of a subscriber or `deadline`; returns what the
    /// subscribers ask for, those that were added first before the others. May return without.
    ///
    /// # Errors
    /// A subscriber says that the machine cannot go on, or the host refuses to wait.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Result<Vec<Request>, RunError> {
        let ids = self.subscribers.clone();
        let own = ids.iter().filter_map(|id| self.adapter(*id).subscriber.deadline());
        let next = own.chain(deadline).min();
        self.manager.run_with_timeout(timeout_ms(next, Instant::now())).map_err(failed)?;
        let now = Instant::now();
        let mut requests = Vec::new();
        for id in ids {
            // What a subscriber asks for after an event comes before what follows from time.
            let adapter = self.adapter(id);
            for said in adapter.said.drain(..) {
                requests.push(said?);
            }
            requests.extend(adapter.subscriber.expire(now)?);
        }
        Ok(requests)
    }

    fn adapter(&mut self, id: SubscriberId) -> &mut Adapter<'a> {
        self.manager.subscriber_mut(id).expect("a subscriber is never removed")
    }
}

/// Milliseconds until `deadline`, as epoll_wait(2) takes them: rounded up, so that the deadline has
/// passed when the wait is over, and -1 without one.
fn timeout_ms(deadline: Option<Instant>, now: Instant) -> i32 {
    let Some(deadline) = deadline else { return -1 };
    let wait = deadline.saturating_duration_since(now);
    i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;
    use std::os::fd::{BorrowedFd, OwnedFd};
    use std::time::Duration;

    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;
    use crate::exit::Exit;

    /// Asks for an end whenever one of its descriptors is ready, or its time is up.
    struct Fake<'a> {
        fds: Vec<&'a EventFd>,
        deadline: Option<Instant>,
        served: &'a Cell<u32>,
    }

    impl<'a> Fake<'a> {
        fn new(fds: impl IntoIterator<Item = &'a EventFd>, served: &'a Cell<u32>) -> Self {
            Self { fds: fds.into_iter().collect(), deadline: None, served }
        }
    }

    impl Subscriber for Fake<'_> {
        fn start(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError> {
            self.fds.iter().try_for_each(|fd| {
                assert_eq!(watch(ops, *fd)?, Readiness::Told);
                Ok(())
            })
        }

        fn serve(
            &mut self,
            fd: RawFd,
            ops: &mut EventOps<'_>,
        ) -> Result<Option<Request>, RunError> {
            self.served.set(self.served.get() + 1);
            let fd = self.fds.iter().find(|own| own.as_raw_fd() == fd).expect("one of its own");
            unwatch(ops, *fd);
            Ok(Some(Request::PowerButton))
        }

        fn deadline(&self) -> Option<Instant> {
            self.deadline
        }

        fn expire(&mut self, now: Instant) -> Result<Option<Request>, RunError> {
            let late = self.deadline.is_some_and(|deadline| deadline <= now);
            Ok(late.then_some(Request::End(Exit::Forced)))
        }
    }

    fn rung() -> EventFd {
        let fd = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        fd.write(1).expect("an eventfd takes a signal");
        fd
    }

    #[test]
    fn what_is_ready_is_served_and_what_is_unwatched_is_not() {
        let (fd, served) = (rung(), Cell::new(0));
        let mut events = EventLoop::new().expect("an epoll");
        events.add(Fake::new([&fd], &served)).expect("an eventfd can be watched");
        let soon = || Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(events.wait(soon()).ok(), Some(vec![Request::PowerButton]));
        assert_eq!(events.wait(soon()).ok(), Some(vec![]));
        assert_eq!(served.get(), 1);
    }

    #[test]
    fn a_wait_ends_by_the_first_deadline() {
        let served = Cell::new(0);
        let mut fake = Fake::new([], &served);
        fake.deadline = Some(Instant::now() + Duration::from_millis(5));
        let mut events = EventLoop::new().expect("an epoll");
        events.add(fake).expect("nothing to watch");
        let start = Instant::now();
        let later = start + Duration::from_secs(600);
        assert_eq!(events.wait(Some(later)).ok(), Some(vec![Request::End(Exit::Forced)]));
        assert!(start.elapsed() < Duration::from_secs(300));
    }

    #[test]
    fn a_descriptor_that_is_watched_twice_is_an_error() {
        let (fd, served) = (rung(), Cell::new(0));
        let mut events = EventLoop::new().expect("an epoll");
        let error = events.add(Fake::new([&fd, &fd], &served)).expect_err("once is enough");
        assert!(matches!(error, RunError::System { doing: "wait for events", .. }));
    }

    /// Closes its descriptor when it is ready.
    struct Once(Option<OwnedFd>);

    impl Subscriber for Once {
        fn start(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError> {
            watch(ops, self.0.as_ref().expect("not closed yet")).map(drop)
        }

        fn serve(&mut self, _: RawFd, ops: &mut EventOps<'_>) -> Result<Option<Request>, RunError> {
            let fd = self.0.take().expect("no event comes once it is closed");
            unwatch(ops, &fd);
            Ok(Some(Request::PowerButton))
        }
    }

    #[test]
    fn a_closed_descriptors_number_can_be_watched_again() {
        // Above those that other tests use meanwhile.
        let (fd, high) = (rung(), 900);
        let copy = || {
            // SAFETY: borrows a descriptor for the time of the call.
            let fd = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
            rustix::io::fcntl_dupfd_cloexec(fd, high).expect("a copy")
        };
        let mut events = EventLoop::new().expect("an epoll");
        for _ in 0..2 {
            let copy = copy();
            assert_eq!(copy.as_raw_fd(), high);
            events.add(Once(Some(copy))).expect("the number is free");
            // What the copy is of stays open, and rung.
            assert_eq!(events.wait(None).ok(), Some(vec![Request::PowerButton]));
        }
    }

    #[test]
    fn what_epoll_refuses_is_always_ready() {
        struct Refused(Vec<File>);
        impl Subscriber for Refused {
            fn start(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError> {
                self.0.iter().try_for_each(|file| {
                    assert_eq!(watch(ops, file)?, Readiness::Always, "{file:?}");
                    unwatch(ops, file);
                    Ok(())
                })
            }

            fn serve(
                &mut self,
                _: RawFd,
                _: &mut EventOps<'_>,
            ) -> Result<Option<Request>, RunError> {
                unreachable!("no event ever comes")
            }
        }
        let files = ["/proc/self/exe", "/dev/null"].map(|path| File::open(path).expect("a file"));
        let mut events = EventLoop::new().expect("an epoll");
        events.add(Refused(files.into())).expect("no error");
    }

    #[test]
    fn waits_are_rounded_up_and_bounded() {
        let now = Instant::now();
        let after = |nanos| timeout_ms(Some(now + Duration::from_nanos(nanos)), now);
        assert_eq!(timeout_ms(None, now), -1);
        assert_eq!((after(0), after(1), after(1_000_000), after(1_000_001)), (0, 1, 1, 2));
        assert_eq!(timeout_ms(Some(now), now + Duration::from_secs(1)), 0);
        assert_eq!(timeout_ms(Some(now + Duration::from_secs(1 << 40)), now), i32::MAX);
    }
}
