//! A PCI Express link: how fast it is and what packets it carries.

use std::fmt;

use serde::Serialize;

/// Data rate of a lane, by its code in the link registers (PCI Express Base 6.0, sections 7.5.3.6
/// and 7.5.3.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LinkSpeed {
    /// 2.5 GT/s.
    Gt2_5 = 1,
    /// 5.0 GT/s.
    Gt5,
    /// 8.0 GT/s.
    Gt8,
    /// 16.0 GT/s.
    Gt16,
    /// 32.0 GT/s.
    Gt32,
    /// 64.0 GT/s.
    Gt64,
}

impl LinkSpeed {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Gt2_5, "2.5 GT/s"),
        (Self::Gt5, "5.0 GT/s"),
        (Self::Gt8, "8.0 GT/s"),
        (Self::Gt16, "16.0 GT/s"),
        (Self::Gt32, "32.0 GT/s"),
        (Self::Gt64, "64.0 GT/s"),
    ];

    /// Reads what Linux prints, such as `8.0 GT/s PCIe`; `None` for what is no speed, such as
    /// `Unknown`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix("PCIe").unwrap_or(text).trim();
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(speed, _)| *speed)
    }

    /// Its code in the link registers.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Supported Link Speeds Vector of a link that is this fast and, as the specification wants,
    /// can be slower (section 7.5.3.18).
    #[must_use]
    pub const fn vector(self) -> u8 {
        (1 << self.code()) - 1
    }
}

impl fmt::Display for LinkSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = Self::ALL[usize::from(self.code() - 1)];
        f.write_str(name)
    }
}

impl Serialize for LinkSpeed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Speed and number of lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LinkWidth {
    /// Data rate of each lane.
    pub speed: LinkSpeed,
    /// Lanes, 1..=32.
    pub lanes: u8,
}

impl fmt::Display for LinkWidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x{}", self.speed, self.lanes)
    }
}

/// Largest payload of a packet. The field's code counts up from 128 bytes (section 7.5.3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Payload(u8);

impl Payload {
    /// From the three bits of a Max_Payload_Size field; reserved codes count as the least.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        if code <= 5 { Self(code) } else { Self(0) }
    }

    /// The field, 0..=5.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// 128..=4096.
    #[must_use]
    pub const fn bytes(self) -> u16 {
        128 << self.0
    }
}

impl Serialize for Payload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.bytes())
    }
}

/// A link as its two ends agreed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// What was negotiated.
    pub negotiated: LinkWidth,
    /// What the device is capable of.
    pub capable: LinkWidth,
    /// Payload that the device supports.
    pub payload_supported: Payload,
    /// Payload that is set.
    pub payload: Payload,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_prints() {
        assert_eq!(LinkSpeed::parse("2.5 GT/s PCIe"), Some(LinkSpeed::Gt2_5));
        assert_eq!(LinkSpeed::parse("64.0 GT/s PCIe"), Some(LinkSpeed::Gt64));
        // Kernels before 5.7 left the bus out.
        assert_eq!(LinkSpeed::parse("8.0 GT/s"), Some(LinkSpeed::Gt8));
        for text in ["Unknown", "Unknown speed", "8 GT", ""] {
            assert_eq!(LinkSpeed::parse(text), None);
        }
        for (speed, name) in LinkSpeed::ALL {
            assert_eq!(speed.to_string(), name);
        }
    }

    #[test]
    fn vectors_hold_all_slower_speeds() {
        // Bit 0 of the vector is 2.5 GT/s.
        assert_eq!(LinkSpeed::Gt2_5.vector(), 0b1);
        assert_eq!(LinkSpeed::Gt16.vector(), 0b1111);
    }

    #[test]
    fn payloads_have_their_codes() {
        assert_eq!((Payload::from_code(0).bytes(), Payload::from_code(5).bytes()), (128, 4096));
        assert_eq!(Payload::from_code(7), Payload::default());
    }
}
