//! The I/O map: who answers at a port or an address. Nothing else.
//!
//! The machine is fixed, so this is a match over constants without a lock. Only BARs move; they
//! have a table in the PCI segment.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use berth_arch::layout;
use berth_devices::panic_port::PanicPort;
use berth_devices::pci::{Segment, Space};
use berth_devices::power::{PowerRegisters, PowerRequest};
use berth_devices::serial::{self, SerialPort};

use crate::exit::Exit;

const COM1_END: u16 = layout::COM1 + serial::LENGTH - 1;
const PM1A_EVENT_END: u16 = layout::PM1A_EVENT + PowerRegisters::EVENT_LENGTH - 1;
const PM1A_CONTROL_END: u16 = layout::PM1A_CONTROL + PowerRegisters::CONTROL_LENGTH - 1;
const PCI_CONFIG_END: u16 = layout::PCI_CONFIG_DATA + 3;

/// Everything that answers outside the kernel.
pub struct Chipset {
    /// The PCI hierarchy.
    pub segment: Segment,
    serial: Mutex<SerialPort>,
    power: Mutex<PowerRegisters>,
}

impl Chipset {
    /// Puts the parts together.
    pub fn new(segment: Segment, serial: SerialPort, power: PowerRegisters) -> Self {
        Self { segment, serial: Mutex::new(serial), power: Mutex::new(power) }
    }

    /// The serial console.
    pub fn serial(&self) -> MutexGuard<'_, SerialPort> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The serial console, unless somebody uses it.
    pub fn try_serial(&self) -> Option<MutexGuard<'_, SerialPort>> {
        match self.serial.try_lock() {
            Ok(serial) => Some(serial),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The power registers.
    pub fn power(&self) -> MutexGuard<'_, PowerRegisters> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest reads a port.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        match port {
            layout::COM1..=COM1_END => self.serial().read(port - layout::COM1, data),
            layout::PM1A_EVENT..=PM1A_EVENT_END => {
                self.power().read_event(port - layout::PM1A_EVENT, data);
            }
            layout::PM1A_CONTROL..=PM1A_CONTROL_END => {
                self.power().read_control(port - layout::PM1A_CONTROL, data);
            }
            layout::PCI_CONFIG_ADDRESS..=PCI_CONFIG_END => {
                self.segment.port_read(port - layout::PCI_CONFIG_ADDRESS, data);
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
            (layout::COM1..=COM1_END, data) => self.serial().write(port - layout::COM1, data),
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
            (layout::RESET_PORT, [layout::RESET_VALUE]) => return Some(Exit::Reset),
            (layout::PCI_CONFIG_ADDRESS..=PCI_CONFIG_END, data) => {
                self.segment.port_write(port - layout::PCI_CONFIG_ADDRESS, data);
            }
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
