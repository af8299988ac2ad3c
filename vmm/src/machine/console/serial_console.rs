//! The serial console: the guest's port, and what is behind it on berth's side.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_devices::serial::SerialPort;
use vmm_sys_util::eventfd::EventFd;

use super::Output;

/// A serial port with its output and the end of its input.
///
/// Lock order: the port, then nothing. Output is written with the port released.
pub struct SerialConsole {
    port: Mutex<SerialPort>,
    output: Output,
    /// Room for input in an empty port.
    capacity: usize,
    drained: EventFd,
}

impl SerialConsole {
    /// `irq` raises the port's interrupt.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new(irq: EventFd, output: Output) -> io::Result<Self> {
        let port = SerialPort::new(irq, Box::new(output.queue()));
        let capacity = port.room();
        let drained = berth_devices::eventfd()?;
        Ok(Self { port: Mutex::new(port), output, capacity, drained })
    }

    /// A guest reads registers, one per byte.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        self.access(|port| port.read(offset, data));
    }

    /// A guest writes registers, one per byte. Waits for a reader that does not read.
    pub fn write(&self, offset: u16, data: &[u8]) {
        self.access(|port| port.write(offset, data));
        self.output.flush();
    }

    /// Room for input, in bytes. Never waits for the console's reader.
    pub fn room(&self) -> usize {
        self.port().room()
    }

    /// Gives the guest input; returns how many bytes it took. Never waits for the console's reader.
    pub fn input(&self, bytes: &[u8]) -> usize {
        self.port().input(bytes)
    }

    /// Whether the last that the guest printed is a kernel's panic. Waits for the console's reader,
    /// as a write does.
    pub fn tells_of_panic(&self) -> bool {
        self.output.tells_of_panic()
    }

    /// Rung when a guest has read the last byte of input.
    pub fn drained(&self) -> &EventFd {
        &self.drained
    }

    fn access(&self, access: impl FnOnce(&mut SerialPort)) {
        let mut port = self.port();
        let had_input = port.room() < self.capacity;
        access(&mut port);
        if had_input && port.room() == self.capacity {
            // A full counter is rung already.
            let _ = self.drained.write(1);
        }
    }

    /// The port keeps its own invariants at each step.
    fn port(&self) -> MutexGuard<'_, SerialPort> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// The data register.
    const DATA: u16 = 0;

    fn eventfd() -> EventFd {
        berth_devices::eventfd().expect("an eventfd")
    }

    /// A guest that writes to a reader that does not read, with input at the same time, once held
    /// the serial port for ever, and with it the thread that ends the machine.
    #[test]
    fn a_stalled_reader_leaves_the_port_to_others() {
        crate::machine::kick::prepare().expect("a handler can be installed");
        let (reader, writer) = io::pipe().expect("a pipe");
        let output =
            Output::file(File::from(OwnedFd::from(writer)), std::path::Path::new("pipe"), 1 << 30);
        let console = Arc::new(SerialConsole::new(eventfd(), output).expect("a console"));
        let (wrote, progress) = mpsc::channel();
        let vcpu = {
            let console = console.clone();
            thread::spawn(move || {
                // More than a pipe holds.
                for _ in 0..1 << 21 {
                    console.write(DATA, b"x");
                    if wrote.send(()).is_err() {
                        break;
                    }
                }
            })
        };
        // Until the vCPU is stuck in a write.
        let mut written = 0;
        while progress.recv_timeout(Duration::from_secs(1)).is_ok() {
            written += 1;
        }
        assert!(written >= 4096 && !vcpu.is_finished(), "the reader has stalled at {written}");

        let (done, result) = mpsc::channel();
        let control = console.clone();
        thread::spawn(move || {
            let room = control.room();
            let _ = done.send((room > 0, control.input(b"y")));
        });
        let served = result.recv_timeout(Duration::from_secs(10));
        // Lets the vCPU's thread go.
        drop((reader, progress));
        vcpu.join().expect("the thread does not panic");
        assert_eq!(served, Ok((true, 1)), "input waits for the reader of output");
    }

    #[test]
    fn a_port_that_runs_out_of_input_says_so_once() {
        let console = SerialConsole::new(eventfd(), Output::new(Box::new(io::sink()), "nothing"))
            .expect("a console");
        let read = || {
            let mut byte = [0];
            console.read(DATA, &mut byte);
            byte[0]
        };
        assert_eq!(console.input(b"ab"), 2);
        assert_eq!(read(), b'a');
        assert!(console.drained().read().is_err(), "one byte is there still");
        assert_eq!(read(), b'b');
        assert_eq!(console.drained().read().ok(), Some(1));
        read();
        assert!(console.drained().read().is_err(), "told once");
    }
}
