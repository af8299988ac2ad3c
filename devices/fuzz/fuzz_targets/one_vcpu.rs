//! One vCPU does anything; what must hold is checked after each step.

#![no_main]

#[path = "steps.rs"]
mod steps;

use berth_devices::vfio::hostile::Machine;
use libfuzzer_sys::fuzz_target;
use steps::Action;

fuzz_target!(|actions: Vec<Action>| {
    let machine = Machine::new();
    for action in &actions {
        machine.apply(&action.step());
        machine.check();
    }
    machine.end();
});
