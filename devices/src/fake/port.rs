//! KVM as the devices see it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::{errno, lock};
use crate::irq::{Gsi, MSI_GSIS, MsiMessage, VmPort};

/// A call through the door to KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortCall {
    Routes(Vec<(Gsi, MsiMessage)>),
    Attach(Gsi),
    AttachLevel(Gsi),
    Detach(Gsi),
    Map { slot: u32, guest: u64, length: u64 },
    Unmap(u32),
}

/// KVM without a guest.
#[derive(Default)]
pub struct FakePort {
    state: Mutex<State>,
    fail: AtomicBool,
}

#[derive(Default)]
struct State {
    calls: Vec<PortCall>,
    /// Guest addresses, and where the memory is.
    slots: BTreeMap<u32, (Range<u64>, u64)>,
    irqfds: BTreeMap<RawFd, Gsi>,
    routes: BTreeMap<Gsi, MsiMessage>,
    violations: Vec<String>,
}

impl State {
    fn violation(&mut self, what: impl Into<String>, number: i32) -> io::Result<()> {
        self.violations.push(what.into());
        Err(errno(number))
    }

    /// KVM knows an irqfd by its file and is connected to one GSI at most (`kvm_irqfd_assign`).
    fn attach(&mut self, gsi: Gsi, fd: &EventFd) -> io::Result<()> {
        if self.irqfds.contains_key(&fd.as_raw_fd()) {
            return self.violation(format!("{gsi:?} is attached twice"), libc::EBUSY);
        }
        self.irqfds.insert(fd.as_raw_fd(), gsi);
        Ok(())
    }
}

impl FakePort {
    /// The calls since the last time.
    pub fn take_calls(&self) -> Vec<PortCall> {
        std::mem::take(&mut lock(&self.state).calls)
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
        lock(&self.state).slots.values().map(|(guest, _)| guest.clone()).collect()
    }

    /// The same, with the addresses of the memory that is there.
    pub fn mapped_memory(&self) -> Vec<(Range<u64>, u64)> {
        lock(&self.state).slots.values().cloned().collect()
    }

    /// GSIs that have an irqfd now.
    pub fn attached(&self) -> Vec<Gsi> {
        lock(&self.state).irqfds.values().copied().collect()
    }

    /// Calls that nobody may make.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.state).violations.clone()
    }

    fn call(
        &self,
        call: PortCall,
        effect: impl FnOnce(&mut State) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.fail.swap(false, Ordering::Relaxed) {
            return Err(errno(libc::EINVAL));
        }
        let mut state = lock(&self.state);
        effect(&mut state)?;
        state.calls.push(call);
        Ok(())
    }
}

impl VmPort for FakePort {
    fn set_msi_routes(&self, routes: &BTreeMap<Gsi, MsiMessage>) -> io::Result<()> {
        let call = PortCall::Routes(routes.iter().map(|(gsi, message)| (*gsi, *message)).collect());
        self.call(call, |state| {
            // AMD hosts without Linux commit a80ced6ea514 panic on a posted interrupt then.
            let orphan = state
                .irqfds
                .values()
                .copied()
                .find(|gsi| MSI_GSIS.contains(&gsi.0) && !routes.contains_key(gsi));
            if let Some(gsi) = orphan {
                return state.violation(format!("{gsi:?} loses its route first"), libc::EINVAL);
            }
            state.routes = routes.clone();
            Ok(())
        })
    }

    fn attach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()> {
        self.call(PortCall::Attach(gsi), |state| {
            if MSI_GSIS.contains(&gsi.0) && !state.routes.contains_key(&gsi) {
                return state.violation(format!("{gsi:?} has no route yet"), libc::EINVAL);
            }
            state.attach(gsi, fd)
        })
    }

    fn attach_level_irqfd(&self, gsi: Gsi, fd: &EventFd, _resample: &EventFd) -> io::Result<()> {
        self.call(PortCall::AttachLevel(gsi), |state| {
            if MSI_GSIS.contains(&gsi.0) {
                return state.violation(format!("{gsi:?} is no pin"), libc::EINVAL);
            }
            state.attach(gsi, fd)
        })
    }

    fn detach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()> {
        self.call(PortCall::Detach(gsi), |state| match state.irqfds.remove(&fd.as_raw_fd()) {
            Some(attached) if attached == gsi => Ok(()),
            _ => state.violation(format!("{gsi:?} is not attached"), libc::ENOENT),
        })
    }

    unsafe fn map_slot(&self, slot: u32, guest: u64, host: *mut u8, length: u64) -> io::Result<()> {
        self.call(PortCall::Map { slot, guest, length }, |state| {
            let range = guest..guest + length;
            // KVM refuses overlapping slots (kvm_set_memory_region). The routes have refused
            // them before.
            let meets = |other: &Range<u64>| other.start < range.end && range.start < other.end;
            if state.slots.values().any(|(other, _)| meets(other)) {
                return state.violation(format!("slot {slot} overlaps another"), libc::EEXIST);
            }
            if !guest.is_multiple_of(4096) || !length.is_multiple_of(4096) || length == 0 {
                return state.violation(format!("slot {slot} is not whole pages"), libc::EINVAL);
            }
            if state.slots.insert(slot, (range, host as u64)).is_some() {
                return state.violation(format!("slot {slot} is taken"), libc::EINVAL);
            }
            Ok(())
        })
    }

    fn unmap_slot(&self, slot: u32) -> io::Result<()> {
        self.call(PortCall::Unmap(slot), |state| match state.slots.remove(&slot) {
            Some(_) => Ok(()),
            None => state.violation(format!("slot {slot} is not there"), libc::EINVAL),
        })
    }
}
