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
                log::warn!("the console cannot be written: {error:?}");
            }
        }
    }

    /// Room for input, in bytes.
    pub fn room(&self) -> usize {
        self.serial.fifo_capacity()
    }

    /// Gives the guest input; returns how many bytes it took.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        // In loopback mode, or with a full FIFO, input is lost as on a real line.
        self.serial.enqueue_raw_bytes(bytes).unwrap_or(0)
    }
}
