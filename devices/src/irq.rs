//! Interrupts on their way into the guest: the door to KVM, and a route per MSI vector.
//!
//! GSIs are numbers of a vm-allocator [`IdAllocator`], which gives out the lowest that is free.
//! Two things would belong there and are wrapped here: a handle that gives its number back when it
//! is dropped ([`MsiRoute`]), and a word for "all are taken": its error is `ResourceNotAvailable`
//! at the end of a range and `Overflow` when that end is `u32::MAX`.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_allocator::IdAllocator;
use vmm_sys_util::eventfd::EventFd;

use crate::eventfd;

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
    ///
    /// # Errors
    /// Of `KVM_SET_GSI_ROUTING`; the table is as it was.
    fn set_msi_routes(&self, routes: &BTreeMap<Gsi, MsiMessage>) -> io::Result<()>;

    /// From now on a signal on `fd` raises `gsi`. A signal that came earlier counts.
    ///
    /// # Errors
    /// Of `KVM_IRQFD`; `fd` raises nothing.
    fn attach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()>;

    /// From now on a signal on `fd` asserts the I/O APIC's pin `gsi`, which stays asserted until
    /// the guest's end of interrupt; then the pin goes low and `resample` is signalled.
    ///
    /// # Errors
    /// As for [`VmPort::attach_irqfd`].
    fn attach_level_irqfd(&self, gsi: Gsi, fd: &EventFd, resample: &EventFd) -> io::Result<()>;

    /// Signals on `fd` stay in `fd` again, however it was attached. A pin goes low.
    ///
    /// # Errors
    /// Of `KVM_IRQFD`; `fd` is attached still.
    fn detach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()>;

    /// Lets the guest reach `length` bytes of host memory at `host` through memory slot `slot`.
    ///
    /// # Errors
    /// Of `KVM_SET_USER_MEMORY_REGION`; the guest reaches nothing there.
    ///
    /// # Safety
    /// `host..host + length` stays mapped until `unmap_slot(slot)` returned, and nothing in it is
    /// ever borrowed by Rust code.
    unsafe fn map_slot(&self, slot: u32, guest: u64, host: *mut u8, length: u64) -> io::Result<()>;

    /// Takes a memory slot away again; accesses to its addresses exit from then on.
    ///
    /// # Errors
    /// Of `KVM_SET_USER_MEMORY_REGION`; the guest reaches the memory still.
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

struct RouterState {
    gsis: IdAllocator,
    routes: BTreeMap<Gsi, MsiMessage>,
}

impl MsiRouter {
    /// A router without routes.
    #[must_use]
    pub fn new(port: Arc<dyn VmPort>) -> Arc<Self> {
        let gsis = IdAllocator::new(MSI_GSIS.start, MSI_GSIS.end - 1).expect("24 is below 4,095");
        Arc::new(Self { port, state: Mutex::new(RouterState { gsis, routes: BTreeMap::new() }) })
    }

    /// A vector's eventfd and GSI. Silent until [`MsiRoute::deliver`].
    ///
    /// # Errors
    /// The process may open no more files, or all GSIs are taken.
    pub fn allocate(self: &Arc<Self>) -> io::Result<MsiRoute> {
        let irqfd = eventfd()?;
        let gsi = self.lock().gsis.allocate_id();
        let gsi = gsi.map_err(|_| io::Error::other("all 4,072 MSI routes of KVM are taken"))?;
        let (router, gsi) = (self.clone(), Gsi(gsi));
        Ok(MsiRoute { router, gsi, irqfd, message: None, attached: false })
    }

    fn lock(&self) -> MutexGuard<'_, RouterState> {
        // The state is consistent between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or removes routes with one update of KVM's table; on failure the table is as it was.
    fn update(&self, changes: &[(Gsi, Option<MsiMessage>)]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let mut routes = state.routes.clone();
        for (gsi, message) in changes {
            match message {
                Some(message) => routes.insert(*gsi, *message),
                None => routes.remove(gsi),
            };
        }
        self.port.set_msi_routes(&routes)?;
        state.routes = routes;
        Ok(())
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
    #[must_use]
    pub fn irqfd(&self) -> &EventFd {
        &self.irqfd
    }

    /// The GSI that is this route's as long as it lives.
    #[must_use]
    pub fn gsi(&self) -> Gsi {
        self.gsi
    }

    /// Signals raise `message` in the guest; one that came while it was silent does so now.
    ///
    /// # Errors
    /// KVM refuses the route or the irqfd; the vector stays silent.
    pub fn deliver(&mut self, message: MsiMessage) -> io::Result<()> {
        Self::deliver_all([(self, message)])
    }

    /// [`MsiRoute::deliver`] for several at once. KVM replaces its whole table for any change, in a
    /// time that grows with it, so that a guest which enables all vectors of a function pays for
    /// one change.
    ///
    /// The routes come before the irqfds: an irqfd without a route drops its signal.
    ///
    /// # Errors
    /// The first that KVM gave; those vectors that are attached by then are delivered.
    pub fn deliver_all<'a>(
        routes: impl IntoIterator<Item = (&'a mut Self, MsiMessage)>,
    ) -> io::Result<()> {
        let mut routes: Vec<_> = routes.into_iter().collect();
        let Some(router) = routes.first().map(|(route, _)| route.router.clone()) else {
            return Ok(());
        };
        let changed = routes.iter().filter(|(route, message)| route.message != Some(*message));
        let changed: Vec<_> = changed.map(|(route, message)| (route.gsi, Some(*message))).collect();
        router.update(&changed)?;
        for (route, message) in &mut routes {
            route.message = Some(*message);
        }
        for (route, _) in routes {
            if !route.attached {
                router.port.attach_irqfd(route.gsi, &route.irqfd)?;
                route.attached = true;
            }
        }
        Ok(())
    }

    /// Signals wait in the eventfd. The route stays, so that unmasking costs one call.
    ///
    /// # Errors
    /// KVM keeps the irqfd, and delivers still.
    pub fn hold(&mut self) -> io::Result<()> {
        if self.attached {
            self.router.port.detach_irqfd(self.gsi, &self.irqfd)?;
            self.attached = false;
        }
        Ok(())
    }

    /// Silent, without a route, and what was pending is forgotten.
    ///
    /// # Errors
    /// KVM keeps the irqfd, or the route without it.
    pub fn clear(&mut self) -> io::Result<()> {
        Self::clear_all([self])
    }

    /// [`MsiRoute::clear`] for several, with one update of the table. One that fails does not keep
    /// the others.
    ///
    /// The irqfds go before the routes: AMD hosts without Linux commit a80ced6ea514 panic on a
    /// posted interrupt whose route has gone.
    ///
    /// # Errors
    /// The first that KVM gave.
    pub fn clear_all<'a>(routes: impl IntoIterator<Item = &'a mut Self>) -> io::Result<()> {
        let mut held = Ok(());
        let mut silent: Vec<&mut Self> = Vec::new();
        for route in routes {
            match route.hold() {
                Ok(()) => silent.push(route),
                Err(error) => held = held.and(Err(error)),
            }
        }
        let Some(router) = silent.first().map(|route| route.router.clone()) else { return held };
        let routed = silent.iter().filter(|route| route.message.is_some());
        let removed: Vec<_> = routed.map(|route| (route.gsi, None)).collect();
        router.update(&removed)?;
        for route in silent {
            route.message = None;
            // Nothing to read is the usual case.
            let _ = route.irqfd.read();
        }
        held
    }

    /// Whether a signal waits. Polls: reading would take the signal away.
    #[must_use]
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
        let freed = self.router.lock().gsis.free_id(self.gsi.0);
        debug_assert_eq!(freed, Ok(self.gsi.0), "a route owns its GSI");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakePort, KvmCall};

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
                KvmCall::Routes(vec![(gsi, MESSAGE)]),
                KvmCall::Attach(gsi),
                KvmCall::Detach(gsi),
                KvmCall::Routes(vec![]),
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
        assert_eq!(port.take_calls(), [KvmCall::Attach(route.gsi())]);
    }

    #[test]
    fn an_attached_vector_is_never_pending() {
        let port = Arc::new(FakePort::default());
        let mut route = MsiRouter::new(port).allocate().expect("a GSI is free");
        assert!(route.deliver(MESSAGE).is_ok());
        // KVM reads the eventfd in its own time.
        route.irqfd().write(1).expect("the eventfd takes a signal");
        assert!(!route.pending());
    }

    #[test]
    fn kvms_table_has_an_end() {
        let router = MsiRouter::new(Arc::new(FakePort::default()));
        let mut state = router.lock();
        let given = std::iter::from_fn(|| state.gsis.allocate_id().ok()).count();
        assert_eq!((given, state.gsis.is_allocated(4095)), (4072, true));
        drop(state);
        let refused = router.allocate().err().map(|error| error.to_string());
        assert_eq!(refused.as_deref(), Some("all 4,072 MSI routes of KVM are taken"));
    }

    #[test]
    fn a_vector_that_kvm_keeps_does_not_keep_the_others() {
        let port = Arc::new(FakePort::default());
        let router = MsiRouter::new(port.clone());
        let mut routes: Vec<_> = (0..3).map(|_| router.allocate().expect("a GSI")).collect();
        assert!(MsiRoute::deliver_all(routes.iter_mut().map(|route| (route, MESSAGE))).is_ok());
        port.fail_next();
        assert!(MsiRoute::clear_all(&mut routes).is_err());
        assert_eq!(port.attached(), [Gsi(24)]);
        port.take_calls();
        assert!(MsiRoute::clear_all(&mut routes).is_ok());
        assert_eq!(port.take_calls(), [KvmCall::Detach(Gsi(24)), KvmCall::Routes(vec![])]);
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
        assert_eq!(port.take_calls(), [KvmCall::Routes(vec![(kept.gsi(), other)])]);
    }
}
