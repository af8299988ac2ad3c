//! Interrupts on their way into the guest: the door to KVM, and a route per MSI vector.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A global system interrupt: an IOAPIC pin below 24, an entry of KVM's routing table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gsi(pub u32);

/// The GSIs that MSI routes may take: after the IOAPIC's pins, up to KVM's limit
/// (`KVM_MAX_IRQ_ROUTES`, include/linux/kvm_host.h).
pub const MSI_GSIS: Range<u32> = 24..4096;

/// What a device writes, and where, to raise a message signalled interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// The only door to KVM; one operation per method.
pub trait VmPort: Send + Sync {
    /// Replaces the MSI part of the routing table. The pins of the interrupt controllers stay.
    fn set_msi_routes(&self, routes: &BTreeMap<Gsi, MsiMessage>) -> io::Result<()>;
    /// From now on a signal on `fd` raises `gsi`. A signal that came earlier counts.
    fn attach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()>;
    /// From now on a signal on `fd` asserts the I/O APIC's pin `gsi`, which stays asserted until
    /// the guest's end of interrupt; then the pin goes low and `resample` is signalled.
    fn attach_level_irqfd(&self, gsi: Gsi, fd: &EventFd, resample: &EventFd) -> io::Result<()>;
    /// Signals on `fd` stay in `fd` again, however it was attached. A pin goes low.
    fn detach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()>;
    /// Lets the guest reach `length` bytes of host memory at `host` through memory slot `slot`.
    ///
    /// # Safety
    /// `host..host + length` stays mapped until `unmap_slot(slot)` returned, and nothing in it is
    /// ever borrowed by Rust code.
    unsafe fn map_slot(&self, slot: u32, guest: u64, host: *mut u8, length: u64) -> io::Result<()>;
    /// Takes a memory slot away again; accesses to its addresses exit from then on.
    fn unmap_slot(&self, slot: u32) -> io::Result<()>;
}

/// All MSI routes of a machine.
///
/// KVM replaces the whole table at each change (`KVM_SET_GSI_ROUTING`), so that one owner has to
/// know all of it. Its lock is a leaf: it is taken with a PCI function's lock held, never the
/// other way round.
pub struct MsiRouter {
    port: Arc<dyn VmPort>,
    state: Mutex<RouterState>,
}

#[derive(Default)]
struct RouterState {
    taken: BTreeSet<Gsi>,
    routes: BTreeMap<Gsi, MsiMessage>,
}

impl MsiRouter {
    /// A router without routes.
    pub fn new(port: Arc<dyn VmPort>) -> Arc<Self> {
        Arc::new(Self { port, state: Mutex::default() })
    }

    /// A vector's eventfd and GSI. Silent until [`MsiRoute::deliver`].
    pub fn allocate(self: &Arc<Self>) -> io::Result<MsiRoute> {
        let irqfd = EventFd::new(EFD_NONBLOCK)?;
        let mut state = self.lock();
        let free = MSI_GSIS.map(Gsi).find(|gsi| !state.taken.contains(gsi));
        let gsi = free.ok_or_else(|| io::Error::other("all 4,072 MSI routes of KVM are taken"))?;
        state.taken.insert(gsi);
        Ok(MsiRoute { router: self.clone(), gsi, irqfd, message: None, attached: false })
    }

    fn lock(&self) -> MutexGuard<'_, RouterState> {
        // The state is consistent between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or removes one route; on failure the table is as it was.
    fn update(&self, gsi: Gsi, message: Option<MsiMessage>) -> io::Result<()> {
        let mut state = self.lock();
        let put = |routes: &mut BTreeMap<Gsi, MsiMessage>, message| match message {
            Some(message) => routes.insert(gsi, message),
            None => routes.remove(&gsi),
        };
        let before = put(&mut state.routes, message);
        self.port.set_msi_routes(&state.routes).inspect_err(|_| {
            put(&mut state.routes, before);
        })
    }
}

/// One vector's way into the guest. Dropping it frees the GSI.
pub struct MsiRoute {
    router: Arc<MsiRouter>,
    gsi: Gsi,
    irqfd: EventFd,
    message: Option<MsiMessage>,
    attached: bool,
}

impl MsiRoute {
    /// The eventfd that the device's side signals.
    pub fn irqfd(&self) -> &EventFd {
        &self.irqfd
    }

    /// The GSI that is this route's as long as it lives.
    pub fn gsi(&self) -> Gsi {
        self.gsi
    }

    /// Signals raise `message` in the guest; one that came while it was silent does so now.
    ///
    /// The route comes before the irqfd: an irqfd without a route drops its signal.
    pub fn deliver(&mut self, message: MsiMessage) -> io::Result<()> {
        if self.message != Some(message) {
            self.router.update(self.gsi, Some(message))?;
            self.message = Some(message);
        }
        if !self.attached {
            self.router.port.attach_irqfd(self.gsi, &self.irqfd)?;
            self.attached = true;
        }
        Ok(())
    }

    /// Signals wait in the eventfd. The route stays, so that unmasking costs one call.
    pub fn hold(&mut self) -> io::Result<()> {
        if self.attached {
            self.router.port.detach_irqfd(self.gsi, &self.irqfd)?;
            self.attached = false;
        }
        Ok(())
    }

    /// Silent, without a route, and what was pending is forgotten.
    ///
    /// The irqfd goes before the route: AMD hosts without Linux commit a80ced6ea514 panic on a
    /// posted interrupt whose route has gone.
    pub fn clear(&mut self) -> io::Result<()> {
        self.hold()?;
        if self.message.take().is_some() {
            self.router.update(self.gsi, None)?;
        }
        // Nothing to read is the usual case.
        let _ = self.irqfd.read();
        Ok(())
    }

    /// Clears them all. One that fails does not keep the others; its error is returned.
    pub fn clear_all<'a>(routes: impl Iterator<Item = &'a mut Self>) -> io::Result<()> {
        let mut cleared = Ok(());
        for route in routes {
            cleared = cleared.and(route.clear());
        }
        cleared
    }

    /// Whether a signal waits. Polls: reading would take the signal away.
    pub fn pending(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&self.irqfd),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `poll` is one valid pollfd, and a timeout of 0 does not block.
        !self.attached && unsafe { libc::poll(&mut poll, 1, 0) } == 1
    }
}

impl Drop for MsiRoute {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            // The GSI stays taken: an irqfd may still refer to it.
            log::warn!("GSI {} is not freed: {error}", self.gsi.0);
            return;
        }
        self.router.lock().taken.remove(&self.gsi);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakePort, PortCall};

    const MESSAGE: MsiMessage = MsiMessage { address: 0xfee0_1000, data: 0x23 };

    #[test]
    fn routes_before_attaching_and_detaches_before_unrouting() {
        let port = Arc::new(FakePort::default());
        let router = MsiRouter::new(port.clone());
        let mut route = router.allocate().expect("a GSI is free");
        assert!(route.deliver(MESSAGE).is_ok());
        drop(route);
        let gsi = Gsi(24);
        assert_eq!(
            port.take_calls(),
            [
                PortCall::Routes(vec![(gsi, MESSAGE)]),
                PortCall::Attach(gsi),
                PortCall::Detach(gsi),
                PortCall::Routes(vec![]),
            ]
        );
    }

    #[test]
    fn masking_keeps_the_route_and_what_is_pending() {
        let port = Arc::new(FakePort::default());
        let mut route = MsiRouter::new(port.clone()).allocate().expect("a GSI is free");
        assert!(route.deliver(MESSAGE).is_ok());
        assert!(route.hold().is_ok());
        assert!(!route.pending());
        route.irqfd().write(1).expect("the eventfd takes a signal");
        assert!(route.pending() && route.pending());
        port.take_calls();
        assert!(route.deliver(MESSAGE).is_ok());
        assert_eq!(port.take_calls(), [PortCall::Attach(route.gsi())]);
    }

    #[test]
    fn a_dropped_route_frees_its_gsi() {
        let router = MsiRouter::new(Arc::new(FakePort::default()));
        let first = router.allocate().expect("a GSI is free");
        let second = router.allocate().expect("a GSI is free");
        assert_eq!((first.gsi(), second.gsi()), (Gsi(24), Gsi(25)));
        drop(first);
        assert_eq!(router.allocate().expect("a GSI is free").gsi(), Gsi(24));
    }

    #[test]
    fn a_refused_route_leaves_the_table_as_it_was() {
        let port = Arc::new(FakePort::default());
        let router = MsiRouter::new(port.clone());
        let mut kept = router.allocate().expect("a GSI is free");
        let mut refused = router.allocate().expect("a GSI is free");
        assert!(kept.deliver(MESSAGE).is_ok());
        port.fail_next();
        assert!(refused.deliver(MESSAGE).is_err());
        port.take_calls();
        let other = MsiMessage { data: 0x24, ..MESSAGE };
        assert!(kept.deliver(other).is_ok());
        assert_eq!(port.take_calls(), [PortCall::Routes(vec![(kept.gsi(), other)])]);
    }
}
