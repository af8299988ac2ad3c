//! The MSI-X vectors of an assigned function: from what the guest programmed to VFIO and KVM.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::backend::{IrqKind, VfioBackend};
use crate::irq::{MsiRoute, MsiRouter};
use crate::pci::msix::{MsixCapability, MsixTable};
use crate::pci::regs::{MSIX_ENABLE, MSIX_FUNCTION_MASK};

/// The vectors, each an eventfd that VFIO signals and KVM turns into an interrupt.
///
/// Masking is done on KVM's side: detaching an irqfd is several times faster than going through
/// VFIO to the device, and the eventfd keeps what is pending.
pub struct MsixVectors {
    capability: MsixCapability,
    table: MsixTable,
    vectors: Vec<Vector>,
    /// VFIO has MSI-X enabled on the device.
    enabled: bool,
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
        Ok(Self { capability, table, vectors, enabled: false, control: capability.vectors - 1 })
    }

    /// Where table and pending bits lie.
    pub fn capability(&self) -> &MsixCapability {
        &self.capability
    }

    /// Message control as the guest last wrote it.
    pub fn control(&self) -> u16 {
        self.control
    }

    /// Reads the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.table.read(offset, data);
    }

    /// Reads the pending bits.
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        let pending = |vector: u16| self.vectors[usize::from(vector)].route.pending();
        crate::pci::msix::read_pba(self.table.len(), offset, data, pending);
    }

    /// Writes the table; vectors follow.
    pub fn write_table(
        &mut self,
        offset: u64,
        data: &[u8],
        device: &dyn VfioBackend,
    ) -> io::Result<()> {
        let touched = self.table.write(offset, data);
        self.sync_vectors(touched, device)
    }

    /// The guest wrote message control. VFIO is told before the guest's write returns, and the
    /// enable bit itself is VFIO's to set.
    pub fn write_control(&mut self, control: u16, device: &dyn VfioBackend) -> io::Result<()> {
        self.control = control;
        match (self.enabled, control & MSIX_ENABLE != 0) {
            (false, true) => self.enable(device)?,
            (true, false) => return self.disable(device),
            _ => {}
        }
        self.sync_vectors(0..self.table.len(), device)
    }

    /// Where the kernel can add vectors later, MSI-X starts with the first one unbound, so that a
    /// large table costs the host only the vectors that the guest uses. Where it cannot, all
    /// are bound at once.
    fn enable(&mut self, device: &dyn VfioBackend) -> io::Result<()> {
        if device.profile().msix_grows {
            device.set_irqs(IrqKind::Msix, 0, &[None])?;
        } else {
            let fds: Vec<Option<&EventFd>> =
                self.vectors.iter().map(|v| Some(v.route.irqfd())).collect();
            device.set_irqs(IrqKind::Msix, 0, &fds)?;
            self.vectors.iter_mut().for_each(|vector| vector.bound = true);
        }
        self.enabled = true;
        Ok(())
    }

    fn disable(&mut self, device: &dyn VfioBackend) -> io::Result<()> {
        device.disable_irqs(IrqKind::Msix)?;
        self.enabled = false;
        for vector in &mut self.vectors {
            vector.bound = false;
            vector.route.clear()?;
        }
        Ok(())
    }

    fn sync_vectors(&mut self, touched: Range<u16>, device: &dyn VfioBackend) -> io::Result<()> {
        let open = self.enabled && self.control & MSIX_FUNCTION_MASK == 0;
        for index in touched {
            let entry = self.table.entry(index);
            let vector = &mut self.vectors[usize::from(index)];
            if !open || entry.masked {
                vector.route.hold()?;
                continue;
            }
            vector.route.deliver(entry.message)?;
            if !vector.bound {
                device.set_irqs(IrqKind::Msix, index.into(), &[Some(vector.route.irqfd())])?;
                vector.bound = true;
            }
        }
        Ok(())
    }
}
