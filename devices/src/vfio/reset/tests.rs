//! Which way is the best, and what a configuration space says of it.

mod at_start;
mod through_ports;

use super::*;
use crate::pci::regs::CAP_POWER;

use ResetMethod::{AfFlr, Bus, DeviceSpecific, Flr, Hot, None, Pm};

#[test]
fn a_functions_own_reset_is_best_and_power_management_last() {
    for (kernel, hot, best) in [
        (&[Flr, Pm, Bus][..], true, Flr),
        (&[DeviceSpecific, Flr], true, DeviceSpecific),
        (&[Pm, Bus], true, Hot),
        (&[Pm, Bus], false, Pm),
        (&[Bus], true, Bus),
        (&[], true, Hot),
        (&[], false, None),
    ] {
        assert_eq!(ResetMethod::best(kernel, hot), best, "{kernel:?} {hot}");
    }
}

/// Power management at 0x40, PCI Express at 0x50, advanced features at 0x90.
fn config(no_soft_reset: bool, flr: bool, advanced: u8) -> Vec<u8> {
    let mut config = vec![0; 256];
    config[0x06] = 0x10;
    config[0x34] = 0x40;
    config[0x40..0x42].copy_from_slice(&[CAP_POWER, 0x50]);
    config[0x44] = if no_soft_reset { 8 } else { 0 };
    config[0x50..0x52].copy_from_slice(&[CAP_EXPRESS, 0x90]);
    config[0x57] = if flr { 0x10 } else { 0 };
    config[0x90..0x94].copy_from_slice(&[CAP_ADVANCED_FEATURES, 0, 6, advanced]);
    config
}

#[test]
fn configuration_space_tells_where_the_kernel_does_not() {
    assert_eq!(ResetMethod::from_config(&config(false, true, 0)), [Flr, Pm]);
    assert_eq!(ResetMethod::from_config(&config(true, false, 3)), [AfFlr]);
    assert_eq!(ResetMethod::from_config(&config(true, false, 2)), []);
    assert_eq!(ResetMethod::from_config(&[]), []);
}

#[test]
fn a_write_that_starts_a_reset_is_known() {
    let bits = FlrBit::of(&config(true, true, 3));
    assert_eq!(bits.len(), 2);
    let sets = |offset, data: &[u8]| bits.iter().any(|bit| bit.is_set_by(offset, data));
    assert!(sets(0x58, &[0, 0x80]) && sets(0x59, &[0x80]) && sets(0x94, &[1]));
    assert!(sets(0x58, &[0, 0x80, 0, 0]));
    assert!(!sets(0x58, &[0x80]) && !sets(0x58, &[0xff, 0x7f]) && !sets(0x94, &[0xfe]));
    assert!(FlrBit::of(&config(true, false, 0)).is_empty());
}

#[test]
fn kernel_names_are_known() {
    for (name, method) in [
        ("device_specific", DeviceSpecific),
        ("acpi", ResetMethod::Acpi),
        ("flr", Flr),
        ("af_flr", AfFlr),
        ("pm", Pm),
        ("bus", Bus),
        ("cxl_bus", ResetMethod::CxlBus),
    ] {
        assert_eq!(ResetMethod::parse(name), Some(method));
        assert_eq!(method.name(), name);
    }
    for name in ["sorcery", "hot", "none", ""] {
        assert_eq!(ResetMethod::parse(name), Option::None);
    }
}
