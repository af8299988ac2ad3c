//! The address of a PCI function on the host, read and printed like lspci does: `0000:41:00.0`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Domain, bus, device and function of a PCI function.
///
/// Device is 0..=31 and function 0..=7 (PCI Local Bus 3.0, section 3.2.2.3.2). The domain is
/// Linux's: more than 16 bits exist (VMD), so it is kept as `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostBdf {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// The text is not a PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a PCI address; expected [DOMAIN:]BUS:DEVICE.FUNCTION in hexadecimal, such as 0000:41:00.0"
)]
pub struct ParseBdfError(String);

impl HostBdf {
    /// Checks the ranges: device 0..=31, function 0..=7.
    #[must_use]
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self { domain, bus, device, function })
    }

    /// Linux's PCI domain (segment group).
    #[must_use]
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// Bus number, 0..=255.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Device number, 0..=31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device
    }

    /// Function number, 0..=7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }

    /// Function 0 of the same device: equal for all functions of a card.
    #[must_use]
    pub const fn slot(self) -> Self {
        Self { function: 0, ..self }
    }
}

impl fmt::Display for HostBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl FromStr for HostBdf {
    type Err = ParseBdfError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |part: &str, digits: usize| {
            let plain =
                (1..=digits).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        let byte = |part: &str, digits: usize| u8::try_from(hex(part, digits)?).ok();
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
            HostBdf::new(hex(domain, 8)?, byte(bus, 2)?, byte(device, 2)?, byte(function, 1)?)
        };
        parse().ok_or_else(|| ParseBdfError(text.to_owned()))
    }
}

impl Serialize for HostBdf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostBdf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_like_lspci() {
        for text in ["0000:41:00.0", "10000:e1:1f.7"] {
            assert_eq!(text.parse::<HostBdf>().map(|b| b.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(
            "41:00.0".parse::<HostBdf>().map(|b| b.to_string()),
            Ok("0000:41:00.0".to_owned())
        );
    }

    #[test]
    fn an_address_has_its_parts() {
        let bdf: HostBdf = "10000:e1:1f.7".parse().expect("an address");
        let parts = (bdf.domain(), bdf.bus(), bdf.device(), bdf.function());
        assert_eq!(parts, (0x1_0000, 0xe1, 0x1f, 7));
        assert_eq!(HostBdf::new(0x1_0000, 0xe1, 0x1f, 7), Some(bdf));
    }

    #[test]
    fn functions_of_a_card_share_a_slot() {
        let bdf = |text: &str| text.parse::<HostBdf>().expect("an address");
        assert_eq!(bdf("10000:e1:1f.7").slot(), bdf("10000:e1:1f.0"));
        assert_ne!(bdf("0000:e1:1f.7").slot(), bdf("10000:e1:1f.0"));
    }

    #[test]
    fn refuses_what_is_not_an_address() {
        for text in ["", "41", "41:00", "41:20.0", "41:00.8", "+1:00.0", "0:41:00.0 ", "1:2:3:4.5"]
        {
            assert!(text.parse::<HostBdf>().is_err(), "{text}");
        }
    }
}
