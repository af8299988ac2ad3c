//! The ways to reset a function, by the kernel's names.

use std::fmt;

use serde::{Serialize, Serializer};

use super::flr_bit;
use crate::pci::capability::{capabilities, read_u16};
use crate::pci::regs::{CAP_EXPRESS, CAP_POWER, POWER_CONTROL, POWER_NO_SOFT_RESET};

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

    /// Whether it resets the bus, which the kernel does of a function that is alone there
    /// (`pci_parent_bus_reset` in drivers/pci/pci.c).
    #[must_use]
    pub fn is_of_the_bus(self) -> bool {
        matches!(self, Self::Bus | Self::CxlBus)
    }

    /// The best way, of those that reset the function `alone`, in the kernel's order, and of a hot
    /// reset, if that is `possible`.
    #[must_use]
    pub fn best(alone: &[Self], possible: bool) -> Self {
        match alone.first() {
            Some(first) if first.is_functions_own() => *first,
            // The same reset, of which the kernel knows that it hits nobody else.
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
