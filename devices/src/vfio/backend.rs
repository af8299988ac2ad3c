//! The door to VFIO: one function's regions and interrupts, one operation per method.

use std::io;
use std::ops::Range;

use vmm_sys_util::eventfd::EventFd;

use super::mapping::HostMapping;
use crate::pci::regs::INTERRUPT_PIN;
use crate::pci::{Bar, Bdf};

/// A region of a vfio-pci device (include/uapi/linux/vfio.h, `VFIO_PCI_*_REGION_INDEX`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// A BAR, or the expansion ROM as [`Bar::ROM`]: VFIO counts it as the seventh.
    Bar(Bar),
    /// Configuration space.
    Config,
}

impl Region {
    /// VFIO's region index.
    pub fn index(self) -> u32 {
        match self {
            Self::Bar(bar) => bar.index() as u32,
            Self::Config => vfio_bindings::bindings::vfio::VFIO_PCI_CONFIG_REGION_INDEX,
        }
    }
}

/// An interrupt of a vfio-pci device (`VFIO_PCI_*_IRQ_INDEX`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IrqKind {
    /// The interrupt pin, level-triggered.
    Intx,
    /// Message signalled, address and data in configuration space.
    Msi,
    /// Message signalled, the table in a BAR.
    Msix,
    /// The host reports an uncorrectable error of the device.
    Error,
    /// The host wants the device back. Repeated until the device is closed.
    Request,
}

impl IrqKind {
    /// VFIO's interrupt index.
    pub fn index(self) -> u32 {
        use vfio_bindings::bindings::vfio;
        match self {
            Self::Intx => vfio::VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => vfio::VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => vfio::VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Error => vfio::VFIO_PCI_ERR_IRQ_INDEX,
            Self::Request => vfio::VFIO_PCI_REQ_IRQ_INDEX,
        }
    }
}

/// What the host's kernel says of the region of a BAR or of the expansion ROM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionProfile {
    /// Bytes; 0 when there is no such BAR.
    pub size: u64,
    /// Parts that may be mapped; empty when none may.
    pub mappable: Vec<Range<u64>>,
}

/// What is known of a device when it has been opened.
#[derive(Clone, Debug, Default)]
pub struct DeviceProfile {
    /// Configuration space, 256 or 4,096 bytes.
    pub config: Vec<u8>,
    /// The six BARs, and the expansion ROM at the index of [`Bar::ROM`].
    pub bars: [RegionProfile; Bar::COUNT],
    /// The interrupt pin is connected on the host.
    pub has_intx: bool,
    /// MSI vectors that may be bound; 0 without MSI.
    pub msi_vectors: u32,
    /// MSI-X vectors that may be bound; 0 without MSI-X.
    pub msix_vectors: u32,
    /// Vectors can be added while MSI-X is enabled (no `VFIO_IRQ_INFO_NORESIZE`).
    pub msix_grows: bool,
    /// The error interrupt is there.
    pub has_error_irq: bool,
    /// The request interrupt is there.
    pub has_request_irq: bool,
}

impl DeviceProfile {
    /// The device's own interrupt pin, 1..=4 for INTA..INTD, when it can be used.
    pub fn interrupt_pin(&self) -> Option<u8> {
        let pin = self.config.get(usize::from(INTERRUPT_PIN)).copied();
        pin.filter(|pin| self.has_intx && (1..=4).contains(pin))
    }
}

/// A function that a hot reset resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affected {
    /// Its address on the host.
    pub bdf: Bdf,
    /// Nobody else has it: its IOMMU group is ours.
    pub held: bool,
}

/// The only door to VFIO.
pub trait VfioPort: Send {
    /// What is known since opening.
    fn profile(&self) -> &DeviceProfile;
    /// Reads a region; an error leaves `data` undefined.
    fn read(&self, region: Region, offset: u64, data: &mut [u8]) -> io::Result<()>;
    /// Writes a region.
    fn write(&self, region: Region, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Maps a part of a BAR into this process.
    fn mmap(&self, bar: Bar, part: &Range<u64>) -> io::Result<HostMapping>;
    /// Binds eventfds to vectors from `start` on; `None` unbinds one. The first call for a kind
    /// enables it on the device; of INTx, MSI and MSI-X one may be enabled at a time.
    fn set_irqs(&self, kind: IrqKind, start: u32, irqfds: &[Option<&EventFd>]) -> io::Result<()>;
    /// From now on a signal on `resample` unmasks INTx, which VFIO masks each time it signals.
    /// INTx is enabled.
    fn unmask_intx_on(&self, resample: &EventFd) -> io::Result<()>;
    /// Disables a kind, which is enabled, and unbinds all its eventfds.
    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()>;
    /// Resets the function, by the first of the kernel's ways that works.
    fn reset(&self) -> io::Result<()>;
    /// The functions that a hot reset resets, this one among them.
    fn hot_reset_affects(&self) -> io::Result<Vec<Affected>>;
    /// Resets all of them at once. They are all held by this process.
    fn hot_reset(&self) -> io::Result<()>;
}
