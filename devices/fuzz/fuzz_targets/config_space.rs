//! A device says of itself what it likes, in its own configuration space, and a guest does anything
//! to it: the device is refused, or what must hold does.

#![no_main]

#[path = "steps.rs"]
mod steps;

use berth_devices::vfio::hostile::Machine;
use libfuzzer_sys::fuzz_target;
use steps::Action;

fuzz_target!(|input: (Vec<(u16, u8)>, Vec<Action>)| {
    let (bytes, actions) = input;
    let Some(machine) = Machine::with_config(&bytes) else { return };
    for action in &actions {
        machine.apply(&action.step());
        machine.check();
    }
    machine.end();
});
