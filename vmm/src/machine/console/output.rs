//! Where the guest's output goes, in a way that holds nobody back but who writes.
//!
//! A reader that has stopped reading stops the guest, as a serial line with flow control would.
//! It stops nothing else: the serial port, under its lock, puts bytes into a [`Queue`] and never
//! waits, and the vCPU that wrote carries them to the reader once it has released that lock. So
//! the thread that ends the machine finds the serial port free at any time.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::panic_line::PanicLine;
use crate::units::Bytes;

/// The bytes that the serial port has sent and that are not written yet. It holds what the vCPUs
/// have written by their last instruction each: none runs on before its bytes are gone.
#[derive(Clone, Default)]
pub struct Queue(Arc<Mutex<Vec<u8>>>);

impl Queue {
    fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

impl Write for Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reader's end.
pub struct Output {
    queue: Queue,
    sink: Mutex<Sink>,
}

struct Sink {
    out: Box<dyn Write + Send>,
    /// What it is, for the operator.
    name: String,
    /// What is looked for in the bytes.
    panic: PanicLine,
    /// Bytes on their way; empty between two writes.
    carried: Vec<u8>,
    /// It was said that nothing can be written any more.
    failed: bool,
}

impl Output {
    /// Writes to `out`, which messages call `name`.
    pub fn new(out: Box<dyn Write + Send>, name: impl Into<String>) -> Self {
        let (name, panic) = (name.into(), PanicLine::default());
        let sink = Sink { out, name, panic, carried: Vec::new(), failed: false };
        Self { queue: Queue::default(), sink: Mutex::new(sink) }
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn stdout() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self::new(Box::new(Unbuffered(file)), "standard output"))
    }

    /// Writes at most `limit` bytes to a file, whose name is `path`. The rest is lost: a name for
    /// it cannot be made any more once the guest runs.
    pub fn file(file: File, path: &Path, limit: u64) -> Self {
        let out = Limited { out: Unbuffered(file), left: limit, limit };
        Self::new(Box::new(out), path.display().to_string())
    }

    /// Writes to a pipe or a socket, `file`, whose name is `path` and which does not wait. What its
    /// reader has no room for is lost.
    pub fn lossy(file: File, path: &Path) -> Self {
        let name = path.display().to_string();
        let out = Lossy { out: Unbuffered(file), name: name.clone(), lost: false };
        Self::new(Box::new(out), name)
    }

    /// Whether the last that was printed is a kernel's panic.
    pub fn tells_of_panic(&self) -> bool {
        lock(&self.sink).panic.is_recent()
    }

    /// Where the serial port puts what it sends.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Writes what is in the queue. Waits for the reader, or until a kick ends the wait; the bytes
    /// are lost then. A console that cannot be written any more does not stop the guest.
    pub fn flush(&self) {
        if self.queue.is_empty() {
            return;
        }
        let mut sink = lock(&self.sink);
        let Sink { out, name, panic, carried, failed } = &mut *sink;
        std::mem::swap(carried, &mut *lock(&self.queue.0));
        panic.read(carried);
        let written = out.write_all(carried);
        carried.clear();
        match written {
            // The machine ends, and says so itself.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) if !std::mem::replace(failed, true) => {
                log::warn!("the console cannot be written ({name}): {error}");
            }
            _ => {}
        }
    }
}

/// A file whose write fails when a kick interrupts it, where the standard library would start it
/// again: a vCPU can be taken out of a write that nobody reads.
struct Unbuffered(File);

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        rustix::io::write(&self.0, bytes).map_err(|error| match error {
            rustix::io::Errno::INTR => {
                io::Error::new(io::ErrorKind::TimedOut, "the reader does not read")
            }
            error => error.into(),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What fails once so many bytes are written.
struct Limited<W> {
    out: W,
    left: u64,
    limit: u64,
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            let why = format!("it has reached its limit of {} (limit_mib)", Bytes(self.limit));
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let most = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let written = self.out.write(&bytes[..most])?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What takes everything, and loses what its reader is too slow for.
struct Lossy<W> {
    out: W,
    name: String,
    lost: bool,
}

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.out.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !std::mem::replace(&mut self.lost, true) {
                    log::warn!("nobody reads the console ({}): output is lost", self.name);
                }
                Ok(bytes.len())
            }
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A panic elsewhere leaves whole bytes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::thread::{self, JoinHandle};
    use std::time::{Duration, Instant};

    use super::*;

    fn pipe() -> (io::PipeReader, Output) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (reader, Output::file(File::from(OwnedFd::from(writer)), Path::new("/tmp/pipe"), 1 << 30))
    }

    /// Kicks `thread` until it ends, which it must within 10 s.
    fn must_end_by_kicks(thread: &JoinHandle<()>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !thread.is_finished() {
            assert!(Instant::now() < deadline, "kicks do not end the write");
            crate::machine::kick::kick(thread);
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_kick_ends_a_write_that_nobody_reads() {
        crate::machine::kick::prepare().expect("a handler can be installed");
        let (_reader, output) = pipe();
        let thread = thread::spawn(move || {
            output.queue().write_all(&[0; 1 << 20]).expect("a queue takes all");
            // More than a pipe holds.
            output.flush();
        });
        must_end_by_kicks(&thread);
    }

    #[test]
    fn output_arrives_in_the_order_of_the_serial_port() {
        let (mut reader, output) = pipe();
        output.queue().write_all(b"one ").expect("a queue takes all");
        output.queue().write_all(b"two").expect("a queue takes all");
        output.flush();
        output.flush();
        drop(output);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("a pipe is read");
        assert_eq!(text, "one two");
    }

    #[test]
    fn a_file_gets_as_much_as_it_may_have_and_the_guest_goes_on() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let output = Output::file(file.reopen().expect("the file"), file.path(), 10);
        for bytes in [&b"eight by"[..], b"tes and", b" more"] {
            output.queue().write_all(bytes).expect("a queue takes all");
            output.flush();
        }
        assert!(output.queue.is_empty() && lock(&output.sink).failed);
        assert_eq!(std::fs::read(file.path()).expect("the file"), b"eight byte");
    }

    #[test]
    fn a_reader_that_has_gone_does_not_stop_the_guest() {
        let (reader, output) = pipe();
        drop(reader);
        assert_eq!(lock(&output.sink).name, "/tmp/pipe", "what the warning names");
        for _ in 0..2 {
            output.queue().write_all(b"x").expect("a queue takes all");
            output.flush();
        }
        assert!(output.queue.is_empty());
    }
}
