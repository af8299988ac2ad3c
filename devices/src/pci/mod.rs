//! PCI as the guest sees it: root buses, ports, configuration space, BARs, MSI and MSI-X.

mod bars;
pub mod capability;
mod config;
mod gate;
mod guest_bdf;
mod host_bdf;
mod host_bridge;
mod link;
pub mod msi;
pub mod msix;
pub mod regs;
mod root_bus;
mod root_port;
mod segment;
mod slot;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{BitOr, BitOrAssign};

pub use bars::{Bar, BarDecode, BarHit, BarKind, BarRoutes, BarSpec, Refused, Space};
pub use config::ConfigSpace;
pub use gate::DmaGate;
pub use guest_bdf::{GuestBdf, RoutedBdf};
pub use host_bdf::{HostBdf, ParseBdfError};
pub use host_bridge::HostBridge;
pub use link::{Link, LinkSpeed, LinkWidth, Payload};
pub use root_bus::{BusNumbers, RootBus};
pub use root_port::{PortWindows, RootPort, RootPortConfig};
pub use segment::Segment;
pub use slot::{Attention, HotPlug};

/// A function on a PCI bus. A guest's access never fails: reads of nothing give ones, writes to
/// nothing are dropped.
pub trait PciFunction: Send {
    /// Reads configuration space. The access stays inside it.
    fn config_read(&mut self, offset: u16, data: &mut [u8]);
    /// Writes configuration space, and lets the BARs follow.
    fn config_write(&mut self, offset: u16, data: &[u8]) -> Freed;
    /// Reads a BAR where it is trapped.
    fn bar_read(&mut self, bar: Bar, offset: u64, data: &mut [u8]);
    /// Writes a BAR where it is trapped.
    fn bar_write(&mut self, bar: Bar, offset: u64, data: &[u8]);
    /// Makes the BARs answer where the registers say, as far as the addresses are free.
    fn sync(&mut self) -> Freed;
    /// Follows the link above it.
    fn set_link(&mut self, link: LinkState) -> Freed;
    /// Resets the device, whose link is down, unless its bus is in `done`; a reset of its whole bus
    /// is added there.
    fn reset(&mut self, cause: ResetCause, done: &mut ResetBuses);
}

/// What a function has given up. Another one may be waiting for the addresses, and has to be synced
/// then.
#[must_use = "functions that wait for addresses are to be synced"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// No addresses.
    Nothing,
    /// Addresses at which a BAR answers no more.
    Addresses,
}

impl BitOr for Freed {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        if self == Self::Nothing { other } else { self }
    }
}

impl BitOrAssign for Freed {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// What a port does for the functions behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Everything passes.
    Up,
    /// Nothing passes; the functions keep their state. The port sleeps.
    Asleep,
    /// Nothing passes, and the functions are reset: there is no link, no power, or a bus reset.
    Down,
}

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCause {
    /// The machine starts.
    Start,
    /// The guest does it, by registers of the port above.
    Port,
    /// The machine ends.
    End,
}

impl fmt::Display for ResetCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "at the start",
            Self::Port => "through its port",
            Self::End => "at the end",
        })
    }
}

/// Buses of the host that were reset as a whole, while one function after the other is asked to
/// reset itself.
#[derive(Clone, Debug, Default)]
pub struct ResetBuses(BTreeSet<(u32, u8)>);

impl ResetBuses {
    /// The bus of `function` has been reset.
    pub fn insert(&mut self, function: HostBdf) {
        self.0.insert((function.domain(), function.bus()));
    }

    /// Whether the bus of `function` has been reset.
    #[must_use]
    pub fn contains(&self, function: HostBdf) -> bool {
        self.0.contains(&(function.domain(), function.bus()))
    }
}
