//! The I/O map: who answers at a port or an address. Nothing else.
//!
//! The machine is fixed, so this is a match over constants without a lock. Only BARs move; they
//! have a table in the PCI segment.

use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_arch::layout;
use berth_devices::irq::Gsi;
use berth_devices::panic_port::PanicPort;
use berth_devices::pci::{Segment, Space};
use berth_devices::power::{PowerRegisters, PowerRequest};
use berth_devices::serial;

use crate::exit::Exit;
use crate::machine::console::SerialConsole;

/// The serial console's interrupt.
pub const SERIAL_GSI: Gsi = Gsi(layout::COM1_GSI);
/// The system control interrupt.
pub const SCI_GSI: Gsi = Gsi(layout::SCI_GSI);

const COM1_END: u16 = layout::COM1 + serial::LENGTH - 1;
const PM1A_EVENT_END: u16 = layout::PM1A_EVENT + PowerRegisters::EVENT_LENGTH - 1;
const PM1A_CONTROL_END: u16 = layout::PM1A_CONTROL + PowerRegisters::CONTROL_LENGTH - 1;

/// Everything that answers outside the kernel.
pub struct Chipset {
    /// The PCI hierarchy.
    pub segment: Segment,
    /// The serial console.
    pub console: SerialConsole,
    power: Mutex<PowerRegisters>,
}

impl Chipset {
    /// Puts the parts together.
    pub fn new(segment: Segment, console: SerialConsole, power: PowerRegisters) -> Self {
        Self { segment, console, power: Mutex::new(power) }
    }

    /// The power registers.
    pub fn power(&self) -> MutexGuard<'_, PowerRegisters> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest reads a port.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        match port {
            layout::COM1..=COM1_END => self.console.read(port - layout::COM1, data),
            layout::PM1A_EVENT..=PM1A_EVENT_END => {
                self.power().read_event(port - layout::PM1A_EVENT, data);
            }
            layout::PM1A_CONTROL..=PM1A_CONTROL_END => {
                self.power().read_control(port - layout::PM1A_CONTROL, data);
            }
            layout::PANIC_PORT => PanicPort.read(data),
            _ => {
                self.segment.window_read(Space::Io, port.into(), data);
            }
        }
    }

    /// A guest writes a port. Some writes end the machine.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Option<Exit> {
        match (port, data) {
            (layout::COM1..=COM1_END, data) => self.console.write(port - layout::COM1, data),
            (layout::PM1A_EVENT..=PM1A_EVENT_END, data) => {
                let written = self.power().write_event(port - layout::PM1A_EVENT, data);
                if let Err(error) = written {
                    log::warn!("the system control interrupt cannot be raised: {error}");
                }
            }
            (layout::PM1A_CONTROL..=PM1A_CONTROL_END, data) => {
                let request = self.power().write_control(port - layout::PM1A_CONTROL, data);
                return request.map(|PowerRequest::Off| Exit::PowerOff);
            }
            (layout::RESET_PORT, [layout::RESET_VALUE]) if self.console.tells_of_panic() => {
                return Some(Exit::Panic);
            }
            (layout::RESET_PORT, [layout::RESET_VALUE]) => return Some(Exit::Reset),
            (layout::PANIC_PORT, data) => return PanicPort.write(data).then_some(Exit::Panic),
            (_, data) => {
                self.segment.window_write(Space::Io, port.into(), data);
            }
        }
        None
    }

    /// A guest reads an address that no memory slot holds.
    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        if layout::ECAM.contains(&address) {
            self.segment.ecam_read(address - layout::ECAM.start, data);
        } else if !self.segment.window_read(Space::Memory, address, data) {
            log::trace!("read of {} bytes at {address:#x}: nothing is there", data.len());
        }
    }

    /// A guest writes an address that no memory slot holds.
    pub fn memory_write(&self, address: u64, data: &[u8]) {
        if layout::ECAM.contains(&address) {
            self.segment.ecam_write(address - layout::ECAM.start, data);
        } else if !self.segment.window_write(Space::Memory, address, data) {
            log::trace!("write of {} bytes at {address:#x}: nothing is there", data.len());
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use berth_devices::pci::{BarRoutes, GuestBdf, HostBridge, PciFunction, RootBus};
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;
    use crate::machine::console::Output;

    /// A machine's chipset with the host bridge for the only function, and `screen` behind the
    /// console.
    pub fn chipset(screen: impl Write + Send + 'static) -> Chipset {
        let eventfd = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let bridge: (GuestBdf, Box<dyn PciFunction>) =
            (GuestBdf::new(0, 0, 0).expect("in range"), Box::new(HostBridge::default()));
        let roots = vec![RootBus::new(0..=0, Vec::new())];
        let segment = Segment::new([bridge], [], roots, Arc::new(BarRoutes::new(vec![])));
        let console = SerialConsole::new(eventfd(), Output::new(Box::new(screen), "screen"));
        Chipset::new(segment, console.expect("a console"), PowerRegisters::new(eventfd()))
    }

    #[test]
    fn the_reset_port_resets_by_its_value_only() {
        let chipset = chipset(io::sink());
        let write = |data: &[u8]| chipset.port_write(layout::RESET_PORT, data);
        assert_eq!(write(&[layout::RESET_VALUE]), Some(Exit::Reset));
        assert_eq!(write(&[!layout::RESET_VALUE]), None);
        assert_eq!(write(&[layout::RESET_VALUE, 0]), None);
    }

    /// A guest whose kernel panics before it has a driver for pvpanic.
    #[test]
    fn a_reset_after_a_panic_on_the_console_is_a_panic() {
        let chipset = chipset(io::sink());
        let reset = || chipset.port_write(layout::RESET_PORT, &[layout::RESET_VALUE]);
        let print = |text: &str| {
            for byte in text.bytes() {
                assert_eq!(chipset.port_write(layout::COM1, &[byte]), None);
            }
        };
        print("reboot: Restarting system\r\n");
        assert_eq!(reset(), Some(Exit::Reset));
        print("[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n");
        assert_eq!(reset(), Some(Exit::Panic));
    }

    #[test]
    fn configuration_space_is_in_memory_alone() {
        let chipset = chipset(io::sink());
        let mut data = [0; 4];
        chipset.memory_read(layout::ECAM.start, &mut data);
        assert!(data != [0; 4] && data != [0xff; 4], "{data:x?}");
        // Nobody is at 00:01.0.
        chipset.memory_read(layout::ECAM.start + (1 << 15), &mut data);
        assert_eq!(data, [0xff; 4]);
        // What a guest looks for that tries the ports: an address register that keeps what it is told.
        let address = 0x8000_0000u32.to_le_bytes();
        assert_eq!(chipset.port_write(0xcf8, &address), None);
        chipset.port_read(0xcf8, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn nothing_answers_where_nothing_is() {
        let chipset = chipset(io::sink());
        let mut data = [0; 4];
        chipset.memory_read(layout::ECAM.end, &mut data);
        assert_eq!(data, [0xff; 4]);
        chipset.port_read(0x80, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(chipset.port_write(0x80, &data), None);
    }
}
