//! Access control services of a bridge, which keep the devices behind it apart.

use serde::Serialize;

use super::root::Root;

/// Whether a bridge sends what its devices say to each other up to the IOMMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Acs {
    /// Its extended capabilities cannot be seen, as by users other than root.
    #[default]
    Unknown,
    /// It has no such services.
    Missing,
    /// It has them, and some that isolation needs are off.
    Off,
    /// It has them, and they are on.
    On,
}

/// Source validation, request redirection, completion redirection and upstream forwarding: what
/// the kernel asks for before it gives devices groups of their own (`REQ_ACS_FLAGS` in
/// drivers/iommu/iommu.c).
const NEEDED: u16 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4;

pub(super) fn read(root: &Root, config: &str) -> Acs {
    match root.head(config, 4096) {
        Ok(Some(config)) => of(&config),
        _ => Acs::Unknown,
    }
}

/// Walks the extended capabilities (PCIe 6.0, section 7.6.3), each with its identity in bits 15:0
/// and the next one's place in bits 31:20 of its first word. The list may be cyclic.
fn of(config: &[u8]) -> Acs {
    const FIRST: usize = 0x100;
    const ACS: u32 = 0x000d;
    const CONTROL: usize = 6;

    let word = |at: usize| {
        let bytes = config.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    if config.len() <= FIRST {
        return Acs::Unknown;
    }
    let mut at = FIRST;
    for _ in 0..(4096 - FIRST) / 8 {
        let Some(header) = word(at) else {
            return Acs::Missing;
        };
        if header & 0xffff == ACS {
            let control = word(at + 4).unwrap_or_default() >> (8 * (CONTROL - 4));
            return if control as u16 & NEEDED == NEEDED { Acs::On } else { Acs::Off };
        }
        at = (header >> 20) as usize & !3;
        if at < FIRST {
            break;
        }
    }
    Acs::Missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(control: u16) -> Vec<u8> {
        let mut config = vec![0; 4096];
        config[0x100..0x104].copy_from_slice(&0x1481_0001_u32.to_le_bytes());
        config[0x148..0x14c].copy_from_slice(&0x0001_000d_u32.to_le_bytes());
        config[0x14e..0x150].copy_from_slice(&control.to_le_bytes());
        config
    }

    #[test]
    fn all_four_services_are_needed() {
        assert_eq!(of(&config(0x1d)), Acs::On);
        assert_eq!(of(&config(0x0d)), Acs::Off);
        assert_eq!(of(&vec![0; 4096]), Acs::Missing);
        assert_eq!(of(&config(0x1d)[..256]), Acs::Unknown);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked(config in proptest::collection::vec(any::<u8>(), 0..4096)) {
            of(&config);
        }
    }
}
