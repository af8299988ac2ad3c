//! The devices of berth's machine, and the doors through which they reach VFIO and KVM.
//!
//! A door is a trait with one operation per method: [`irq::VmPort`] to KVM and
//! [`vfio::VfioPort`] to VFIO. Behind them all PCI, MSI-X and configuration space logic runs
//! without hardware, against the fakes.

#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![warn(clippy::missing_errors_doc, clippy::must_use_candidate)]

mod eventfd;
#[cfg(any(test, feature = "fakes"))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests use all of it"))]
#[cfg_attr(not(test), allow(clippy::cast_possible_truncation, reason = "numbers of a test"))]
mod fake;
pub mod irq;
pub mod panic_port;
pub mod pci;
pub mod power;
pub mod range_map;
pub mod serial;
pub mod vfio;
mod warnings;

pub use eventfd::eventfd;
