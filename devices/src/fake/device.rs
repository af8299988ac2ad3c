//! A vfio-pci device as the devices see it: what drivers/vfio/pci of Linux does with each call.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::FromRawFd;
use std::sync::MutexGuard;

use vmm_sys_util::eventfd::EventFd;

use super::errno;
use super::host::{Call, Device, VfioCall};
use super::journal::{Host, Journal, eventfd_id};
use crate::pci::Bar;
use crate::pci::regs::{COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY};
use crate::vfio::{Affected, DeviceProfile, FewerVectors, HostMapping, IrqKind, Region, VfioPort};

/// A device whose configuration space is memory, and whose BARs read as their offsets.
pub struct FakeDevice {
    profile: DeviceProfile,
    /// BARs that are I/O ports, from the registers that the device started with.
    ports: [bool; Bar::COUNT],
    log: DeviceLog,
}

/// What a test sees of a [`FakeDevice`], which is owned by the function under test.
#[derive(Clone)]
pub struct DeviceLog {
    journal: Journal,
    number: usize,
}

impl DeviceLog {
    fn host(&self) -> MutexGuard<'_, Host> {
        self.journal.host()
    }

    fn with<T>(&self, look: impl FnOnce(&mut Device) -> T) -> T {
        look(&mut self.host().devices[self.number])
    }

    /// The calls to this device since the last time; all others stay in the journal.
    pub fn take(&self) -> Vec<VfioCall> {
        self.journal.take_some(|device, call| match call {
            Call::Vfio(call) if device == Some(self.number) => Some(call.clone()),
            _ => None,
        })
    }

    /// Calls to any door that nobody may make.
    pub fn violations(&self) -> Vec<String> {
        self.journal.violations()
    }

    /// Parts of BARs that were mapped, and where.
    pub fn mappings(&self) -> Vec<(Bar, Range<u64>, u64)> {
        self.with(|device| device.mappings.clone())
    }

    /// The type of interrupt that is enabled.
    pub fn enabled(&self) -> Option<IrqKind> {
        self.with(|device| device.enabled.map(|(kind, _)| kind))
    }

    /// The device interrupts.
    pub fn signal(&self, kind: IrqKind, vector: u32) {
        self.with(|device| {
            assert_eq!(device.enabled.map(|(kind, _)| kind), Some(kind));
            device.bound[&vector].0.write(1).expect("an eventfd takes a signal");
        });
    }

    /// The host gives only so many vectors of MSI at once.
    pub fn limit_msi(&self, vectors: u32) {
        self.with(|device| device.host_msi_vectors = vectors);
    }

    /// What a hot reset of this device resets; nothing says that there is none.
    pub fn set_affected(&self, affected: Vec<Affected>) {
        self.with(|device| device.affected = affected);
    }

    /// Resets fail from now on.
    pub fn refuse_reset(&self, number: i32) {
        self.with(|device| device.refuse_reset = Some(number));
    }

    /// Resets work again.
    pub fn allow_reset(&self) {
        self.with(|device| device.refuse_reset = None);
    }

    /// The host enables no interrupt of this kind; with EBUSY for the pin, its line is taken, as
    /// by a driver that the device cannot share it with.
    pub fn refuse_irqs(&self, kind: IrqKind, number: i32) {
        self.with(|device| device.refused = Some((kind, number)));
    }
}

impl FakeDevice {
    /// A device as its profile says, which logs into `journal`.
    pub fn new(profile: DeviceProfile, journal: &Journal) -> (Self, DeviceLog) {
        let config = profile.config.clone();
        let ports = std::array::from_fn(|index| index < 6 && config[0x10 + 4 * index] & 1 == 1);
        let mut host = journal.host();
        let log = DeviceLog { journal: journal.clone(), number: host.devices.len() };
        host.devices.push(Device { config, ..Device::default() });
        drop(host);
        (Self { profile, ports, log: log.clone() }, log)
    }

    fn call(
        &self,
        call: VfioCall,
        effect: impl FnOnce(&mut Host, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut host = self.log.host();
        effect(&mut host, self.log.number)?;
        host.calls.push((Some(self.log.number), Call::Vfio(call)));
        Ok(())
    }

    /// An access past a region could land in the next one; one to a BAR that the command register
    /// has switched off fails (`__vfio_pci_memory_enabled`).
    fn check(&self, region: Region, offset: u64, length: usize) -> io::Result<()> {
        let mut host = self.log.host();
        let device = &host.devices[self.log.number];
        let size = match region {
            Region::Bar(bar) => self.profile.bars[bar.index()].size,
            Region::Config => device.config.len() as u64,
        };
        let command = device.command();
        if offset + length as u64 > size {
            let access = format!("{length} bytes at {offset:#x} of {region:?}");
            return host.violation(access, libc::EINVAL);
        }
        if let Region::Bar(bar) = region {
            let enable = if self.ports[bar.index()] { COMMAND_IO } else { COMMAND_MEMORY };
            if command & enable == 0 {
                return Err(errno(libc::EIO));
            }
        }
        Ok(())
    }

    /// A reset of a device that still interrupts, or that may still write to memory.
    fn check_quiet(host: &mut Host, number: usize) -> io::Result<()> {
        let device = &host.devices[number];
        if let Some((kind, _)) = device.enabled {
            return host.violation(format!("reset while {kind:?} is enabled"), libc::EINVAL);
        }
        if device.command() & COMMAND_MASTER != 0 {
            return host.violation("reset while it is a bus master", libc::EINVAL);
        }
        host.devices[number].refuse_reset.map_or(Ok(()), |error| Err(errno(error)))
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

    /// Writes configuration space. What the guest still reaches must not stop to answer.
    fn write_config(host: &mut Host, number: usize, offset: usize, data: &[u8]) -> io::Result<()> {
        let device = &mut host.devices[number];
        let bytes = offset..offset + data.len();
        let before = device.config[bytes.clone()].to_vec();
        device.config[bytes.clone()].copy_from_slice(data);
        if device.answers() {
            return Ok(());
        }
        let own = |memory: &Range<u64>| {
            let device = host.device_at(memory.start);
            device.is_some_and(|device| std::ptr::eq(device, &raw const host.devices[number]))
        };
        let shown = host.shown().find(|(_, memory)| own(memory));
        if let Some((what, _)) = shown {
            host.devices[number].config[bytes].copy_from_slice(&before);
            let what = format!("the device stops to answer while {what} shows its memory");
            return host.violation(what, libc::EINVAL);
        }
        Ok(())
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
                let host = self.log.host();
                let config = &host.devices[self.log.number].config;
                data.copy_from_slice(&config[offset as usize..offset as usize + data.len()]);
            }
            Region::Bar(bar) => {
                if bar == Bar::ROM {
                    let range = offset..offset + data.len() as u64;
                    self.call(VfioCall::ReadRom(range), |_, _| Ok(()))?;
                }
                (offset..).zip(data).for_each(|(at, byte)| *byte = at as u8);
            }
        }
        Ok(())
    }

    fn write(&self, region: Region, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(region, offset, data.len())?;
        self.call(VfioCall::Write(region, offset, data.to_vec()), |host, number| match region {
            Region::Config => Self::write_config(host, number, offset as usize, data),
            Region::Bar(_) => Ok(()),
        })
    }

    fn mmap(&self, bar: Bar, part: &Range<u64>) -> io::Result<HostMapping> {
        let size = self.profile.bars[bar.index()].size;
        let mapping = HostMapping::new(&memory_file(size), part, part.start)?;
        let address = mapping.address() as u64;
        self.log.with(|device| device.mappings.push((bar, part.clone(), address)));
        Ok(mapping)
    }

    /// As `vfio_pci_set_irqs_ioctl` in drivers/vfio/pci/vfio_pci_intrs.c.
    fn set_irqs(&self, kind: IrqKind, start: u32, irqfds: &[Option<&EventFd>]) -> io::Result<()> {
        let bound = irqfds.iter().map(Option::is_some).collect();
        let end = start + irqfds.len() as u32;
        let available = self.vectors(kind);
        self.call(VfioCall::SetIrqs(kind, start, bound), |host, number| {
            let Some(available) = available else { return Ok(()) };
            if end > available {
                let what = format!("{kind:?} has no vector {}", end - 1);
                return host.violation(what, libc::EINVAL);
            }
            let device = &host.devices[number];
            let refused = match device.enabled {
                Some((other, _)) if other != kind => {
                    let what = format!("{kind:?} is enabled over {other:?}");
                    return host.violation(what, libc::EINVAL);
                }
                Some((_, vectors))
                    if end > vectors && (kind != IrqKind::Msix || !self.profile.msix_grows) =>
                {
                    return host.violation(format!("{kind:?} does not grow"), libc::EINVAL);
                }
                Some((_, _)) => None,
                None if kind != IrqKind::Intx && device.sleeps() => Some(errno(libc::EINVAL)),
                None if kind == IrqKind::Msi && (1..end).contains(&device.host_msi_vectors) => {
                    Some(FewerVectors { available: device.host_msi_vectors }.into())
                }
                None => device.refused.filter(|(no, _)| *no == kind).map(|(_, error)| errno(error)),
            };
            if let Some(error) = refused {
                host.calls.push((Some(number), Call::Vfio(VfioCall::Refused(kind))));
                return Err(error);
            }
            let device = &mut host.devices[number];
            let before = device.enabled.map_or(0, |(_, vectors)| vectors);
            device.enabled = Some((kind, before.max(end)));
            for (vector, irqfd) in (start..).zip(irqfds) {
                match irqfd {
                    Some(irqfd) => {
                        let bound = (irqfd.try_clone()?, eventfd_id(irqfd));
                        device.bound.insert(vector, bound);
                    }
                    None => drop(device.bound.remove(&vector)),
                }
            }
            Ok(())
        })
    }

    fn unmask_intx_on(&self, _resample: &EventFd) -> io::Result<()> {
        self.call(VfioCall::UnmaskIntx, |host, number| {
            let device = &mut host.devices[number];
            if !matches!(device.enabled, Some((IrqKind::Intx, _))) {
                return host.violation("INTx is unmasked while it is not enabled", libc::EINVAL);
            }
            if std::mem::replace(&mut device.unmask_bound, true) {
                return host.violation("INTx has two eventfds for unmasking", libc::EINVAL);
            }
            Ok(())
        })
    }

    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()> {
        self.call(VfioCall::DisableIrqs(kind), |host, number| {
            // Also for a type that is not enabled: a count of 0 means something else then.
            if self.vectors(kind).is_some() {
                let device = &mut host.devices[number];
                match device.enabled {
                    Some((enabled, _)) if enabled == kind => device.enabled = None,
                    _ => {
                        let what = format!("{kind:?} is disabled, but not enabled");
                        return host.violation(what, libc::EINVAL);
                    }
                }
                device.unmask_bound = false;
                device.bound.clear();
            }
            Ok(())
        })
    }

    fn reset(&self) -> io::Result<()> {
        self.call(VfioCall::Reset, Self::check_quiet)
    }

    fn hot_reset_affects(&self) -> io::Result<Vec<Affected>> {
        match self.log.with(|device| device.affected.clone()) {
            none if none.is_empty() => Err(errno(libc::ENODEV)),
            affected => Ok(affected),
        }
    }

    /// As `vfio_pci_ioctl_pci_hot_reset`: not while anybody else has one of them.
    fn hot_reset(&self) -> io::Result<()> {
        self.call(VfioCall::HotReset, |host, number| {
            match host.devices[number].affected.as_slice() {
                [] => Err(errno(libc::ENODEV)),
                affected if affected.iter().any(|a| !a.held) => {
                    host.violation("a hot reset hits a function of others", libc::EINVAL)
                }
                _ => Self::check_quiet(host, number),
            }
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
