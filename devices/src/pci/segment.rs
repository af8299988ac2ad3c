//! A PCI segment: which function an access to configuration space or a window belongs to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::regs::{CONFIG_SIZE, EXTENDED_CONFIG_SIZE};
use super::{BarRoutes, Bdf, PciFunction, RootBus, Space};

/// Enable bit of CONFIG_ADDRESS (PCI Local Bus 3.0, section 3.2.2.3.2).
const ADDRESS_ENABLE: u32 = 1 << 31;

/// All functions of a segment, each under its own lock, and the address register of port 0xCF8.
///
/// Functions are named by the address that they have when the machine starts, in [`BarRoutes`]
/// too; [`RootBus`] finds the name for the address that the guest uses now.
///
/// Lock order: one function, then [`BarRoutes`] or the MSI router. Never two functions; on the way
/// to a function behind a port the port is not locked.
pub struct Segment {
    functions: BTreeMap<Bdf, Mutex<Box<dyn PciFunction>>>,
    roots: Vec<RootBus>,
    routes: Arc<BarRoutes>,
    config_address: Mutex<u32>,
}

impl Segment {
    /// The functions never change while the machine runs, so that finding one takes no lock.
    pub fn new(
        functions: impl IntoIterator<Item = (Bdf, Box<dyn PciFunction>)>,
        roots: Vec<RootBus>,
        routes: Arc<BarRoutes>,
    ) -> Self {
        let functions = functions.into_iter().map(|(bdf, f)| (bdf, Mutex::new(f))).collect();
        Self { functions, roots, routes, config_address: Mutex::new(0) }
    }

    /// Reads through ECAM; `offset` counts from the start of bus 0
    /// (PCI Express Base, section 7.2.2).
    pub fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        self.config_read(ecam_target(offset), (offset & 0xfff) as u16, EXTENDED_CONFIG_SIZE, data);
    }

    /// Writes through ECAM.
    pub fn ecam_write(&self, offset: u64, data: &[u8]) {
        self.config_write(ecam_target(offset), (offset & 0xfff) as u16, EXTENDED_CONFIG_SIZE, data);
    }

    /// Reads port 0xCF8 + `port`, 0..=7.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        match port {
            0 if data.len() == 4 => data.copy_from_slice(&self.address().to_le_bytes()),
            4..=7 => match self.address_target() {
                Some((bdf, register)) => {
                    self.config_read(Some(bdf), register + (port - 4), CONFIG_SIZE, data);
                }
                None => data.fill(0xff),
            },
            _ => data.fill(0xff),
        }
    }

    /// Writes port 0xCF8 + `port`, 0..=7. The address register takes whole words only.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        match (port, data) {
            (0, &[a, b, c, d]) => *self.address() = u32::from_le_bytes([a, b, c, d]),
            (4..=7, data) => {
                if let Some((bdf, register)) = self.address_target() {
                    self.config_write(Some(bdf), register + (port - 4), CONFIG_SIZE, data);
                }
            }
            _ => {}
        }
    }

    /// Reads a window of the host bridge. Returns whether a BAR answered.
    pub fn window_read(&self, space: Space, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        let Some(hit) = self.routes.find(space, address) else {
            return false;
        };
        // The BAR may move before its function is locked: the access then was first.
        if let Some(mut function) = self.function(hit.function) {
            function.bar_read(hit.bar, hit.offset, data);
        }
        true
    }

    /// Writes a window of the host bridge. Returns whether a BAR answered.
    pub fn window_write(&self, space: Space, address: u64, data: &[u8]) -> bool {
        let Some(hit) = self.routes.find(space, address) else {
            return false;
        };
        if let Some(mut function) = self.function(hit.function) {
            function.bar_write(hit.bar, hit.offset, data);
        }
        true
    }

    fn config_read(&self, target: Option<Bdf>, offset: u16, size: usize, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(mut function) = self.access(target, offset, size, data.len()) {
            function.config_read(offset, data);
        }
    }

    fn config_write(&self, target: Option<Bdf>, offset: u16, size: usize, data: &[u8]) {
        let freed = match self.access(target, offset, size, data.len()) {
            Some(mut function) => function.config_write(offset, data),
            None => return,
        };
        // A BAR that was refused because of this one answers now, as it would on a real bus.
        if freed {
            for function in self.functions.values() {
                lock(function).sync();
            }
        }
    }

    /// The function that an access to configuration space may go on to: one that does not cross
    /// a dword, which the bus could not carry either.
    fn access(
        &self,
        target: Option<Bdf>,
        offset: u16,
        size: usize,
        length: usize,
    ) -> Option<MutexGuard<'_, Box<dyn PciFunction>>> {
        let end = usize::from(offset) + length;
        let aligned = matches!(length, 1 | 2 | 4) && usize::from(offset).is_multiple_of(length);
        if !aligned || end > size {
            return None;
        }
        self.function(self.roots.iter().find_map(|root| root.route(target?))?)
    }

    fn function(&self, bdf: Bdf) -> Option<MutexGuard<'_, Box<dyn PciFunction>>> {
        self.functions.get(&bdf).map(lock)
    }

    fn address(&self) -> MutexGuard<'_, u32> {
        self.config_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address_target(&self) -> Option<(Bdf, u16)> {
        let address = *self.address();
        let (bus, devfn) = ((address >> 16) as u8, (address >> 8) as u8);
        let bdf = Bdf::new(0, bus, devfn >> 3, devfn & 7)?;
        (address & ADDRESS_ENABLE != 0).then_some((bdf, address as u16 & 0xfc))
    }
}

/// Functions keep their own invariants at each step, so a panic elsewhere does not spoil them.
fn lock(function: &Mutex<Box<dyn PciFunction>>) -> MutexGuard<'_, Box<dyn PciFunction>> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ecam_target(offset: u64) -> Option<Bdf> {
    let bus = u8::try_from(offset >> 20).ok()?;
    Bdf::new(0, bus, (offset >> 15) as u8 & 0x1f, (offset >> 12) as u8 & 7)
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
