//! What the kernel says of a device when it is open, and its reset before a guest has it.

use crate::fake::{FakeDevice, Journal, VfioCall};
use crate::pci::regs::COMMAND;
use crate::pci::{HostBdf, ResetBuses};
use crate::vfio::rig::{Offers, RESET, profile};
use crate::vfio::{Affected, DeviceProfile, DeviceState, FunctionReset, Region, ResetMethod};

fn host(function: u8) -> HostBdf {
    HostBdf::new(0, 0x41, 0, function).expect("a function")
}

fn affected(held: bool) -> Vec<Affected> {
    vec![
        Affected { bdf: host(0), held: true, is_bound: true },
        Affected { bdf: host(1), held, is_bound: true },
    ]
}

#[test]
fn a_reset_that_would_hit_others_is_not_done() {
    let (device, log) = FakeDevice::new(profile(&Offers::default()), &Journal::default());
    let hot = |alone| FunctionReset { host: host(0), method: ResetMethod::Hot, alone, ..RESET };
    let confirmed = |alone| hot(alone).confirmed(&device).method;
    assert_eq!(confirmed(ResetMethod::Pm), ResetMethod::Pm, "none at all");
    log.set_affected(affected(false));
    assert_eq!(confirmed(ResetMethod::None), ResetMethod::None);
    log.set_affected(affected(true));
    assert_eq!(confirmed(ResetMethod::Pm), ResetMethod::Hot);
    assert_eq!(RESET.confirmed(&device).method, RESET.method);
}

/// The kernel's list names a way that it finds closed: `bus` of a function that was alone on its
/// bus when the kernel made the list.
#[test]
fn a_way_that_the_kernel_finds_closed_is_not_promised() {
    let unable = DeviceProfile { can_be_reset: false, ..profile(&Offers::default()) };
    let (device, log) = FakeDevice::new(unable, &Journal::default());
    let bus = FunctionReset { method: ResetMethod::Bus, alone: ResetMethod::Bus, ..RESET };
    let none = ResetMethod::None;
    for (affected, method, on_close) in [
        (affected(true), ResetMethod::Hot, true),
        (affected(false), none, true),
        (vec![], none, false),
    ] {
        log.set_affected(affected);
        let found = bus.confirmed(&device);
        assert_eq!((found.method, found.alone, found.on_close), (method, none, on_close));
    }
    let of_nobody = Affected { bdf: host(1), held: false, is_bound: false };
    log.set_affected(vec![of_nobody]);
    assert!(!bus.confirmed(&device).on_close, "the kernel resets no bus with others on it");
}

/// The kernel has done that when it opened the function, 100 ms each time.
#[test]
fn a_function_is_reset_once_at_the_start() {
    let (device, log) = FakeDevice::new(profile(&Offers::default()), &Journal::default());
    let done = &mut ResetBuses::default();
    assert_eq!(RESET.run_at_start(&device, done), DeviceState::Reset);
    assert_eq!(log.take(), []);
    // That one was of the function alone.
    log.set_affected(affected(true));
    let hot = FunctionReset { host: host(0), method: ResetMethod::Hot, ..RESET };
    assert_eq!(hot.run_at_start(&device, done), DeviceState::Reset);
    assert_eq!(log.take(), [VfioCall::HotReset]);
}

#[test]
fn a_device_that_is_not_reset_at_the_start_is_no_bus_master() {
    let unable = DeviceProfile { can_be_reset: false, ..profile(&Offers::default()) };
    let (device, log) = FakeDevice::new(unable, &Journal::default());
    let done = &mut ResetBuses::default();
    let none = FunctionReset { method: ResetMethod::None, ..RESET };
    assert_eq!(none.run_at_start(&device, done), DeviceState::Kept);
    assert_eq!(log.take(), []);
    // The fake's bus cannot be reset.
    let hot = FunctionReset { method: ResetMethod::Hot, alone: ResetMethod::None, ..RESET };
    assert_eq!(hot.run_at_start(&device, done), DeviceState::Unknown);
    let off = VfioCall::Write(Region::Config, COMMAND.into(), vec![0, 0]);
    assert_eq!(log.take(), [off]);
}
