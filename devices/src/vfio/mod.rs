//! How a passthrough function works.
//!
//! The guest's driver talks to the device itself: BARs are mapped into the guest as memory slots,
//! DMA goes through the IOMMU to guest RAM, and each interrupt vector is an eventfd between VFIO
//! and KVM, the interrupt pin two of them. What is left for berth is rare and slow: configuration
//! space, the pages of the MSI-X table, BARs that are smaller than a page or ports, the expansion
//! ROM, and following the guest when it moves a BAR or programs a vector.
//!
//! Everything that follows a guest's write is one idempotent step from what is to what should
//! be: `FunctionBars::sync` and `Interrupts::sync`.

mod attach;
mod backend;
mod bars;
mod config_space;
mod dma;
mod function;
mod group;
#[cfg(any(test, feature = "fakes"))]
#[cfg_attr(not(test), allow(clippy::cast_possible_truncation, reason = "numbers of a test"))]
pub mod hostile;
mod interrupts;
mod intx;
mod iommu;
mod iova;
mod kernel;
mod mapping;
mod msi;
mod msix;
mod regions;
mod reset;
#[cfg(any(test, feature = "fakes"))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests use all of it"))]
#[cfg_attr(not(test), allow(clippy::cast_possible_truncation, reason = "numbers of a test"))]
pub(crate) mod rig;
mod rom;
mod wiring;

pub use attach::{AttachError, try_attach};
pub use backend::{
    Affected, DeviceProfile, FewerVectors, IrqKind, Region, RegionProfile, VfioPort,
};
pub use dma::{DmaPort, PeerAccess};
pub use function::{Notifications, VfioFunction};
pub use iommu::{AddressSpace, IommuBackend};
pub use kernel::{KernelDevice, OpenError};
pub use mapping::HostMapping;
pub use reset::{DeviceState, FunctionReset, ResetMethod};
pub use wiring::{FunctionError, FunctionSite, Wiring};
