//! Resets of assigned functions: which way is the best, and what came of it.
//!
//! A function's own reset touches nothing else, so it is the best there is. Without one, a hot
//! reset of the bus behind the host's port resets a card as a whole, which may be done only when
//! all of the card is the guest's. What power management resets differs from device to device,
//! and so comes last. QEMU ranks them alike (`vfio_pci_reset` and `vfio_pci_pre_reset` in
//! hw/vfio/pci.c).

use std::fmt;
use std::io;

use serde::{Serialize, Serializer};

use super::backend::VfioPort;
use crate::pci::capability::{capabilities, read_u16, read_u32};
use crate::pci::regs::{
    ADVANCED_CAPABLE, ADVANCED_CONTROL, ADVANCED_FLR, ADVANCED_FLR_CAPABLE, CAP_ADVANCED_FEATURES,
    CAP_EXPRESS, CAP_POWER, EXPRESS_CONTROL, EXPRESS_DEVICE, EXPRESS_FLR, EXPRESS_FLR_CAPABLE,
    POWER_CONTROL, POWER_NO_SOFT_RESET,
};
use crate::pci::{HostBdf, ResetCause, ResetExtent};
use crate::warnings::Warnings;

/// A way to reset a function. All but two are the host kernel's, by its names for them
/// (`pci_reset_fn_methods` in drivers/pci/pci.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetMethod {
    /// What the host's kernel knows to do for this very device.
    DeviceSpecific,
    /// The firmware's `_RST` method.
    Acpi,
    /// Function-level reset of PCI Express.
    Flr,
    /// Function-level reset of conventional PCI, in the advanced features capability.
    AfFlr,
    /// All functions behind the host's port at once, through VFIO.
    Hot,
    /// Out of D0 and back.
    Pm,
    /// The bus behind the host's port, on which the function is alone.
    Bus,
    /// The same for a CXL device.
    CxlBus,
    /// There is none.
    None,
}

impl ResetMethod {
    const ALL: [(Self, &'static str); 9] = [
        (Self::DeviceSpecific, "device_specific"),
        (Self::Acpi, "acpi"),
        (Self::Flr, "flr"),
        (Self::AfFlr, "af_flr"),
        (Self::Hot, "hot"),
        (Self::Pm, "pm"),
        (Self::Bus, "bus"),
        (Self::CxlBus, "cxl_bus"),
        (Self::None, "none"),
    ];

    /// The kernel's name for it, as in sysfs' `reset_method`, or one alike.
    #[must_use]
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(method, _)| *method == self);
        named.map_or("", |(_, name)| name)
    }

    /// Reads one of the kernel's names.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (method, _) = Self::ALL.iter().find(|(_, known)| *known == name)?;
        Some(*method).filter(|method| !matches!(method, Self::Hot | Self::None))
    }

    /// What a function's configuration space promises, for hosts whose kernel does not tell:
    /// before Linux 5.15.
    #[must_use]
    pub fn from_config(config: &[u8]) -> Vec<Self> {
        let (mut own, mut power) = (Vec::new(), Vec::new());
        for (capability, id) in capabilities(config).iter().map(|c| (c.offset, c.id)) {
            let control = || read_u16(config, capability + POWER_CONTROL);
            match id {
                CAP_POWER if control() & POWER_NO_SOFT_RESET == 0 => power.push(Self::Pm),
                _ if flr_bit(config, id, capability).is_none() => {}
                CAP_EXPRESS => own.push(Self::Flr),
                _ => own.push(Self::AfFlr),
            }
        }
        own.into_iter().chain(power).collect()
    }

    /// Whether it resets a function and nothing else, and all of that.
    #[must_use]
    pub fn is_functions_own(self) -> bool {
        matches!(self, Self::DeviceSpecific | Self::Acpi | Self::Flr | Self::AfFlr)
    }

    /// The best way, of those that the kernel has in its order and of a hot reset, if that is
    /// `possible`.
    #[must_use]
    pub fn best(kernel: &[Self], possible: bool) -> Self {
        match kernel.first() {
            Some(first) if first.is_functions_own() => *first,
            // The same reset, and the kernel has tried it.
            Some(Self::Bus) => Self::Bus,
            _ if possible => Self::Hot,
            Some(first) => *first,
            None => Self::None,
        }
    }
}

impl Serialize for ResetMethod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for ResetMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeviceSpecific => "device-specific reset",
            Self::Acpi => "ACPI reset",
            Self::Flr => "FLR",
            Self::AfFlr => "AF FLR",
            Self::Hot => "hot reset",
            Self::Pm => "PM reset",
            Self::Bus => "bus reset",
            Self::CxlBus => "CXL bus reset",
            Self::None => "no reset",
        })
    }
}

/// Where a function is told to reset itself: a byte of its configuration space, and the bit in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlrBit {
    offset: u16,
    bit: u8,
}

impl FlrBit {
    /// All of a function.
    pub fn of(config: &[u8]) -> Vec<Self> {
        capabilities(config).iter().filter_map(|c| flr_bit(config, c.id, c.offset)).collect()
    }

    /// Whether a write sets it.
    pub fn is_set_by(self, offset: u16, data: &[u8]) -> bool {
        let byte = self.offset.checked_sub(offset).and_then(|at| data.get(usize::from(at)));
        byte.is_some_and(|byte| byte & self.bit != 0)
    }
}

fn flr_bit(config: &[u8], id: u8, capability: u16) -> Option<FlrBit> {
    let advanced = || read_u16(config, capability + ADVANCED_CAPABLE).to_le_bytes()[0];
    match id {
        CAP_EXPRESS if read_u32(config, capability + EXPRESS_DEVICE) & EXPRESS_FLR_CAPABLE != 0 => {
            Some(FlrBit {
                offset: capability + EXPRESS_CONTROL + 1,
                bit: EXPRESS_FLR.to_le_bytes()[1],
            })
        }
        CAP_ADVANCED_FEATURES if advanced() & ADVANCED_FLR_CAPABLE == ADVANCED_FLR_CAPABLE => {
            Some(FlrBit { offset: capability + ADVANCED_CONTROL, bit: ADVANCED_FLR })
        }
        _ => None,
    }
}

/// A function's ways to be reset, and the name that the operator knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionReset {
    /// Address on the host.
    pub host: HostBdf,
    /// The best way.
    pub method: ResetMethod,
    /// The kernel's way to reset the function alone, for when a hot reset is refused or fails.
    pub alone: ResetMethod,
}

impl FunctionReset {
    /// What is left of a planned hot reset when the host's kernel has been asked whom it affects:
    /// where it would hit functions of others, the function is reset alone.
    pub fn confirmed(self, device: &dyn VfioPort) -> Self {
        if self.method != ResetMethod::Hot {
            return self;
        }
        let foreign = match device.hot_reset_affects() {
            Ok(affected) => {
                let foreign = affected.iter().filter(|a| !a.held).map(|a| a.bdf.to_string());
                foreign.collect::<Vec<_>>().join(", ")
            }
            Err(error) => format!("({error})"),
        };
        if foreign.is_empty() {
            return self;
        }
        log::warn!("{}: no hot reset, it would hit {foreign}; instead: {}", self.host, self.alone);
        Self { method: self.alone, ..self }
    }

    /// Resets `device`, or its whole card, and says what came of it. Returns what is done by now,
    /// also where there is no way to reset it; `None` when every way failed, which another try may
    /// mend. `warnings` are about the device, and limited where the guest is the cause.
    pub(super) fn run(
        self,
        device: &dyn VfioPort,
        cause: ResetCause,
        warnings: &mut Warnings,
    ) -> Option<ResetExtent> {
        let Self { host, mut method, alone } = self;
        if method == ResetMethod::Hot {
            match device.hot_reset() {
                Ok(()) => {
                    log::info!("{host}: reset {cause}: {method}");
                    return Some(ResetExtent::Card);
                }
                Err(error) => {
                    warnings.say(format_args!("{method} {cause} fails: {error}; instead: {alone}"));
                    method = alone;
                }
            }
        }
        if method == ResetMethod::None {
            warnings.say(format_args!("not reset {cause}: there is no way to"));
            return Some(ResetExtent::Asked);
        }
        match device.reset() {
            Ok(()) => {
                log::info!("{host}: reset {cause}: {method}");
                return Some(ResetExtent::Asked);
            }
            // The kernel does not wait for whoever has the device locked.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                warnings.say(format_args!("not reset {cause}: the host is busy with it"));
            }
            Err(error) => {
                warnings.say(format_args!("not reset {cause}: {method} fails: {error}"));
            }
        }
        None
    }

    /// The same for a device that no guest has yet.
    pub fn run_at_start(self, device: &dyn VfioPort) -> ResetExtent {
        let extent = self.run(device, ResetCause::Start, &mut Warnings::about(self.host));
        extent.unwrap_or(ResetExtent::Asked)
    }
}

#[cfg(test)]
mod tests;
