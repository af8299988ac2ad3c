//! Tests on a lab host, or on this machine with `BERTH_TEST_DEVICE`; see `harness`.
//!
//! One binary for all of them, so that a lab host is booted once and shared.

#[allow(dead_code, reason = "a vocabulary: no binary needs all of it")]
mod harness;

mod backends;
mod bench;
mod binding;
mod boot;
mod check;
mod console;
mod devices;
mod endurance;
mod errors;
mod escape;
mod exit_codes;
mod faults;
mod hostile;
mod in_use;
mod interrupts;
mod lab_host;
mod passthrough;
mod placement;
mod postconditions;
mod refusals;
mod removal;
mod resets;
mod sandbox;
mod start;
mod steering;
mod topology;
mod two_machines;
