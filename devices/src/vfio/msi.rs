//! The MSI vectors of an assigned function: from what the guest programmed to VFIO and KVM.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::backend::{FewerVectors, IrqKind, VfioPort};
use crate::irq::{MsiRoute, MsiRouter};
use crate::pci::ConfigSpace;
use crate::pci::msi::{MsiCapability, MsiState};

/// The vectors, each an eventfd that VFIO signals and KVM turns into an interrupt.
///
/// Masking is done on KVM's side, as for MSI-X.
pub struct MsiVectors {
    capability: MsiCapability,
    state: MsiState,
    routes: Vec<MsiRoute>,
    /// Vectors that VFIO signals, from the first on.
    bound: usize,
    /// That the host has fewer vectors was said.
    warned: bool,
}

impl MsiVectors {
    /// All eventfds are made here, before the guest runs: nothing is opened later.
    pub fn new(
        capability: MsiCapability,
        config: &ConfigSpace,
        router: &Arc<MsiRouter>,
    ) -> io::Result<Self> {
        let routes = (0..capability.vectors).map(|_| router.allocate());
        let routes = routes.collect::<io::Result<_>>()?;
        Ok(Self { capability, state: capability.state(config), routes, bound: 0, warned: false })
    }

    /// Takes over what the guest has programmed; returns whether it is new.
    pub fn program(&mut self, config: &ConfigSpace) -> bool {
        let state = self.capability.state(config);
        std::mem::replace(&mut self.state, state) != state
    }

    /// How many vectors the guest has enabled; `None` while MSI is off.
    pub fn enabled(&self) -> Option<u8> {
        self.state.enabled.then_some(self.state.vectors)
    }

    /// Enables MSI on the device with `vectors` vectors, or with what the host has: one on a host
    /// that does not remap interrupts. The device then signals several events with one vector, as
    /// the specification allows it to; QEMU does the same.
    pub fn enable(&mut self, vectors: u8, device: &dyn VfioPort) -> io::Result<()> {
        let mut count = usize::from(vectors);
        loop {
            let fds: Vec<Option<&EventFd>> =
                self.routes[..count].iter().map(|route| Some(route.irqfd())).collect();
            let Err(error) = device.set_irqs(IrqKind::Msi, 0, &fds) else { break };
            if FewerVectors::of(&error).is_none() || count == 1 {
                return Err(error);
            }
            // The number of vectors is a power of two (PCI Local Bus 3.0, section 6.8.1.3).
            count /= 2;
        }
        if count < usize::from(vectors) && !std::mem::replace(&mut self.warned, true) {
            log::warn!("the host has {count} of {vectors} MSI vectors: the others stay silent");
        }
        self.bound = count;
        Ok(())
    }

    /// Silent, and nothing pending. VFIO has been told before: it signals no more.
    pub fn release(&mut self) -> io::Result<()> {
        self.bound = 0;
        MsiRoute::clear_all(self.routes.iter_mut())
    }

    /// Delivers what is not masked.
    pub fn sync(&mut self) -> io::Result<()> {
        let mut heard = Vec::new();
        for (vector, route) in (0..).zip(&mut self.routes[..self.bound]) {
            if self.state.is_masked(vector) {
                route.hold()?;
            } else {
                heard.push((route, self.state.message(vector)));
            }
        }
        MsiRoute::deliver_all(heard)
    }

    /// Shows in `config` which masked vectors are pending, if an access of `length` bytes at
    /// `offset` would see it.
    pub fn show_pending(&self, config: &mut ConfigSpace, offset: u16, length: usize) {
        let Some(register) = self.capability.pending() else { return };
        if offset < register + 4 && usize::from(register) < usize::from(offset) + length {
            let pending =
                |(vector, route): (usize, &MsiRoute)| u32::from(route.pending()) << vector;
            let bits: u32 = self.routes[..self.bound].iter().enumerate().map(pending).sum();
            config.set(register, &bits.to_le_bytes());
        }
    }
}
