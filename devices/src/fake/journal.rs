//! What all fakes of a machine share: the calls in their order, and the host that they act on.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::errno;
use super::host::{Call, Device, Dma, Kvm};

/// A log of calls to every door, and the host behind them. Clones are the same.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Host>>);

/// A host's kernel, as far as the doors lead to it.
#[derive(Default)]
pub(super) struct Host {
    /// With the number of the device, for calls to VFIO.
    pub(super) calls: Vec<(Option<usize>, Call)>,
    violations: Vec<String>,
    pub(super) devices: Vec<Device>,
    pub(super) kvm: Kvm,
    pub(super) dma: Dma,
}

impl Journal {
    /// All calls since the last time.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.host().calls).into_iter().map(|(_, call)| call).collect()
    }

    /// Calls that nobody may make.
    pub fn violations(&self) -> Vec<String> {
        self.host().violations.clone()
    }

    /// Takes the violations, for a test of what the fakes forbid.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.host().violations)
    }

    /// A test's threads may fail one by one; what the others see stays readable.
    pub(super) fn host(&self) -> MutexGuard<'_, Host> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a call to the door of KVM or of the IOMMU, unless `effect` refuses it.
    pub(super) fn call(
        &self,
        call: Call,
        effect: impl FnOnce(&mut Host) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut host = self.host();
        effect(&mut host)?;
        host.calls.push((None, call));
        Ok(())
    }

    /// Takes the calls that `choose` finds, and leaves the others.
    pub(super) fn take_some<T>(
        &self,
        choose: impl Fn(Option<usize>, &Call) -> Option<T>,
    ) -> Vec<T> {
        let mut taken = Vec::new();
        self.host().calls.retain(|(device, call)| match choose(*device, call) {
            Some(call) => {
                taken.push(call);
                false
            }
            None => true,
        });
        taken
    }
}

impl Host {
    /// Notes what nobody may do, and refuses it.
    pub(super) fn violation(&mut self, what: impl Into<String>, number: i32) -> io::Result<()> {
        self.violations.push(what.into());
        Err(errno(number))
    }

    /// Memory that the guest, or another device, reaches now: who says so, and where.
    pub(super) fn shown(&self) -> impl Iterator<Item = (String, Range<u64>)> {
        let slots = self.kvm.slots.iter().map(|(slot, (guest, host))| {
            (format!("slot {slot}"), *host..*host + (guest.end - guest.start))
        });
        let peers = self.dma.ranges.iter().map(|(iova, (length, host))| {
            (format!("the DMA mapping at {iova:#x}"), *host..*host + *length)
        });
        slots.chain(peers)
    }

    /// The device whose memory is at an address of this process.
    pub(super) fn device_at(&self, address: u64) -> Option<&Device> {
        let holds = |(_, part, at): &(_, Range<u64>, u64)| {
            (*at..*at + (part.end - part.start)).contains(&address)
        };
        self.devices.iter().find(|device| device.mappings.iter().any(holds))
    }

    /// Whether a device signals an eventfd.
    pub(super) fn is_signalled(&self, eventfd: u64) -> bool {
        self.devices.iter().any(|device| device.bound.values().any(|(_, id)| *id == eventfd))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.violations, Vec::<String>::new());
        }
    }
}

/// The kernel's number of an eventfd, the same for all its descriptors.
pub(super) fn eventfd_id(eventfd: &EventFd) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", eventfd.as_raw_fd());
    let text = std::fs::read_to_string(path).expect("an open descriptor has fdinfo");
    let id = text.lines().find_map(|line| line.strip_prefix("eventfd-id:"));
    id.and_then(|id| id.trim().parse().ok()).expect("Linux 5.2 tells which eventfd it is")
}
