//! The interrupt pin of an assigned function, without an exit from assertion to unmasking.
//!
//! ```text
//! device asserts INTx -> VFIO masks it at the device, signals `irqfd` -> KVM asserts the I/O
//! APIC's pin -> the guest serves the device, end of interrupt -> KVM deasserts the pin, signals
//! `resample` -> VFIO unmasks; when the device still asserts INTx, it begins again
//! ```
//!
//! Without the resampling half a level-triggered interrupt either storms or is lost. The disable
//! bit of the command register is not looked at here: VFIO virtualises it, and an interrupt that
//! the guest has disabled there stays masked at the device whatever `resample` says
//! (`vfio_pci_intx_unmask_handler`). So the guest's write is forwarded as any other. A pin that KVM
//! has asserted by then stays so until the end of interrupt: one interrupt more than on a bus,
//! which a driver of a shared line takes anyway.
//!
//! VFIO can share the host's interrupt line with other drivers if the device has that disable
//! bit. For one that has not it needs the line alone, and `EBUSY` is its answer when it is not.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::eventfd;

use super::backend::{IrqKind, VfioPort};
use crate::irq::{Gsi, VmPort};

/// A pin of the I/O APIC, driven by a device.
pub struct IntxLine {
    port: Arc<dyn VmPort>,
    gsi: Gsi,
    irqfd: EventFd,
    resample: EventFd,
    attached: bool,
}

impl IntxLine {
    /// Both eventfds are made here, before the guest runs. The pin is low.
    pub fn new(port: Arc<dyn VmPort>, gsi: Gsi) -> io::Result<Self> {
        let (irqfd, resample) = (eventfd()?, eventfd()?);
        Ok(Self { port, gsi, irqfd, resample, attached: false })
    }

    /// Connects the pin. A signal between any two of the steps waits in its eventfd: KVM and VFIO
    /// both look for one when they take an eventfd over.
    pub fn enable(&mut self, device: &dyn VfioPort) -> io::Result<()> {
        if !self.attached {
            self.port.attach_level_irqfd(self.gsi, &self.irqfd, &self.resample)?;
            self.attached = true;
        }
        let bind = || {
            device.set_irqs(IrqKind::Intx, 0, &[Some(&self.irqfd)])?;
            device.unmask_intx_on(&self.resample).inspect_err(|_| {
                // It was enabled a moment ago.
                let _ = device.disable_irqs(IrqKind::Intx);
            })
        };
        let bound = bind();
        if bound.is_err() {
            self.release()?;
        }
        bound
    }

    /// Disconnects the pin, which goes low, and forgets what was pending. VFIO has been told
    /// before: it signals no more.
    pub fn release(&mut self) -> io::Result<()> {
        if self.attached {
            self.port.detach_irqfd(self.gsi, &self.irqfd)?;
            self.attached = false;
        }
        for eventfd in [&self.irqfd, &self.resample] {
            // Nothing to read is the usual case.
            let _ = eventfd.read();
        }
        Ok(())
    }
}

impl Drop for IntxLine {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            log::warn!("GSI {} stays connected: {error}", self.gsi.0);
        }
    }
}
