//! The MSI-X vectors of an assigned function: from what the guest programmed to VFIO and KVM.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::backend::{IrqKind, VfioPort};
use crate::irq::{MsiRoute, MsiRouter};
use crate::pci::ConfigSpace;
use crate::pci::msix::{MsixCapability, MsixTable, read_pba};
use crate::pci::regs::{MSIX_CONTROL, MSIX_ENABLE, MSIX_FUNCTION_MASK};

/// The vectors, each an eventfd that VFIO signals and KVM turns into an interrupt.
///
/// Masking is done on KVM's side: detaching an irqfd is several times faster than going through
/// VFIO to the device, and the eventfd keeps what is pending.
pub struct MsixVectors {
    capability: MsixCapability,
    table: MsixTable,
    vectors: Vec<Vector>,
    /// Message control as the guest last wrote it.
    control: u16,
}

struct Vector {
    route: MsiRoute,
    /// VFIO signals the eventfd.
    bound: bool,
}

impl MsixVectors {
    /// All eventfds are made here, before the guest runs: nothing is opened later.
    pub fn new(capability: MsixCapability, router: &Arc<MsiRouter>) -> io::Result<Self> {
        let vector = |_| Ok(Vector { route: router.allocate()?, bound: false });
        let vectors = (0..capability.vectors).map(vector).collect::<io::Result<_>>()?;
        let table = MsixTable::new(capability.vectors);
        Ok(Self { capability, table, vectors, control: capability.vectors - 1 })
    }

    /// Where table and pending bits lie.
    pub fn capability(&self) -> &MsixCapability {
        &self.capability
    }

    /// All vectors.
    pub fn all(&self) -> Range<u16> {
        0..self.table.len()
    }

    /// Takes over message control as the guest has written it; returns whether it is new.
    pub fn program(&mut self, config: &ConfigSpace) -> bool {
        let control = config.half(self.capability.offset + MSIX_CONTROL);
        std::mem::replace(&mut self.control, control) != control
    }

    /// The guest has enabled MSI-X.
    pub fn enabled(&self) -> bool {
        self.control & MSIX_ENABLE != 0
    }

    /// Reads the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.table.read(offset, data);
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let pending = |vector: u16| self.vectors[usize::from(vector)].route.pending();
        read_pba(self.table.len(), offset, data, pending);
    }

    /// Writes the table; returns the vectors that were touched.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) -> Range<u16> {
        self.table.write(offset, data)
    }

    /// Enables MSI-X on the device; the enable bit itself is VFIO's to set.
    ///
    /// Where the kernel can add vectors later, MSI-X starts with the first one unbound, so that a
    /// large table costs the host only the vectors that the guest uses. Where it cannot, all
    /// are bound at once.
    pub fn enable(&mut self, device: &dyn VfioPort) -> io::Result<()> {
        if device.profile().msix_grows {
            return device.set_irqs(IrqKind::Msix, 0, &[None]);
        }
        let fds: Vec<Option<&EventFd>> =
            self.vectors.iter().map(|v| Some(v.route.irqfd())).collect();
        device.set_irqs(IrqKind::Msix, 0, &fds)?;
        self.vectors.iter_mut().for_each(|vector| vector.bound = true);
        Ok(())
    }

    /// Silent, and nothing pending. VFIO has been told before: it signals no more.
    pub fn release(&mut self) -> io::Result<()> {
        MsiRoute::clear_all(self.vectors.iter_mut().map(|vector| {
            vector.bound = false;
            &mut vector.route
        }))
    }

    /// Forgets what the guest wrote into the table: all is masked, as after a reset.
    pub fn forget(&mut self) {
        self.table = MsixTable::new(self.table.len());
    }

    /// Delivers what is not masked, while MSI-X is enabled on the device.
    pub fn sync(&mut self, touched: Range<u16>, device: &dyn VfioPort) -> io::Result<()> {
        let open = self.control & MSIX_FUNCTION_MASK == 0;
        let mut heard = Vec::new();
        let range = usize::from(touched.start)..usize::from(touched.end);
        for (index, vector) in touched.zip(&mut self.vectors[range]) {
            let entry = self.table.entry(index);
            if open && !entry.masked {
                heard.push((index, vector, entry.message));
            } else {
                vector.route.hold()?;
            }
        }
        let routes = heard.iter_mut().map(|(_, vector, message)| (&mut vector.route, *message));
        MsiRoute::deliver_all(routes)?;
        for (index, vector, _) in heard.iter_mut().filter(|(_, vector, _)| !vector.bound) {
            device.set_irqs(IrqKind::Msix, (*index).into(), &[Some(vector.route.irqfd())])?;
            vector.bound = true;
        }
        Ok(())
    }
}
