//! How an assigned function interrupts: by its pin, by MSI or by MSI-X, and from one to another.
//!
//! The guest switches between them at any time: a kernel finds a device with its pin, its driver
//! enables MSI-X, gives it back when it is unloaded, and the next one may take MSI. VFIO has one
//! of them enabled on the device, and refuses another (`EINVAL`) until that one is disabled. So
//! after each write the registers say what is wanted, and one step leads there from what is.

use std::io;

use super::backend::{IrqKind, VfioPort};
use super::config_space::FunctionConfig;
use super::intx::IntxLine;
use super::msi::MsiVectors;
use super::msix::MsixVectors;
use super::wiring::{FunctionSite, Wiring};
use crate::pci::msix::MsixPart;
use crate::pci::{Bar, ConfigSpace};

/// All interrupts of a function, and which of them VFIO has enabled.
pub struct Interrupts {
    intx: Option<IntxLine>,
    msi: Option<MsiVectors>,
    msix: Option<MsixVectors>,
    enabled: Option<Signalling>,
    /// What could not be enabled. It is not tried again until the guest wants something else: the
    /// registers are written often, and the answer would be the same.
    refused: Option<Signalling>,
}

/// A way to interrupt, with all that VFIO must know before it is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signalling {
    Intx,
    Msi { vectors: u8 },
    Msix,
}

impl From<Signalling> for IrqKind {
    fn from(signalling: Signalling) -> Self {
        match signalling {
            Signalling::Intx => Self::Intx,
            Signalling::Msi { .. } => Self::Msi,
            Signalling::Msix => Self::Msix,
        }
    }
}

impl Interrupts {
    /// Everything that the function's configuration space offers. None is enabled yet.
    pub fn new(config: &FunctionConfig, place: &FunctionSite, wiring: &Wiring) -> io::Result<Self> {
        let intx = place.intx_gsi.filter(|_| config.has_intx);
        let intx = intx.map(|gsi| IntxLine::new(wiring.port.clone(), gsi));
        let msi = config.msi.map(|msi| MsiVectors::new(msi, &config.space, &wiring.router));
        let msix = config.msix.map(|msix| MsixVectors::new(msix, &wiring.router));
        Ok(Self {
            intx: intx.transpose()?,
            msi: msi.transpose()?,
            msix: msix.transpose()?,
            enabled: None,
            refused: None,
        })
    }

    /// Follows the guest's registers. When this returns, VFIO and KVM are as they say.
    pub fn sync(&mut self, config: &ConfigSpace, device: &dyn VfioPort) -> io::Result<()> {
        let mut programmed = false;
        if let Some(msi) = &mut self.msi {
            programmed |= msi.program(config);
        }
        if let Some(msix) = &mut self.msix {
            programmed |= msix.program(config);
        }
        let wanted = self.wanted();
        if wanted != self.enabled && (wanted.is_none() || wanted != self.refused) {
            self.disable(device)?;
            self.refused = wanted;
            self.enable(wanted, device)?;
            self.refused = None;
            programmed = true;
        }
        match (self.enabled, &mut self.msi, &mut self.msix) {
            (Some(Signalling::Msi { .. }), Some(msi), _) if programmed => msi.sync(),
            (Some(Signalling::Msix), _, Some(msix)) if programmed => msix.sync(msix.all(), device),
            _ => Ok(()),
        }
    }

    /// What the registers ask for. A guest must not enable MSI and MSI-X at once (PCI Local Bus
    /// 3.0, section 6.8); one that does gets MSI-X.
    fn wanted(&self) -> Option<Signalling> {
        if self.msix.as_ref().is_some_and(MsixVectors::enabled) {
            return Some(Signalling::Msix);
        }
        match self.msi.as_ref().and_then(MsiVectors::enabled) {
            Some(vectors) => Some(Signalling::Msi { vectors }),
            None => self.intx.as_ref().map(|_| Signalling::Intx),
        }
    }

    fn enable(&mut self, wanted: Option<Signalling>, device: &dyn VfioPort) -> io::Result<()> {
        match (wanted, &mut self.intx, &mut self.msi, &mut self.msix) {
            (Some(Signalling::Intx), Some(intx), _, _) => intx.enable(device)?,
            (Some(Signalling::Msi { vectors }), _, Some(msi), _) => msi.enable(vectors, device)?,
            (Some(Signalling::Msix), _, _, Some(msix)) => msix.enable(device)?,
            _ => {}
        }
        self.enabled = wanted;
        Ok(())
    }

    /// Switches off what is on, on the device first: nothing signals an eventfd that KVM has
    /// let go.
    pub fn disable(&mut self, device: &dyn VfioPort) -> io::Result<()> {
        let Some(enabled) = self.enabled else { return Ok(()) };
        device.disable_irqs(enabled.into())?;
        self.enabled = None;
        match (enabled, &mut self.intx, &mut self.msi, &mut self.msix) {
            (Signalling::Intx, Some(intx), _, _) => intx.release(),
            (Signalling::Msi { .. }, _, Some(msi), _) => msi.release(),
            (Signalling::Msix, _, _, Some(msix)) => msix.release(),
            _ => Ok(()),
        }
    }

    /// After a reset of the device, for which everything was disabled.
    pub fn forget(&mut self) {
        if let Some(msix) = &mut self.msix {
            msix.forget();
        }
        self.refused = None;
    }

    /// What could not be enabled may be now: the device has come back to D0, out of which Linux
    /// enables neither MSI nor MSI-X (`EINVAL`, drivers/pci/msi/msi.c).
    pub fn retry(&mut self) {
        self.refused = None;
    }

    /// Gives the pin up, before the guest has seen it.
    pub fn forget_intx(&mut self) {
        self.intx = None;
    }

    /// Brings pending bits in configuration space up to date, before `length` bytes at `offset`
    /// of it are read.
    pub fn show_pending(&self, config: &mut ConfigSpace, offset: u16, length: usize) {
        if let Some(msi) = &self.msi {
            msi.show_pending(config, offset, length);
        }
    }

    /// Reads what MSI-X has in a BAR; false where the device answers itself.
    pub fn bar_read(&self, bar: Bar, offset: u64, data: &mut [u8]) -> bool {
        let Some(msix) = &self.msix else { return false };
        match msix.capability().part(bar, offset) {
            Some(MsixPart::Table(offset)) => msix.read_table(offset, data),
            Some(MsixPart::Pending(offset)) => msix.read_pending(offset, data),
            None => return false,
        }
        true
    }

    /// Writes what MSI-X has in a BAR; `None` where the device takes the write itself.
    pub fn bar_write(
        &mut self,
        bar: Bar,
        offset: u64,
        data: &[u8],
        device: &dyn VfioPort,
    ) -> Option<io::Result<()>> {
        let msix = self.msix.as_mut()?;
        let touched = match msix.capability().part(bar, offset)? {
            MsixPart::Table(offset) => msix.write_table(offset, data),
            // Read-only.
            MsixPart::Pending(_) => 0..0,
        };
        let on = self.enabled == Some(Signalling::Msix);
        Some(if on { msix.sync(touched, device) } else { Ok(()) })
    }
}

#[cfg(test)]
mod tests;
