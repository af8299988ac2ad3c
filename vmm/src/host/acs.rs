//! Access control services of a bridge, which keep the devices behind it apart.

use berth_devices::pci::capability::{extended_capabilities, read_u16};
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

/// Bytes of configuration space that everybody has; extended capabilities are behind them.
const CONVENTIONAL: usize = 256;

pub(super) fn read(root: &Root, config: &str) -> Acs {
    match root.head(config, 4096) {
        Ok(Some(config)) => of(&config),
        _ => Acs::Unknown,
    }
}

/// From the ACS extended capability (PCIe 6.0, section 7.7.11): its control register is at 6.
fn of(config: &[u8]) -> Acs {
    const ACS: u16 = 0x000d;
    const CONTROL: u16 = 6;

    if config.len() <= CONVENTIONAL {
        return Acs::Unknown;
    }
    let services = extended_capabilities(config).into_iter().find(|found| found.id == ACS);
    match services.map(|services| read_u16(config, services.offset + CONTROL)) {
        None => Acs::Missing,
        Some(control) if control & NEEDED == NEEDED => Acs::On,
        Some(_) => Acs::Off,
    }
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
