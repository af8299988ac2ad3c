//! KVM as the devices see it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::errno;
use super::host::{Call, KvmCall};
use super::journal::{Host, Journal, eventfd_id};
use crate::irq::{Gsi, MSI_GSIS, MsiMessage, VmPort};

/// KVM without a guest.
#[derive(Default)]
pub struct FakePort {
    journal: Journal,
    fail: AtomicBool,
}

impl FakePort {
    /// One that logs into `journal`.
    pub fn new(journal: &Journal) -> Self {
        Self { journal: journal.clone(), fail: AtomicBool::default() }
    }

    /// The calls to KVM since the last time; those to the other doors stay in the journal.
    pub fn take_calls(&self) -> Vec<KvmCall> {
        self.journal.take_some(|_, call| match call {
            Call::Kvm(call) => Some(call.clone()),
            Call::Vfio(_) | Call::Dma(_) => None,
        })
    }

    /// The next call is refused.
    pub fn fail_next(&self) {
        self.fail.store(true, Ordering::Relaxed);
    }

    /// No call is refused any more.
    pub fn heal(&self) {
        self.fail.store(false, Ordering::Relaxed);
    }

    /// What the guest reaches directly now.
    pub fn mapped(&self) -> Vec<Range<u64>> {
        self.mapped_memory().into_iter().map(|(guest, _)| guest).collect()
    }

    /// The same, with the addresses of the memory that is there.
    pub fn mapped_memory(&self) -> Vec<(Range<u64>, u64)> {
        self.journal.host().kvm.slots.values().cloned().collect()
    }

    /// GSIs that have an irqfd now.
    pub fn attached(&self) -> Vec<Gsi> {
        self.journal.host().kvm.irqfds.values().map(|(gsi, _)| *gsi).collect()
    }

    /// Calls to any door that nobody may make.
    pub fn violations(&self) -> Vec<String> {
        self.journal.violations()
    }

    fn call(
        &self,
        call: KvmCall,
        effect: impl FnOnce(&mut Host) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.fail.swap(false, Ordering::Relaxed) {
            return Err(errno(libc::EINVAL));
        }
        self.journal.call(Call::Kvm(call), effect)
    }
}

/// KVM knows an irqfd by its file and is connected to one GSI at most (`kvm_irqfd_assign`).
fn attach(host: &mut Host, gsi: Gsi, fd: &EventFd) -> io::Result<()> {
    if host.kvm.irqfds.contains_key(&fd.as_raw_fd()) {
        return host.violation(format!("{gsi:?} is attached twice"), libc::EBUSY);
    }
    let id = eventfd_id(fd);
    host.kvm.irqfds.insert(fd.as_raw_fd(), (gsi, id));
    host.kvm.last.insert(gsi, id);
    Ok(())
}

impl VmPort for FakePort {
    fn set_msi_routes(&self, routes: &BTreeMap<Gsi, MsiMessage>) -> io::Result<()> {
        let call = KvmCall::Routes(routes.iter().map(|(gsi, message)| (*gsi, *message)).collect());
        self.call(call, |host| {
            // AMD hosts without Linux commit a80ced6ea514 panic on a posted interrupt then.
            let mut attached = host.kvm.irqfds.values().map(|(gsi, _)| *gsi);
            let orphan =
                attached.find(|gsi| MSI_GSIS.contains(&gsi.0) && !routes.contains_key(gsi));
            if let Some(gsi) = orphan {
                return host.violation(format!("{gsi:?} loses its route first"), libc::EINVAL);
            }
            let mut gone = host.kvm.routes.keys().filter(|gsi| !routes.contains_key(gsi));
            let signalled = gone.find(|gsi| {
                host.kvm.last.get(gsi).is_some_and(|eventfd| host.is_signalled(*eventfd))
            });
            if let Some(gsi) = signalled.copied() {
                let what = format!("{gsi:?} loses its route while a device signals it");
                return host.violation(what, libc::EINVAL);
            }
            host.kvm.routes = routes.clone();
            Ok(())
        })
    }

    fn attach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()> {
        self.call(KvmCall::Attach(gsi), |host| {
            if MSI_GSIS.contains(&gsi.0) && !host.kvm.routes.contains_key(&gsi) {
                return host.violation(format!("{gsi:?} has no route yet"), libc::EINVAL);
            }
            attach(host, gsi, fd)
        })
    }

    fn attach_level_irqfd(&self, gsi: Gsi, fd: &EventFd, _resample: &EventFd) -> io::Result<()> {
        self.call(KvmCall::AttachLevel(gsi), |host| {
            if MSI_GSIS.contains(&gsi.0) {
                return host.violation(format!("{gsi:?} is no pin"), libc::EINVAL);
            }
            attach(host, gsi, fd)
        })
    }

    fn detach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()> {
        self.call(KvmCall::Detach(gsi), |host| match host.kvm.irqfds.remove(&fd.as_raw_fd()) {
            // A vector that is masked stays bound; a pin is given up.
            Some((_, eventfd)) if !MSI_GSIS.contains(&gsi.0) && host.is_signalled(eventfd) => {
                host.violation(format!("{gsi:?} is let go while a device signals it"), libc::EINVAL)
            }
            Some((attached, _)) if attached == gsi => Ok(()),
            _ => host.violation(format!("{gsi:?} is not attached"), libc::ENOENT),
        })
    }

    unsafe fn map_slot(&self, slot: u32, guest: u64, host: *mut u8, length: u64) -> io::Result<()> {
        self.call(KvmCall::Map { slot, guest, length }, |state| {
            let range = guest..guest + length;
            // KVM refuses overlapping slots (kvm_set_memory_region). The routes have refused
            // them before.
            let meets = |other: &Range<u64>| other.start < range.end && range.start < other.end;
            if state.kvm.slots.values().any(|(other, _)| meets(other)) {
                return state.violation(format!("slot {slot} overlaps another"), libc::EEXIST);
            }
            if !guest.is_multiple_of(4096) || !length.is_multiple_of(4096) || length == 0 {
                return state.violation(format!("slot {slot} is not whole pages"), libc::EINVAL);
            }
            if state.device_at(host as u64).is_some_and(|device| !device.answers()) {
                let what = format!("slot {slot} shows a device that does not answer yet");
                return state.violation(what, libc::EINVAL);
            }
            if state.kvm.slots.insert(slot, (range, host as u64)).is_some() {
                return state.violation(format!("slot {slot} is taken"), libc::EINVAL);
            }
            Ok(())
        })
    }

    fn unmap_slot(&self, slot: u32) -> io::Result<()> {
        self.call(KvmCall::Unmap(slot), |host| match host.kvm.slots.remove(&slot) {
            Some(_) => Ok(()),
            None => host.violation(format!("slot {slot} is not there"), libc::EINVAL),
        })
    }
}
