//! A vfio-pci device as the devices see it: what drivers/vfio/pci of Linux does with each call.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::FromRawFd;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::{errno, lock};
use crate::pci::Bar;
use crate::pci::capability::capabilities;
use crate::pci::regs::{
    CAP_POWER, COMMAND, COMMAND_IO, COMMAND_MEMORY, POWER_CONTROL, POWER_STATE,
};
use crate::vfio::{Affected, DeviceProfile, HostMapping, IrqKind, Region, VfioPort};

/// A call through the door to VFIO; of reads, only those of the expansion ROM are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceCall {
    ReadRom(Range<u64>),
    Write(Region, u64, Vec<u8>),
    /// For a reason that a healthy host can have.
    Refused(IrqKind),
    SetIrqs(IrqKind, u32, Vec<bool>),
    UnmaskIntx,
    DisableIrqs(IrqKind),
    Reset,
    HotReset,
}

/// A device whose configuration space is memory, and whose BARs read as their offsets.
pub struct FakeDevice {
    profile: DeviceProfile,
    config: RefCell<Vec<u8>>,
    /// BARs that are I/O ports, from the registers that the device started with.
    ports: [bool; Bar::COUNT],
    log: DeviceLog,
}

/// The log of a [`FakeDevice`], which is owned by the function under test.
#[derive(Clone, Default)]
pub struct DeviceLog(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: Vec<DeviceCall>,
    violations: Vec<String>,
    /// The one type of interrupt that is enabled, and how many vectors it has.
    enabled: Option<(IrqKind, u32)>,
    unmask_bound: bool,
    /// What the device signals now, by vector of the enabled type.
    bound: BTreeMap<u32, EventFd>,
    /// Vectors of MSI that the host has; 0 for as many as the device.
    host_msi_vectors: u32,
    refuse_intx: bool,
    /// What a hot reset of this device resets.
    affected: Vec<Affected>,
    refuse_reset: Option<i32>,
    mappings: Vec<(Bar, Range<u64>, u64)>,
}

impl State {
    fn violation(&mut self, what: impl Into<String>) -> io::Result<()> {
        self.violations.push(what.into());
        Err(errno(libc::EINVAL))
    }
}

impl DeviceLog {
    /// The calls since the last time.
    pub fn take(&self) -> Vec<DeviceCall> {
        std::mem::take(&mut lock(&self.0).calls)
    }

    /// Calls that nobody may make.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.0).violations.clone()
    }

    /// Parts of BARs that were mapped, and where.
    pub fn mappings(&self) -> Vec<(Bar, Range<u64>, u64)> {
        lock(&self.0).mappings.clone()
    }

    /// The type of interrupt that is enabled.
    pub fn enabled(&self) -> Option<IrqKind> {
        lock(&self.0).enabled.map(|(kind, _)| kind)
    }

    /// The device interrupts.
    pub fn signal(&self, kind: IrqKind, vector: u32) {
        let state = lock(&self.0);
        assert_eq!(state.enabled.map(|(kind, _)| kind), Some(kind));
        state.bound[&vector].write(1).expect("an eventfd takes a signal");
    }

    /// The host gives only so many vectors of MSI at once.
    pub fn limit_msi(&self, vectors: u32) {
        lock(&self.0).host_msi_vectors = vectors;
    }

    /// What a hot reset of this device resets; nothing says that there is none.
    pub fn set_affected(&self, affected: Vec<Affected>) {
        lock(&self.0).affected = affected;
    }

    /// Resets fail from now on.
    pub fn refuse_reset(&self, number: i32) {
        lock(&self.0).refuse_reset = Some(number);
    }

    /// The host's line is taken, as by a driver that the device cannot share it with.
    pub fn refuse_intx(&self) {
        lock(&self.0).refuse_intx = true;
    }
}

impl FakeDevice {
    /// A device as its profile says.
    pub fn new(profile: DeviceProfile) -> (Self, DeviceLog) {
        let log = DeviceLog::default();
        let config = RefCell::new(profile.config.clone());
        let ports =
            std::array::from_fn(|index| index < 6 && profile.config[0x10 + 4 * index] & 1 == 1);
        (Self { profile, config, ports, log: log.clone() }, log)
    }

    fn call(
        &self,
        call: DeviceCall,
        effect: impl FnOnce(&mut State) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = lock(&self.log.0);
        effect(&mut state)?;
        state.calls.push(call);
        Ok(())
    }

    /// An access past a region could land in the next one; one to a BAR that the command register
    /// has switched off fails (`__vfio_pci_memory_enabled`).
    fn check(&self, region: Region, offset: u64, length: usize) -> io::Result<()> {
        let size = match region {
            Region::Bar(bar) => self.profile.bars[bar.index()].size,
            Region::Config => self.config.borrow().len() as u64,
        };
        if offset + length as u64 > size {
            let access = format!("{length} bytes at {offset:#x} of {region:?}");
            return lock(&self.log.0).violation(access);
        }
        if let Region::Bar(bar) = region {
            let enable = if self.ports[bar.index()] { COMMAND_IO } else { COMMAND_MEMORY };
            if u16::from(self.config.borrow()[usize::from(COMMAND)]) & enable == 0 {
                return Err(errno(libc::EIO));
            }
        }
        Ok(())
    }

    /// In another power state than D0, in which Linux enables no MSI.
    fn sleeps(&self) -> bool {
        let config = self.config.borrow();
        let power = capabilities(&config).into_iter().find(|found| found.id == CAP_POWER);
        let state = power.map(|power| usize::from(power.offset + POWER_CONTROL));
        state.is_some_and(|state| u16::from(config[state]) & POWER_STATE != 0)
    }

    /// Vectors of a kind that is enabled on the device, one kind at a time.
    fn vectors(&self, kind: IrqKind) -> Option<u32> {
        match kind {
            IrqKind::Intx => Some(u32::from(self.profile.has_intx)),
            IrqKind::Msi => Some(self.profile.msi_vectors),
            IrqKind::Msix => Some(self.profile.msix_vectors),
            IrqKind::Error | IrqKind::Request => None,
        }
    }
}

impl VfioPort for FakeDevice {
    fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    fn read(&self, region: Region, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.check(region, offset, data.len())?;
        match region {
            Region::Config => {
                let config = self.config.borrow();
                data.copy_from_slice(&config[offset as usize..offset as usize + data.len()]);
            }
            Region::Bar(bar) => {
                if bar == Bar::ROM {
                    let range = offset..offset + data.len() as u64;
                    self.call(DeviceCall::ReadRom(range), |_| Ok(()))?;
                }
                (offset..).zip(data).for_each(|(at, byte)| *byte = at as u8);
            }
        }
        Ok(())
    }

    fn write(&self, region: Region, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(region, offset, data.len())?;
        if region == Region::Config {
            let mut config = self.config.borrow_mut();
            config[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        }
        self.call(DeviceCall::Write(region, offset, data.to_vec()), |_| Ok(()))
    }

    fn mmap(&self, bar: Bar, part: &Range<u64>) -> io::Result<HostMapping> {
        let size = self.profile.bars[bar.index()].size;
        let mapping = HostMapping::new(&memory_file(size), part, part.start)?;
        let address = mapping.address() as u64;
        lock(&self.log.0).mappings.push((bar, part.clone(), address));
        Ok(mapping)
    }

    /// As `vfio_pci_set_irqs_ioctl` in drivers/vfio/pci/vfio_pci_intrs.c.
    fn set_irqs(&self, kind: IrqKind, start: u32, irqfds: &[Option<&EventFd>]) -> io::Result<()> {
        let bound = irqfds.iter().map(Option::is_some).collect();
        let end = start + irqfds.len() as u32;
        let available = self.vectors(kind);
        self.call(DeviceCall::SetIrqs(kind, start, bound), |state| {
            let Some(available) = available else { return Ok(()) };
            if end > available {
                return state.violation(format!("{kind:?} has no vector {}", end - 1));
            }
            match state.enabled {
                Some((other, _)) if other != kind => {
                    return state.violation(format!("{kind:?} is enabled over {other:?}"));
                }
                Some((_, vectors))
                    if end > vectors && (kind != IrqKind::Msix || !self.profile.msix_grows) =>
                {
                    return state.violation(format!("{kind:?} does not grow"));
                }
                Some((_, _)) => {}
                None if kind != IrqKind::Intx && self.sleeps() => {
                    state.calls.push(DeviceCall::Refused(kind));
                    return Err(errno(libc::EINVAL));
                }
                None if kind == IrqKind::Intx && state.refuse_intx => {
                    state.calls.push(DeviceCall::Refused(kind));
                    return Err(errno(libc::EBUSY));
                }
                None if kind == IrqKind::Msi && (1..end).contains(&state.host_msi_vectors) => {
                    state.calls.push(DeviceCall::Refused(kind));
                    return Err(io::Error::other("the host has fewer vectors"));
                }
                None => {}
            }
            let before = state.enabled.map_or(0, |(_, vectors)| vectors);
            state.enabled = Some((kind, before.max(end)));
            for (vector, irqfd) in (start..).zip(irqfds) {
                match irqfd.map(EventFd::try_clone).transpose()? {
                    Some(irqfd) => drop(state.bound.insert(vector, irqfd)),
                    None => drop(state.bound.remove(&vector)),
                }
            }
            Ok(())
        })
    }

    fn unmask_intx_on(&self, _resample: &EventFd) -> io::Result<()> {
        self.call(DeviceCall::UnmaskIntx, |state| {
            if !matches!(state.enabled, Some((IrqKind::Intx, _))) {
                return state.violation("INTx is unmasked while it is not enabled");
            }
            if std::mem::replace(&mut state.unmask_bound, true) {
                return state.violation("INTx has two eventfds for unmasking");
            }
            Ok(())
        })
    }

    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()> {
        self.call(DeviceCall::DisableIrqs(kind), |state| {
            // Also for a type that is not enabled: a count of 0 means something else then.
            if self.vectors(kind).is_some() {
                match state.enabled {
                    Some((enabled, _)) if enabled == kind => state.enabled = None,
                    _ => return state.violation(format!("{kind:?} is disabled, but not enabled")),
                }
                state.unmask_bound = false;
                state.bound.clear();
            }
            Ok(())
        })
    }

    fn reset(&self) -> io::Result<()> {
        self.call(DeviceCall::Reset, |state| state.refuse_reset.map_or(Ok(()), |n| Err(errno(n))))
    }

    fn hot_reset_affects(&self) -> io::Result<Vec<Affected>> {
        match lock(&self.log.0).affected.clone() {
            none if none.is_empty() => Err(errno(libc::ENODEV)),
            affected => Ok(affected),
        }
    }

    /// As `vfio_pci_ioctl_pci_hot_reset`: not while anybody else has one of them.
    fn hot_reset(&self) -> io::Result<()> {
        self.call(DeviceCall::HotReset, |state| match state.affected.as_slice() {
            [] => Err(errno(libc::ENODEV)),
            affected if affected.iter().any(|a| !a.held) => {
                state.violation("a hot reset hits a function of others")
            }
            _ => state.refuse_reset.map_or(Ok(()), |n| Err(errno(n))),
        })
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
