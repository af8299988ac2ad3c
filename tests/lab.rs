//! Tests on a lab host, or on this machine with `BERTH_TEST_DEVICE`; see `harness`.
//!
//! One binary for all of them, so that a lab host is booted once and shared.

#[allow(dead_code, reason = "a vocabulary: no binary needs all of it")]
mod harness;

mod afterwards;
mod backends;
mod binding;
mod boot;
mod console;
mod devices;
mod ends;
mod endurance;
mod errors;
mod hostile;
mod interrupts;
mod lab_host;
mod neighbours;
mod passthrough;
mod placement;
mod readiness;
mod refusals;
mod removal;
mod resets;
mod steering;
mod topology;
