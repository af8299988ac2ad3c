//! Doors with nobody behind them: they log each call, and hold what a device would hold.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::irq::{Gsi, MsiMessage, VmPort};
use crate::pci::Bar;
use crate::vfio::{DeviceProfile, DmaPort, HostMapping, IrqKind, Region, VfioBackend};

/// A call through the door to KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortCall {
    Routes(Vec<(Gsi, MsiMessage)>),
    Attach(Gsi),
    Detach(Gsi),
    Map { slot: u32, guest: u64, length: u64 },
    Unmap(u32),
}

/// KVM as the devices see it.
#[derive(Default)]
pub struct FakePort {
    calls: Mutex<Vec<PortCall>>,
    slots: Mutex<BTreeMap<u32, Range<u64>>>,
    fail: AtomicBool,
}

impl FakePort {
    /// The calls since the last time.
    pub fn take_calls(&self) -> Vec<PortCall> {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next call is refused.
    pub fn fail_next(&self) {
        self.fail.store(true, Ordering::Relaxed);
    }

    /// What the guest reaches directly now.
    pub fn mapped(&self) -> Vec<Range<u64>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn log(&self, call: PortCall) -> io::Result<()> {
        if self.fail.swap(false, Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        Ok(())
    }
}

impl VmPort for FakePort {
    fn set_msi_routes(&self, routes: &BTreeMap<Gsi, MsiMessage>) -> io::Result<()> {
        self.log(PortCall::Routes(routes.iter().map(|(gsi, message)| (*gsi, *message)).collect()))
    }

    fn attach_irqfd(&self, gsi: Gsi, _fd: &EventFd) -> io::Result<()> {
        self.log(PortCall::Attach(gsi))
    }

    fn detach_irqfd(&self, gsi: Gsi, _fd: &EventFd) -> io::Result<()> {
        self.log(PortCall::Detach(gsi))
    }

    unsafe fn map_slot(
        &self,
        slot: u32,
        guest: u64,
        _host: *mut u8,
        length: u64,
    ) -> io::Result<()> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let range = guest..guest + length;
        // KVM refuses overlapping slots (kvm_set_memory_region).
        if slots.values().any(|other| other.start < range.end && range.start < other.end) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        self.log(PortCall::Map { slot, guest, length })?;
        slots.insert(slot, range);
        Ok(())
    }

    fn unmap_slot(&self, slot: u32) -> io::Result<()> {
        self.log(PortCall::Unmap(slot))?;
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
        Ok(())
    }
}

/// The IOMMU as the devices see it.
#[derive(Default)]
pub struct FakeDma {
    ranges: Mutex<BTreeMap<u64, u64>>,
    refuse: AtomicBool,
}

impl FakeDma {
    /// What devices reach now.
    pub fn mapped(&self) -> Vec<Range<u64>> {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        ranges.iter().map(|(iova, length)| *iova..iova + length).collect()
    }

    /// Every call from now on is refused.
    pub fn refuse(&self) {
        self.refuse.store(true, Ordering::Relaxed);
    }
}

impl DmaPort for FakeDma {
    unsafe fn map(&self, iova: u64, _host: *mut u8, length: u64) -> io::Result<()> {
        if self.refuse.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        match ranges.insert(iova, length) {
            None => Ok(()),
            Some(_) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
        }
    }

    fn unmap(&self, iova: u64, length: u64) -> io::Result<()> {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        match ranges.remove(&iova) {
            Some(found) if found == length => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }
}

/// A call through the door to VFIO; reads are not logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceCall {
    Write(Region, u64, Vec<u8>),
    SetIrqs(IrqKind, u32, Vec<bool>),
    DisableIrqs(IrqKind),
    Reset,
}

/// A device whose configuration space is memory, and whose BARs read as their offsets.
pub struct FakeDevice {
    profile: DeviceProfile,
    config: RefCell<Vec<u8>>,
    calls: Arc<Mutex<Vec<DeviceCall>>>,
}

/// The log of a [`FakeDevice`], which is owned by the function under test.
#[derive(Clone, Default)]
pub struct DeviceLog(Arc<Mutex<Vec<DeviceCall>>>);

impl DeviceLog {
    /// The calls since the last time.
    pub fn take(&self) -> Vec<DeviceCall> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl FakeDevice {
    /// A device as its profile says.
    pub fn new(profile: DeviceProfile) -> (Self, DeviceLog) {
        let log = DeviceLog::default();
        let config = RefCell::new(profile.config.clone());
        (Self { profile, config, calls: log.0.clone() }, log)
    }

    fn log(&self, call: DeviceCall) -> io::Result<()> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        Ok(())
    }
}

impl VfioBackend for FakeDevice {
    fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    fn read(&self, region: Region, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            Region::Config => {
                let config = self.config.borrow();
                let bytes = config.get(offset as usize..offset as usize + data.len());
                data.copy_from_slice(bytes.ok_or(io::ErrorKind::InvalidInput)?);
            }
            Region::Bar(_) => (offset..).zip(data).for_each(|(at, byte)| *byte = at as u8),
        }
        Ok(())
    }

    fn write(&self, region: Region, offset: u64, data: &[u8]) -> io::Result<()> {
        if region == Region::Config {
            let mut config = self.config.borrow_mut();
            let bytes = config.get_mut(offset as usize..offset as usize + data.len());
            bytes.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(data);
        }
        self.log(DeviceCall::Write(region, offset, data.to_vec()))
    }

    fn mmap(&self, bar: Bar, part: &Range<u64>) -> io::Result<HostMapping> {
        let size = self.profile.bars[bar.index()].size;
        HostMapping::new(&memory_file(size), part, part.start)
    }

    fn set_irqs(&self, kind: IrqKind, start: u32, irqfds: &[Option<&EventFd>]) -> io::Result<()> {
        self.log(DeviceCall::SetIrqs(kind, start, irqfds.iter().map(Option::is_some).collect()))
    }

    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()> {
        self.log(DeviceCall::DisableIrqs(kind))
    }

    fn reset(&self) -> io::Result<()> {
        self.log(DeviceCall::Reset)
    }
}

/// A file that can be mapped.
pub fn memory_file(size: u64) -> File {
    // SAFETY: the name is a valid C string.
    let fd = unsafe { libc::memfd_create(c"fake-device".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new, and owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size).expect("a memfd can grow");
    file
}
