//! Addresses of functions in the guest: the one that names a function for good, and the one that
//! the guest uses now.

use std::fmt;

use serde::{Serialize, Serializer};

/// A function of the guest, by the bus, device and function that it has when the machine starts.
/// All are in segment 0. Read and printed as `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestBdf(u16);

impl GuestBdf {
    /// Checks the ranges: device 0..=31, function 0..=7.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self(u16::from_be_bytes([bus, device << 3 | function])))
    }

    /// Bus number, 0..=255.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Device number, 0..=31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.0.to_be_bytes()[1] >> 3
    }

    /// Function number, 0..=7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0.to_be_bytes()[1] & 7
    }

    /// Function 0 of the same device: equal for all functions of a card.
    #[must_use]
    pub const fn slot(self) -> Self {
        Self(self.0 & !7)
    }

    /// Bus, device and function as transactions and tables carry them (PCI Express Base,
    /// section 2.2.6.2).
    #[must_use]
    pub const fn routing_id(self) -> u16 {
        self.0
    }
}

impl fmt::Display for GuestBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0000:{:02x}:{:02x}.{:x}", self.bus(), self.device(), self.function())
    }
}

impl Serialize for GuestBdf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where an access to configuration space goes, with the bus numbers that the guest has given its
/// ports by now. [`RootBus::route`](super::RootBus::route) finds whose name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutedBdf(GuestBdf);

impl RoutedBdf {
    /// From bus, device and function as an access carries them.
    #[must_use]
    pub const fn from_routing_id(id: u16) -> Self {
        Self(GuestBdf(id))
    }

    /// Bus number, 0..=255.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.bus()
    }

    /// Device number, 0..=31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.0.device()
    }

    /// The function's name when it is on the bus `home` at the start.
    #[must_use]
    pub const fn named_on(self, home: u8) -> GuestBdf {
        GuestBdf(u16::from_be_bytes([home, self.0.routing_id().to_be_bytes()[1]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_parts() {
        let name = GuestBdf::new(0xfe, 0x1f, 7).expect("a device and a function");
        assert_eq!((name.bus(), name.device(), name.function()), (0xfe, 0x1f, 7));
        assert_eq!((name.to_string().as_str(), name.routing_id()), ("0000:fe:1f.7", 0xfeff));
        assert_eq!(name.slot(), GuestBdf::new(0xfe, 0x1f, 0).expect("function 0"));
        assert_eq!((GuestBdf::new(0, 32, 0), GuestBdf::new(0, 0, 8)), (None, None));
    }

    #[test]
    fn an_access_keeps_device_and_function_on_its_way() {
        let target = RoutedBdf::from_routing_id(0x050b);
        assert_eq!((target.bus(), target.device()), (5, 1));
        assert_eq!(Some(target.named_on(2)), GuestBdf::new(2, 1, 3));
    }
}
