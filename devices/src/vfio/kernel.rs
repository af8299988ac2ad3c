//! The real door to VFIO: an opened function, whichever way it was opened.
//!
//! vfio-ioctls opens, binds and describes. Reads, writes, maps and interrupts go through the
//! device's descriptor here, because that crate swallows their errors, and cannot bind one vector.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DEVICE_FLAGS_RESET, VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_TYPE, vfio_device_info, vfio_irq_set,
};
use vfio_ioctls::{VfioDevice, VfioError, VfioOps, VfioRegionInfoCap};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr};
use vmm_sys_util::ioctl_io_nr;

use super::backend::{
    Affected, DeviceProfile, FewerVectors, IrqKind, Region, RegionProfile, VfioPort,
};
use super::group;
use super::iommu::AddressSpace;
use super::mapping::HostMapping;
use crate::pci::regs::{CONFIG_SIZE, EXTENDED_CONFIG_SIZE};
use crate::pci::{Bar, HostBdf};

ioctl_io_nr!(VFIO_DEVICE_GET_INFO, VFIO_TYPE.into(), VFIO_BASE + 7);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE.into(), VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, VFIO_TYPE.into(), VFIO_BASE + 11);
ioctl_io_nr!(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, VFIO_TYPE.into(), VFIO_BASE + 12);
ioctl_io_nr!(VFIO_DEVICE_PCI_HOT_RESET, VFIO_TYPE.into(), VFIO_BASE + 13);

/// Someone else's device (include/uapi/linux/vfio.h).
const VFIO_PCI_DEVID_NOT_OWNED: i32 = -1;

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
    /// A second descriptor of `device`.
    file: ManuallyDrop<File>,
    device: ManuallyDrop<VfioDevice>,
    /// Where it was opened, and what a hot reset has to show.
    space: AddressSpace,
    /// Told of each change of message signalled interrupts.
    listener: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Drop for KernelDevice {
    fn drop(&mut self) {
        // SAFETY: neither field is used any more.
        let (file, device) =
            unsafe { (ManuallyDrop::take(&mut self.file), ManuallyDrop::take(&mut self.device)) };
        // An iommufd lets go of a device only when nothing else holds it open.
        drop(file);
        match &self.space {
            AddressSpace::Container { container, .. } => group::close(device, container),
            AddressSpace::Iommufd(_) => drop(device),
        }
    }
}

impl KernelDevice {
    /// Opens the function at `sysfs`, such as `/sys/bus/pci/devices/0000:41:00.0`, into `space`:
    /// through its group, or by its own file.
    ///
    /// # Errors
    /// The kernel does not hand the function out, or what was opened does not answer.
    pub fn open(space: &AddressSpace, sysfs: &Path) -> Result<Self, OpenError> {
        let operations: Arc<dyn VfioOps> = match space {
            AddressSpace::Container { container, .. } => container.clone(),
            AddressSpace::Iommufd(iommufd) => iommufd.clone(),
        };
        let device = VfioDevice::new(sysfs, operations, true).map_err(OpenError::Attach)?;
        if let AddressSpace::Container { groups, .. } = space {
            groups.add(sysfs).map_err(OpenError::Describe)?;
        }
        Self::describe(device, space.clone()).map_err(OpenError::Describe)
    }

    fn describe(device: VfioDevice, space: AddressSpace) -> io::Result<Self> {
        // SAFETY: `device` owns the descriptor and outlives this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
        let file = File::from(fd.try_clone_to_owned()?);
        let size = match device.get_region_size(Region::Config.index()) {
            size if size >= EXTENDED_CONFIG_SIZE as u64 => EXTENDED_CONFIG_SIZE,
            _ => CONFIG_SIZE,
        };
        let mut config = vec![0; size];
        file.read_exact_at(&mut config, device.get_region_offset(Region::Config.index()))?;
        let irq = |kind: IrqKind| device.get_irq_info(kind.index()).filter(|irq| irq.count > 0);
        let profile = DeviceProfile {
            config,
            bars: region_profiles(&device),
            has_intx: irq(IrqKind::Intx).is_some(),
            msi_vectors: irq(IrqKind::Msi).map_or(0, |irq| irq.count),
            msix_vectors: irq(IrqKind::Msix).map_or(0, |irq| irq.count),
            msix_grows: irq(IrqKind::Msix)
                .is_some_and(|irq| irq.flags & VFIO_IRQ_INFO_NORESIZE == 0),
            has_error_irq: irq(IrqKind::Error).is_some(),
            has_request_irq: irq(IrqKind::Request).is_some(),
            can_be_reset: info(&file)?.flags & VFIO_DEVICE_FLAGS_RESET != 0,
        };
        let (file, device) = (ManuallyDrop::new(file), ManuallyDrop::new(device));
        Ok(Self { profile, file, device, space, listener: None })
    }

    /// Calls `listener` whenever message signalled interrupts of the device were enabled or bound
    /// anew. It is called with the function locked, so it must not wait.
    #[must_use]
    pub fn on_new_interrupts(mut self, listener: impl Fn() + Send + Sync + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
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
        let argsz = word(size_of::<vfio_irq_set>() + size_of_val(fds))?;
        // `struct vfio_irq_set` is five 32-bit words and then the descriptors.
        let mut words = vec![argsz, flags, kind.index(), start, count];
        words.extend(fds.iter().map(|fd| *fd as u32));
        // SAFETY: `words` holds the `argsz` bytes that the kernel reads.
        match unsafe { ioctl_with_ptr(&*self.file, VFIO_DEVICE_SET_IRQS(), words.as_ptr()) } {
            0 => Ok(()),
            // Not done: this is how many vectors there are (`vfio_msi_enable`).
            fewer @ 1.. => Err(FewerVectors { available: fewer.unsigned_abs() }.into()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// `struct vfio_pci_hot_reset_info` without its array, and `struct vfio_pci_hot_reset` alike: the
/// size of all, flags, and how many follow. Both go into 32-bit words.
const HOT_RESET_HEADER: usize = 3;

/// `struct vfio_pci_dependent_device` as two words: who has it, then segment, bus and function.
const DEPENDENT_WORDS: usize = 2;

impl KernelDevice {
    /// The functions that a hot reset resets. Who has one is told by its group; of a device that
    /// was opened by its own file by its ID in the iommufd, or `VFIO_PCI_DEVID_NOT_OWNED`.
    fn dependents(&self) -> io::Result<Vec<(HostBdf, u32)>> {
        // A bus has no more.
        const MOST: usize = 256;
        let mut words = vec![0u32; HOT_RESET_HEADER + MOST * DEPENDENT_WORDS];
        words[0] = word(size_of_val(words.as_slice()))?;
        let request = VFIO_DEVICE_GET_PCI_HOT_RESET_INFO();
        // SAFETY: the kernel writes no further than the size in the first word, which is that of
        // `words`.
        if unsafe { ioctl_with_mut_ptr(&*self.file, request, words.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let dependents = words[HOT_RESET_HEADER..].chunks_exact(DEPENDENT_WORDS);
        let dependents = dependents.take(words[2] as usize).filter_map(|dependent| {
            let [owner, place] = [dependent[0], dependent[1]];
            let ([.., bus, devfn], segment) = (place.to_le_bytes(), place & 0xffff);
            Some((HostBdf::new(segment, bus, devfn >> 3, devfn & 7)?, owner))
        });
        Ok(dependents.collect())
    }
}

/// What the kernel says of the device as a whole; vfio-ioctls keeps the flags to itself.
fn info(device: &File) -> io::Result<vfio_device_info> {
    let argsz = word(size_of::<vfio_device_info>())?;
    let mut info = vfio_device_info { argsz, ..Default::default() };
    // SAFETY: the kernel writes no further than `argsz`, which is the size of `info`.
    match unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_GET_INFO(), &mut info) } {
        0.. => Ok(info),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the driver of a function is vfio-pci or a vendor's variant of it.
fn is_bound_to_vfio(function: HostBdf) -> bool {
    let driver = std::fs::read_link(format!("/sys/bus/pci/devices/{function}/driver"));
    let name = driver.ok().and_then(|link| Some(link.file_name()?.to_str()?.replace('_', "-")));
    name.is_some_and(|name| name.ends_with("vfio-pci"))
}

/// A size or a number as VFIO's structures hold it.
fn word(value: usize) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn region_profiles(device: &VfioDevice) -> [RegionProfile; Bar::COUNT] {
    let mut index = 0..;
    [(); Bar::COUNT].map(|()| region_profile(device, index.next().expect("without an end")))
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

impl VfioPort for KernelDevice {
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
        let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
        let start = self.region_offset(Region::Bar(bar), part.start, length)?;
        HostMapping::new(&self.file, &(start..start + part.end - part.start), part.start)
    }

    fn set_irqs(&self, kind: IrqKind, start: u32, irqfds: &[Option<&EventFd>]) -> io::Result<()> {
        let fds: Vec<i32> = irqfds.iter().map(|fd| fd.map_or(-1, AsRawFd::as_raw_fd)).collect();
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs_raw(flags, kind, start, &fds, word(fds.len())?)?;
        let message_signalled = matches!(kind, IrqKind::Msi | IrqKind::Msix);
        if let Some(listener) = self.listener.as_ref().filter(|_| message_signalled) {
            listener();
        }
        Ok(())
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
        match unsafe { ioctl(&*self.file, VFIO_DEVICE_RESET()) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn hot_reset_affects(&self) -> io::Result<Vec<Affected>> {
        let held = |owner: u32| match &self.space {
            AddressSpace::Container { groups, .. } => groups.holds(owner),
            // An ID below 0.
            AddressSpace::Iommufd(_) => owner as i32 != VFIO_PCI_DEVID_NOT_OWNED,
        };
        let affected = self.dependents()?.into_iter();
        let affected = affected.map(|(bdf, owner)| Affected {
            bdf,
            held: held(owner),
            is_bound: is_bound_to_vfio(bdf),
        });
        Ok(affected.collect())
    }

    fn hot_reset(&self) -> io::Result<()> {
        let reset = |groups: &[RawFd]| {
            let size = (HOT_RESET_HEADER + groups.len()) * size_of::<u32>();
            let mut words = vec![word(size)?, 0, word(groups.len())?];
            words.extend(groups.iter().map(|fd| *fd as u32));
            let request = VFIO_DEVICE_PCI_HOT_RESET();
            // SAFETY: `words` holds the `argsz` bytes that the kernel reads.
            match unsafe { ioctl_with_ptr(&*self.file, request, words.as_ptr()) } {
                0.. => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        match &self.space {
            AddressSpace::Container { groups, .. } => {
                let mut owners: Vec<u32> =
                    self.dependents()?.iter().map(|(_, group)| *group).collect();
                owners.sort_unstable();
                owners.dedup();
                groups.with(&owners, reset)
            }
            // The kernel knows whose devices are on an iommufd.
            AddressSpace::Iommufd(_) => reset(&[]),
        }
    }
}
