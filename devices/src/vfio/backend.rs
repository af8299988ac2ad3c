//! The door to VFIO: one function's regions and interrupts, one operation per method.

use std::io;
use std::ops::Range;

use vmm_sys_util::eventfd::EventFd;

use super::mapping::HostMapping;
use crate::pci::regs::INTERRUPT_PIN;
use crate::pci::{Bar, HostBdf};

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
    #[must_use]
    pub fn index(self) -> u32 {
        match self {
            Self::Bar(bar) => bar.number().into(),
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
    #[must_use]
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
    /// The kernel can reset the function alone: it did when the device was opened.
    pub can_be_reset: bool,
}

impl DeviceProfile {
    /// The device's own interrupt pin, 1..=4 for INTA..INTD, when it can be used.
    #[must_use]
    pub fn interrupt_pin(&self) -> Option<u8> {
        let pin = self.config.get(usize::from(INTERRUPT_PIN)).copied();
        pin.filter(|pin| self.has_intx && (1..=4).contains(pin))
    }
}

/// The host has fewer vectors than were asked for, so that none was bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host has only {available} vectors for it")]
pub struct FewerVectors {
    /// How many it has, at least one.
    pub available: u32,
}

impl FewerVectors {
    /// What an error of [`VfioPort::set_irqs`] says of it, if anything.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<FewerVectors> for io::Error {
    fn from(fewer: FewerVectors) -> Self {
        Self::new(io::ErrorKind::QuotaExceeded, fewer)
    }
}

/// A function that a hot reset resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affected {
    /// Its address on the host.
    pub bdf: HostBdf,
    /// Nobody else has it: its IOMMU group is ours.
    pub held: bool,
    /// A VFIO driver has it, so that the kernel may reset it once nobody has it open.
    pub is_bound: bool,
}

/// The only door to VFIO. Its errors are those of drivers/vfio/pci; the kinds that a caller tells
/// apart are said at each method, and all others mean that the call has changed nothing.
pub trait VfioPort: Send {
    /// What is known since opening.
    fn profile(&self) -> &DeviceProfile;

    /// Reads a region.
    ///
    /// # Errors
    /// `InvalidInput`: the access does not lie in the region. `EIO`: the command register has
    /// switched the BAR off, or the device is not in D0. `data` is undefined then.
    fn read(&self, region: Region, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes a region.
    ///
    /// # Errors
    /// As for [`VfioPort::read`]; a part of `data` may have been written.
    fn write(&self, region: Region, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Maps a part of a BAR into this process. The part is page-aligned.
    ///
    /// # Errors
    /// `EINVAL`: the kernel lets nobody map this part. `ENOMEM`: there is no address space for it.
    fn mmap(&self, bar: Bar, part: &Range<u64>) -> io::Result<HostMapping>;

    /// Binds eventfds to vectors from `start` on; `None` unbinds one. The first call for a kind
    /// enables it on the device; of INTx, MSI and MSI-X one may be enabled at a time.
    ///
    /// # Errors
    /// [`FewerVectors`]: the host has some, but not so many; to ask for fewer can succeed.
    /// `EBUSY`: the host's interrupt line cannot be shared. `EINVAL`: another kind is enabled, or
    /// the device is not in D0 (MSI and MSI-X). `ENOSPC`: the host has no vector left.
    fn set_irqs(&self, kind: IrqKind, start: u32, irqfds: &[Option<&EventFd>]) -> io::Result<()>;

    /// From now on a signal on `resample` unmasks INTx, which VFIO masks each time it signals.
    /// INTx is enabled.
    ///
    /// # Errors
    /// `EBUSY`: another eventfd does so already. `ENOMEM`.
    fn unmask_intx_on(&self, resample: &EventFd) -> io::Result<()>;

    /// Disables a kind, which is enabled, and unbinds all its eventfds.
    ///
    /// # Errors
    /// `EINVAL`: it is not enabled.
    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()>;

    /// Resets the function, by the first of the kernel's ways that works.
    ///
    /// # Errors
    /// `EAGAIN` (`WouldBlock`): somebody on the host has the device locked; to try again later can
    /// succeed. `ENOTTY`, `EINVAL`: the kernel knows no way, or its way failed.
    fn reset(&self) -> io::Result<()>;

    /// The functions that a hot reset resets, this one among them.
    ///
    /// # Errors
    /// `ENODEV`: the function is on a root bus, where there is no hot reset.
    fn hot_reset_affects(&self) -> io::Result<Vec<Affected>>;

    /// Resets all of them at once. They are all held by this process.
    ///
    /// # Errors
    /// `EPERM`, `EINVAL`: somebody else has one of them. `EAGAIN`: one is locked. `ENODEV`: as for
    /// [`VfioPort::hot_reset_affects`].
    fn hot_reset(&self) -> io::Result<()>;
}
