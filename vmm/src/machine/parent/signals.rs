//! Signals that ask for an end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};

use vmm_sys_util::signal::{block_signal, create_sigset, unblock_signal};

/// Signals that ask for an end.
const END_SIGNALS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The signals that ask for an end, taken over: they are blocked in the thread that made this and
/// in all that it has started since, and read from a descriptor.
///
/// Dropping it gives them back their meaning in the calling thread: a berth without a machine,
/// which waits for its guard or for a reader of its messages, ends by them as any process does.
pub struct Signals(File);

impl Signals {
    /// Takes them over. To be called before the first thread.
    ///
    /// # Errors
    /// The host refuses a descriptor.
    pub fn take() -> io::Result<Self> {
        let os = |errno: i32| io::Error::from_raw_os_error(errno);
        let set = create_sigset(&END_SIGNALS).map_err(|error| os(error.errno()))?;
        // SAFETY: `set` is a valid signal set; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and owned by nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        for signal in END_SIGNALS {
            use vmm_sys_util::signal::Error::SignalAlreadyBlocked;
            match block_signal(signal) {
                // By whoever started berth.
                Ok(()) | Err(SignalAlreadyBlocked(_)) => {}
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        }
        Ok(Self(file))
    }

    /// Takes one pending signal; returns whether there was one.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub fn take_one(&mut self) -> io::Result<bool> {
        let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
        match self.0.read(&mut buffer) {
            Ok(length) => Ok(length > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Those that came while the machine ended have asked for what is done.
        while self.take_one().is_ok_and(|taken| taken) {}
        for signal in END_SIGNALS {
            // One that cannot be given back stays blocked, as it was until now.
            let _ = unblock_signal(signal);
        }
    }
}

impl Signals {
    /// They stay blocked: another process reads them.
    pub fn leave_blocked(self) {
        // Its descriptor is of no use in this process, where nothing is pending for it.
        std::mem::forget(self);
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use vmm_sys_util::signal::get_blocked_signals;

    use super::*;

    /// Signals to a thread are its own: the other tests go on.
    #[test]
    fn each_signal_asks_once_and_none_is_left_behind() {
        let thread = thread::Builder::new().spawn(|| {
            let mut signals = Signals::take().expect("a descriptor");
            // SAFETY: sends a signal to the calling thread, which blocks it.
            let raise = |signal| assert_eq!(unsafe { libc::raise(signal) }, 0);
            raise(libc::SIGTERM);
            raise(libc::SIGHUP);
            let taken: Vec<_> = (0..3).map(|_| signals.take_one().ok()).collect();
            assert_eq!(taken, [Some(true), Some(true), Some(false)]);
            // One that comes late must not end this process when it is unblocked.
            raise(libc::SIGINT);
            drop(signals);
            get_blocked_signals().expect("a mask")
        });
        let blocked = thread.expect("a thread").join().expect("it does not panic");
        assert!(END_SIGNALS.iter().all(|signal| !blocked.contains(signal)), "{blocked:?}");
    }
}
