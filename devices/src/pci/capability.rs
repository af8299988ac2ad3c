//! Capability lists: reading them without trusting them.
//!
//! A device, or a snapshot of one, may hold a list that is cyclic, cut short or points into the
//! header. Every walk here ends: an offset is visited once.

use super::regs::{
    CAPABILITY_POINTER, EXTENDED, EXTENDED_CONFIG_SIZE, HEADER_END, STATUS, STATUS_CAPABILITY_LIST,
};

/// A capability of the first 256 bytes (PCI Local Bus 3.0, section 6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Capability ID.
    pub id: u8,
    /// Offset in configuration space, a multiple of 4.
    pub offset: u16,
}

/// A capability of extended configuration space (PCI Express Base, section 7.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedCapability {
    /// Capability ID.
    pub id: u16,
    /// Capability version, 0..=15.
    pub version: u8,
    /// Offset in configuration space, 0x100 or above, a multiple of 4.
    pub offset: u16,
}

/// Two bytes of configuration space; ones where there is none.
#[must_use]
pub fn read_u16(config: &[u8], offset: u16) -> u16 {
    let at = usize::from(offset);
    config.get(at..at + 2).map_or(!0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// Four bytes of configuration space; ones where there is none.
#[must_use]
pub fn read_u32(config: &[u8], offset: u16) -> u32 {
    u32::from(read_u16(config, offset))
        | u32::from(read_u16(config, offset.saturating_add(2))) << 16
}

/// The capabilities of the first 256 bytes, in the order of the list.
#[must_use]
pub fn capabilities(config: &[u8]) -> Vec<Capability> {
    let mut found: Vec<Capability> = Vec::new();
    if read_u16(config, STATUS) & STATUS_CAPABILITY_LIST == 0 {
        return found;
    }
    let mut next = read_u16(config, CAPABILITY_POINTER).to_le_bytes()[0];
    loop {
        // The two lowest bits are reserved and must be masked by software.
        let offset = u16::from(next & !3);
        let inside = offset >= HEADER_END && usize::from(offset) + 4 <= config.len();
        if !inside || found.iter().any(|seen| seen.offset == offset) {
            return found;
        }
        let [id, following] = read_u16(config, offset).to_le_bytes();
        if id == 0xff {
            return found;
        }
        found.push(Capability { id, offset });
        next = following;
    }
}

/// The capabilities of extended configuration space, in the order of the list.
#[must_use]
pub fn extended_capabilities(config: &[u8]) -> Vec<ExtendedCapability> {
    let mut found: Vec<ExtendedCapability> = Vec::new();
    let mut offset = EXTENDED;
    loop {
        let end = config.len().min(EXTENDED_CONFIG_SIZE);
        let inside = offset >= EXTENDED && usize::from(offset) + 4 <= end;
        if !inside || found.iter().any(|seen| seen.offset == offset) {
            return found;
        }
        let header = read_u32(config, offset);
        if header == 0 || header == !0 {
            return found;
        }
        let [low, high, version, _] = header.to_le_bytes();
        let (id, version) = (u16::from_le_bytes([low, high]), version & 0xf);
        found.push(ExtendedCapability { id, version, offset });
        offset = (header >> 20) as u16 & !3;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pci::regs::{CAP_MSIX, CAP_POWER, EXT_SRIOV};

    fn config_with_list(list: &[(u16, u8, u8)]) -> Vec<u8> {
        let mut config = vec![0; EXTENDED_CONFIG_SIZE];
        config[usize::from(STATUS)] = STATUS_CAPABILITY_LIST as u8;
        config[usize::from(CAPABILITY_POINTER)] = list[0].0 as u8;
        for (offset, id, next) in list {
            config[usize::from(*offset)..][..2].copy_from_slice(&[*id, *next]);
        }
        config
    }

    #[test]
    fn follows_the_list_in_its_order() {
        let config = config_with_list(&[(0x70, CAP_MSIX, 0x40), (0x40, CAP_POWER, 0)]);
        let found = capabilities(&config);
        assert_eq!(
            found.iter().map(|c| (c.id, c.offset)).collect::<Vec<_>>(),
            [(0x11, 0x70), (0x01, 0x40)]
        );
    }

    #[test]
    fn a_cycle_ends_the_walk() {
        let config = config_with_list(&[(0x40, CAP_POWER, 0x50), (0x50, CAP_MSIX, 0x40)]);
        assert_eq!(capabilities(&config).len(), 2);
    }

    #[test]
    fn reads_extended_headers() {
        let mut config = vec![0; EXTENDED_CONFIG_SIZE];
        config[0x100..0x104].copy_from_slice(&0x1401_0001u32.to_le_bytes());
        config[0x140..0x144].copy_from_slice(&(0x1_0000 | u32::from(EXT_SRIOV)).to_le_bytes());
        let found = extended_capabilities(&config);
        assert_eq!(
            found.iter().map(|c| (c.id, c.offset)).collect::<Vec<_>>(),
            [(1, 0x100), (0x10, 0x140)]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_bounded_list_inside_the_space(
            seed in prop::collection::vec(any::<u8>(), 256..=256),
            length in 0usize..=4096,
        ) {
            let config: Vec<u8> = seed.iter().cycle().take(length).copied().collect();
            for capability in capabilities(&config) {
                prop_assert!(capability.offset >= HEADER_END && usize::from(capability.offset) + 4 <= length);
            }
            let extended = extended_capabilities(&config);
            prop_assert!(extended.len() <= (4096 - 256) / 4);
            for capability in extended {
                prop_assert!(capability.offset >= EXTENDED && usize::from(capability.offset) + 4 <= length);
            }
        }
    }
}
