//! PCI as the guest sees it: root buses, ports, configuration space, BARs, MSI and MSI-X.

mod bars;
mod bdf;
pub mod capability;
mod config;
mod host_bridge;
mod link;
pub mod msi;
pub mod msix;
pub mod regs;
mod root_bus;
mod root_port;
mod segment;

pub use bars::{Bar, BarDecode, BarHit, BarKind, BarRoutes, BarSpec, Refused, Space};
pub use bdf::{Bdf, ParseBdfError};
pub use config::ConfigSpace;
pub use host_bridge::HostBridge;
pub use link::{Link, LinkSpeed, LinkWidth, Payload};
pub use root_bus::{BusNumbers, RootBus};
pub use root_port::{PortWindows, RootPort, RootPortConfig};
pub use segment::Segment;

/// A function on a PCI bus. A guest's access never fails: reads of nothing give ones, writes to
/// nothing are dropped.
pub trait PciFunction: Send {
    /// Reads configuration space. The access stays inside it.
    fn config_read(&mut self, offset: u16, data: &mut [u8]);
    /// Writes configuration space, and lets the BARs follow. Returns whether addresses became
    /// free that another function may be waiting for.
    fn config_write(&mut self, offset: u16, data: &[u8]) -> bool;
    /// Reads a BAR where it is trapped.
    fn bar_read(&mut self, bar: Bar, offset: u64, data: &mut [u8]);
    /// Writes a BAR where it is trapped.
    fn bar_write(&mut self, bar: Bar, offset: u64, data: &[u8]);
    /// Makes the BARs answer where the registers say, as far as the addresses are free. Returns
    /// whether addresses became free.
    fn sync(&mut self) -> bool;
}
