//! berth runs one virtual machine around PCIe devices that it owns.
//!
//! A [`config::Config`] is what the user wishes, a [`host::HostProfile`] what exists. From both
//! comes a [`plan::Plan`], every decision, or the reason there is none. [`machine::run`] executes
//! it, and an [`exit::Exit`] says how that ended. [`check`] says what keeps a host from it,
//! [`advice`] what to do about that, [`binding`] gives functions to vfio-pci and back, [`sriov`]
//! makes virtual ones.
//!
//! Halls depend on those above them in this list and on no others; a test of this crate holds that.

pub mod advice;
pub mod binding;
pub mod check;
mod child;
pub mod config;
pub mod device_list;
pub mod error;
pub mod exit;
pub mod host;
pub mod machine;
pub mod netlink;
pub mod placement_lock;
pub mod plan;
pub mod sandbox;
pub mod sriov;
pub mod state;
pub mod units;
