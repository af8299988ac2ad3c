//! Where the guest's output goes, in a way that cannot hold a vCPU back for ever.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};

/// A descriptor that is written without a buffer.
///
/// A reader that has stopped reading stops the guest, as a serial line with flow control would.
/// But it must not stop berth: a write that a kick interrupts fails, where the standard library
/// would start it again, so that a vCPU can always be taken out.
pub struct Output(File);

impl From<File> for Output {
    fn from(file: File) -> Self {
        Self(file)
    }
}

impl Output {
    /// Standard output.
    pub fn stdout() -> io::Result<Self> {
        Ok(Self(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }
}

impl Write for Output {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // SAFETY: the buffer is valid for its length.
        match unsafe { libc::write(self.0.as_raw_fd(), buffer.as_ptr().cast(), buffer.len()) } {
            length @ 0.. => Ok(length as usize),
            _ => Err(match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {
                    io::Error::new(io::ErrorKind::TimedOut, "the reader does not read")
                }
                error => error,
            }),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::thread::JoinHandleExt;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_kick_ends_a_write_that_nobody_reads() {
        crate::vcpu::prepare_kicks().expect("a handler can be installed");
        let (_reader, writer) = io::pipe().expect("a pipe");
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let body = move || {
            let mut output = Output::from(writer);
            while output.write_all(&[0; 4096]).is_ok() {}
        };
        let thread = thread::spawn(body);
        while !thread.is_finished() {
            // SAFETY: the thread has not been joined, so its ID is valid.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), vmm_sys_util::signal::SIGRTMIN()) };
            thread::sleep(Duration::from_millis(1));
        }
    }
}
