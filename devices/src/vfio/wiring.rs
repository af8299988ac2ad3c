//! What an assigned function is given: its site on the guest's bus, and what it shares with the
//! other functions; and why it could not be put there.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::dma::PeerAccess;
use super::reset::FunctionReset;
use crate::irq::{Gsi, MsiRouter, VmPort};
use crate::pci::{BarRoutes, BarSpec, GuestBdf};

/// Why a function could not be put into the machine.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The host's kernel and the plan disagree.
    #[error("BAR {bar} has {found:#x} bytes; {planned:#x} were planned from sysfs")]
    BarSize {
        /// Register.
        bar: usize,
        /// What VFIO says.
        found: u64,
        /// What the plan says.
        planned: u64,
    },
    /// A BAR cannot be mapped.
    #[error("{:#x}..{:#x} of BAR {bar} cannot be mapped", part.start, part.end)]
    Map {
        /// Register.
        bar: usize,
        /// Part of it.
        part: Range<u64>,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// An interrupt cannot be prepared.
    #[error("its interrupts cannot be prepared")]
    Irq(#[source] io::Error),
    /// The device cannot be reset or read.
    #[error("it does not answer")]
    Access(#[source] io::Error),
}

/// Where a function goes on the guest's bus, and what the guest finds in its BARs.
#[derive(Clone, Debug)]
pub struct FunctionSite {
    /// Address in the guest.
    pub bdf: GuestBdf,
    /// BARs with their first addresses.
    pub bars: Vec<BarSpec>,
    /// Its device has several functions in the guest.
    pub multi_function: bool,
    /// Where the guest's firmware tables say that the device's own interrupt pin ends; `None`
    /// shows the guest no pin.
    pub intx_gsi: Option<Gsi>,
    /// Address that is kept for the expansion ROM; without one the guest sees none.
    pub rom: Option<u64>,
    /// How it is reset.
    pub reset: FunctionReset,
}

/// What all functions of a machine share.
#[derive(Clone)]
pub struct Wiring {
    /// The door to KVM.
    pub port: Arc<dyn VmPort>,
    /// MSI routes.
    pub router: Arc<MsiRouter>,
    /// Who answers in the windows.
    pub routes: Arc<BarRoutes>,
    /// How BARs are given to the other devices.
    pub peers: PeerAccess,
}
