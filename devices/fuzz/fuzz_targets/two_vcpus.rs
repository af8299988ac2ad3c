//! Two vCPUs do anything at once; what must hold is checked when they are done.

#![no_main]

#[path = "steps.rs"]
mod steps;

use berth_devices::vfio::hostile::Machine;
use libfuzzer_sys::fuzz_target;
use steps::Action;

fuzz_target!(|actions: (Vec<Action>, Vec<Action>)| {
    let machine = Machine::new();
    let run = |actions: &[Action]| {
        for action in actions {
            machine.apply(&action.step());
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| run(&actions.0));
        run(&actions.1);
    });
    machine.end();
});
