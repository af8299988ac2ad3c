//! The serial console: a 16550 whose interrupt is an eventfd.

use std::io::{self, Write};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Ports of a 16550.
pub const LENGTH: u16 = 8;

struct IrqTrigger(EventFd);

impl Trigger for IrqTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// A 16550 that writes to `out`.
pub struct SerialPort {
    serial: Serial<IrqTrigger, NoEvents, Box<dyn Write + Send>>,
    out_failed: bool,
}

impl SerialPort {
    /// `irq` raises its interrupt.
    #[must_use]
    pub fn new(irq: EventFd, out: Box<dyn Write + Send>) -> Self {
        Self { serial: Serial::new(IrqTrigger(irq), out), out_failed: false }
    }

    /// Reads registers, one per byte.
    pub fn read(&mut self, offset: u16, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = u8::try_from(at).map_or(0xff, |at| self.serial.read(at));
        }
    }

    /// Writes registers, one per byte. A console that cannot be written any more does not stop
    /// the guest.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            let Ok(at) = u8::try_from(at) else { continue };
            if let Err(error) = self.serial.write(at, *byte)
                && !std::mem::replace(&mut self.out_failed, true)
            {
                log::warn!("the console cannot be written: {error}");
            }
        }
    }

    /// Room for input, in bytes.
    #[must_use]
    pub fn room(&self) -> usize {
        self.serial.fifo_capacity()
    }

    /// Gives the guest input; returns how many bytes it took.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        // In loopback mode, or with a full FIFO, input is lost as on a real line.
        self.serial.enqueue_raw_bytes(bytes).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    /// Interrupt enable and line status of a 16550.
    const ENABLE: u16 = 1;
    const STATUS: u16 = 5;

    struct Line(Sender<Vec<u8>>);

    impl Write for Line {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn eventfd() -> EventFd {
        EventFd::new(EFD_NONBLOCK).expect("an eventfd")
    }

    #[test]
    fn what_the_guest_writes_comes_out() {
        let (line, written) = channel();
        let mut port = SerialPort::new(eventfd(), Box::new(Line(line)));
        port.write(0, b"h");
        port.write(0, b"i");
        assert_eq!(written.try_iter().flatten().collect::<Vec<_>>(), b"hi");
    }

    #[test]
    fn input_interrupts_and_is_read() {
        let irq = eventfd();
        let (line, _written) = channel();
        let rung = irq.try_clone().expect("a second handle");
        let mut port = SerialPort::new(irq, Box::new(Line(line)));
        port.write(ENABLE, &[1]);
        assert_eq!(port.input(b"ok"), 2);
        assert!(rung.read().is_ok());
        let mut status = [0];
        port.read(STATUS, &mut status);
        assert_eq!(status[0] & 0b110_0001, 0b110_0001, "data is ready, and room to send");
        let mut byte = [0];
        port.read(0, &mut byte);
        assert_eq!(byte, *b"o");
    }

    #[test]
    fn input_that_does_not_fit_is_not_taken() {
        let (line, _written) = channel();
        let mut port = SerialPort::new(eventfd(), Box::new(Line(line)));
        let room = port.room();
        assert_eq!(port.input(&vec![b'x'; room + 1]), room);
        assert_eq!((port.room(), port.input(b"y")), (0, 0));
    }

    #[test]
    fn a_console_that_is_gone_does_not_stop_the_guest() {
        let (line, gone) = channel();
        drop(gone);
        let mut port = SerialPort::new(eventfd(), Box::new(Line(line)));
        port.write(0, b"a");
        port.write(0, b"b");
        let mut status = [0];
        port.read(STATUS, &mut status);
        assert_eq!(status[0] & 0b10_0000, 0b10_0000, "the guest may go on to send");
    }

    #[test]
    fn no_register_is_behind_the_last() {
        let (line, _written) = channel();
        let mut port = SerialPort::new(eventfd(), Box::new(Line(line)));
        let mut data = [0; 2];
        port.read(256, &mut data);
        assert_eq!(data, [0xff; 2]);
        port.write(256, &[1, 2]);
    }
}
