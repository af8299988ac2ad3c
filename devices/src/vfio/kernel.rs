//! The real door to VFIO: an opened function, whichever way it was opened.
//!
//! vfio-ioctls opens, binds and describes. Reads, writes, maps and interrupts go through the
//! device's descriptor here, because that crate swallows their errors, and cannot bind one vector.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_REGION_INFO_FLAG_MMAP, VFIO_TYPE,
    vfio_irq_set,
};
use vfio_ioctls::{VfioDevice, VfioError, VfioRegionInfoCap};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ptr};
use vmm_sys_util::ioctl_io_nr;

use super::backend::{DeviceProfile, IrqKind, Region, RegionProfile, VfioBackend};
use super::mapping::HostMapping;
use crate::pci::Bar;
use crate::pci::regs::{CONFIG_SIZE, EXTENDED_CONFIG_SIZE};

ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE.into(), VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, VFIO_TYPE.into(), VFIO_BASE + 11);

/// Why a function was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Group and container, or the device's own file and iommufd, refused.
    #[error("VFIO does not hand it out")]
    Attach(#[source] VfioError),
    /// It was opened, but does not answer.
    #[error("its configuration space cannot be read")]
    Describe(#[source] io::Error),
}

/// An opened function.
pub struct KernelDevice {
    profile: DeviceProfile,
    /// Closed before `device`, which can leave its container only when nothing holds it open, and
    /// whose iommufd lets go of it only then.
    file: File,
    device: VfioDevice,
}

impl KernelDevice {
    pub(super) fn new(device: VfioDevice) -> io::Result<Self> {
        // SAFETY: `device` owns the descriptor and outlives this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
        let file = File::from(fd.try_clone_to_owned()?);
        let size = match device.get_region_size(Region::Config.index()) as usize {
            size if size >= EXTENDED_CONFIG_SIZE => EXTENDED_CONFIG_SIZE,
            _ => CONFIG_SIZE,
        };
        let mut config = vec![0; size];
        file.read_exact_at(&mut config, device.get_region_offset(Region::Config.index()))?;
        let irq = |kind: IrqKind| device.get_irq_info(kind.index()).filter(|irq| irq.count > 0);
        let profile = DeviceProfile {
            config,
            bars: std::array::from_fn(|index| region_profile(&device, index as u32)),
            has_intx: irq(IrqKind::Intx).is_some(),
            msi_vectors: irq(IrqKind::Msi).map_or(0, |irq| irq.count),
            msix_vectors: irq(IrqKind::Msix).map_or(0, |irq| irq.count),
            msix_grows: irq(IrqKind::Msix)
                .is_some_and(|irq| irq.flags & VFIO_IRQ_INFO_NORESIZE == 0),
            has_error_irq: irq(IrqKind::Error).is_some(),
            has_request_irq: irq(IrqKind::Request).is_some(),
        };
        Ok(Self { profile, file, device })
    }

    fn region_offset(&self, region: Region, offset: u64, length: usize) -> io::Result<u64> {
        // The regions of a device share one descriptor: an access past the end of one could land
        // in another.
        let size = self.device.get_region_size(region.index());
        let end = offset.checked_add(length as u64);
        if end.is_none_or(|end| end > size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.device.get_region_offset(region.index()) + offset)
    }

    fn set_irqs_raw(
        &self,
        flags: u32,
        kind: IrqKind,
        start: u32,
        fds: &[i32],
        count: u32,
    ) -> io::Result<()> {
        let argsz = (size_of::<vfio_irq_set>() + size_of_val(fds)) as u32;
        // `struct vfio_irq_set` is five 32-bit words and then the descriptors.
        let mut words = vec![argsz, flags, kind.index(), start, count];
        words.extend(fds.iter().map(|fd| *fd as u32));
        // SAFETY: `words` holds the `argsz` bytes that the kernel reads.
        match unsafe { ioctl_with_ptr(&self.file, VFIO_DEVICE_SET_IRQS(), words.as_ptr()) } {
            0 => Ok(()),
            // Not done: this is how many vectors there are (`vfio_msi_enable`).
            fewer @ 1.. => {
                Err(io::Error::other(format!("the host has only {fewer} vectors for it")))
            }
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn region_profile(device: &VfioDevice, index: u32) -> RegionProfile {
    let size = device.get_region_size(index);
    if size == 0 || device.get_region_flags(index) & VFIO_REGION_INFO_FLAG_MMAP == 0 {
        return RegionProfile { size, mappable: Vec::new() };
    }
    let sparse = device.get_region_caps(index).into_iter().find_map(|cap| match cap {
        VfioRegionInfoCap::SparseMmap(sparse) => Some(sparse.areas),
        _ => None,
    });
    let mappable = match sparse {
        Some(areas) => areas.iter().map(|area| area.offset..area.offset + area.size).collect(),
        None => std::iter::once(0..size).collect(),
    };
    RegionProfile { size, mappable }
}

impl VfioBackend for KernelDevice {
    fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    fn read(&self, region: Region, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, self.region_offset(region, offset, data.len())?)
    }

    fn write(&self, region: Region, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, self.region_offset(region, offset, data.len())?)
    }

    fn mmap(&self, bar: Bar, part: &Range<u64>) -> io::Result<HostMapping> {
        let start =
            self.region_offset(Region::Bar(bar), part.start, (part.end - part.start) as usize)?;
        HostMapping::new(&self.file, &(start..start + part.end - part.start), part.start)
    }

    fn set_irqs(&self, kind: IrqKind, start: u32, irqfds: &[Option<&EventFd>]) -> io::Result<()> {
        let fds: Vec<i32> = irqfds.iter().map(|fd| fd.map_or(-1, AsRawFd::as_raw_fd)).collect();
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs_raw(flags, kind, start, &fds, fds.len() as u32)
    }

    fn unmask_intx_on(&self, resample: &EventFd) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK;
        self.set_irqs_raw(flags, IrqKind::Intx, 0, &[resample.as_raw_fd()], 1)
    }

    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs_raw(flags, kind, 0, &[], 0)
    }

    fn reset(&self) -> io::Result<()> {
        // SAFETY: the request takes no argument.
        match unsafe { ioctl(&self.file, VFIO_DEVICE_RESET()) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
