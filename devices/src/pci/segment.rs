//! A PCI segment: which function an access to configuration space or a window belongs to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::regs::EXTENDED_CONFIG_SIZE;
use super::{
    Attention, BarRoutes, DmaGate, Freed, GuestBdf, LinkState, PciFunction, ResetBuses, ResetCause,
    RootBus, RootPort, RoutedBdf, Space,
};

/// A function's place; empty when the function was taken out of the machine.
type Occupant = Option<Box<dyn PciFunction>>;

/// A root port, and the number of the bus behind it when the machine starts, which is in the names
/// of the functions there.
struct Port {
    home: u8,
    port: Mutex<RootPort>,
}

/// All functions of a segment, each under its own lock. Configuration space is reached through memory
/// (ECAM) and in no other way: a guest that has both asks the ports for most of what it reads, and
/// each of these accesses is an exit more.
///
/// Functions are named by the address that they have when the machine starts, in [`BarRoutes`]
/// too; [`RootBus`] finds the name for the address that the guest uses now.
///
/// Lock order: a port, then one function, then [`BarRoutes`] or the MSI router. Never two
/// functions, never two ports. On the way to a function behind a port the port is not locked; it
/// stays locked while the functions behind it follow a write to it, so that they end up where the
/// last of several writes wants them. A write that waits at the [`DmaGate`] holds none of them.
pub struct Segment {
    functions: BTreeMap<GuestBdf, Mutex<Occupant>>,
    ports: BTreeMap<GuestBdf, Port>,
    roots: Vec<RootBus>,
    routes: Arc<BarRoutes>,
    gate: Arc<DmaGate>,
}

impl Segment {
    /// No function comes while the machine runs, so that finding one takes no lock.
    pub fn new(
        functions: impl IntoIterator<Item = (GuestBdf, Box<dyn PciFunction>)>,
        ports: impl IntoIterator<Item = (GuestBdf, RootPort)>,
        roots: Vec<RootBus>,
        routes: Arc<BarRoutes>,
    ) -> Self {
        let functions = functions.into_iter().map(|(bdf, f)| (bdf, Mutex::new(Some(f))));
        let ports = ports.into_iter().map(|(bdf, port)| {
            let (home, _) = port.buses().get();
            (bdf, Port { home, port: Mutex::new(port) })
        });
        let (functions, ports) = (functions.collect(), ports.collect());
        Self { functions, ports, roots, routes, gate: Arc::default() }
    }

    /// No function becomes a bus master before `gate` lets it.
    #[must_use]
    pub fn with_gate(self, gate: Arc<DmaGate>) -> Self {
        Self { gate, ..self }
    }

    /// The gate that functions are behind.
    #[must_use]
    pub fn gate(&self) -> &DmaGate {
        &self.gate
    }

    /// Presses the attention button of the slot that `function` is in.
    #[expect(clippy::must_use_candidate, reason = "it is called for what it does")]
    pub fn press_button(&self, function: GuestBdf) -> Attention {
        match self.port_above(function) {
            Some(above) => lock(&above.port).press_button(),
            None => Attention::NoButton,
        }
    }

    /// Whether the guest has switched off the slot that `function` is in.
    #[must_use]
    pub fn is_switched_off(&self, function: GuestBdf) -> bool {
        self.port_above(function).is_some_and(|above| !lock(&above.port).is_on())
    }

    /// Takes `function` and its siblings out of their slot, which the guest has switched off. To
    /// drop them gives the devices back, which can take seconds: no lock is held by then.
    #[must_use]
    pub fn take_out(&self, function: GuestBdf) -> Vec<Box<dyn PciFunction>> {
        let Some(above) = self.port_above(function) else { return Vec::new() };
        let mut port = lock(&above.port);
        if port.is_on() {
            return Vec::new();
        }
        port.vacate();
        self.behind(above.home).filter_map(|place| lock(place).take()).collect()
    }

    /// Takes all functions out, after [`shut_down`](Self::shut_down). To drop one gives its device back.
    #[must_use]
    pub fn take_all(&self) -> Vec<Box<dyn PciFunction>> {
        self.functions.values().filter_map(|place| lock(place).take()).collect()
    }

    /// Switches every function off and resets it, or its bus once. For the end: the guest runs no
    /// more.
    pub fn shut_down(&self) {
        for place in self.functions.values() {
            if let Some(function) = lock(place).as_mut() {
                // All go: nobody waits.
                let _: Freed = function.set_link(LinkState::Down);
            }
        }
        reset(self.functions.values(), ResetCause::End);
    }

    fn port_above(&self, function: GuestBdf) -> Option<&Port> {
        self.ports.values().find(|port| port.home == function.bus())
    }

    /// The functions on a bus behind a port.
    fn behind(&self, home: u8) -> impl Iterator<Item = &Mutex<Occupant>> {
        self.functions.iter().filter(move |(bdf, _)| bdf.bus() == home).map(|(_, place)| place)
    }

    /// Writes a port, and lets the functions behind it follow.
    fn write_port(&self, Port { home, port }: &Port, offset: u16, data: &[u8]) -> Freed {
        let mut port = lock(port);
        let Some(link) = port.config_write(offset, data) else { return Freed::Nothing };
        let mut freed = Freed::Nothing;
        for place in self.behind(*home) {
            if let Some(function) = lock(place).as_mut() {
                freed |= function.set_link(link);
            }
        }
        if link == LinkState::Down {
            reset(self.behind(*home), ResetCause::Port);
        }
        freed
    }

    /// Reads through ECAM; `offset` counts from the start of bus 0
    /// (PCI Express Base, section 7.2.2).
    pub fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        self.config_read(ecam_target(offset), (offset & 0xfff) as u16, data);
    }

    /// Writes through ECAM.
    pub fn ecam_write(&self, offset: u64, data: &[u8]) {
        self.config_write(ecam_target(offset), (offset & 0xfff) as u16, data);
    }

    /// Reads a window of the host bridge. Returns whether a BAR answered.
    pub fn window_read(&self, space: Space, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        let Some(hit) = self.routes.find(space, address) else {
            return false;
        };
        // The BAR may move before its function is locked: the access then was first.
        self.with(hit.function, |function| function.bar_read(hit.bar, hit.offset, data));
        true
    }

    /// Writes a window of the host bridge. Returns whether a BAR answered.
    #[expect(clippy::must_use_candidate, reason = "it is called for what it does")]
    pub fn window_write(&self, space: Space, address: u64, data: &[u8]) -> bool {
        let Some(hit) = self.routes.find(space, address) else {
            return false;
        };
        self.with(hit.function, |function| function.bar_write(hit.bar, hit.offset, data));
        true
    }

    /// Does something with a function, under its lock; `None` where there is none.
    fn with<T>(&self, name: GuestBdf, access: impl FnOnce(&mut dyn PciFunction) -> T) -> Option<T> {
        let mut occupant = lock(self.functions.get(&name)?);
        occupant.as_mut().map(|function| access(function.as_mut()))
    }

    fn config_read(&self, target: Option<RoutedBdf>, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(name) = self.access(target, offset, data.len()) else { return };
        match self.ports.get(&name) {
            Some(Port { port, .. }) => lock(port).config_read(offset, data),
            None => self.with(name, |function| function.config_read(offset, data)).unwrap_or(()),
        }
    }

    fn config_write(&self, target: Option<RoutedBdf>, offset: u16, data: &[u8]) {
        let Some(name) = self.access(target, offset, data.len()) else { return };
        let freed = match self.ports.get(&name) {
            Some(port) => self.write_port(port, offset, data),
            None if !self.gate.wait_before(offset, data) => return,
            None => {
                let written = self.with(name, |function| function.config_write(offset, data));
                written.unwrap_or(Freed::Nothing)
            }
        };
        // A BAR that was refused because of this one answers now, as it would on a real bus.
        if freed == Freed::Addresses {
            for function in self.functions.values() {
                if let Some(function) = lock(function).as_mut() {
                    // What one gives up here, a later one of this round or of the next takes.
                    let _: Freed = function.sync();
                }
            }
        }
    }

    /// Whose configuration space an access goes on to: one that does not cross a dword, which the
    /// bus could not carry either.
    fn access(&self, target: Option<RoutedBdf>, offset: u16, length: usize) -> Option<GuestBdf> {
        let end = usize::from(offset) + length;
        let aligned = matches!(length, 1 | 2 | 4) && usize::from(offset).is_multiple_of(length);
        if !aligned || end > EXTENDED_CONFIG_SIZE {
            return None;
        }
        self.roots.iter().find_map(|root| root.route(target?))
    }
}

/// Resets functions, all of which are switched off.
fn reset<'a>(functions: impl IntoIterator<Item = &'a Mutex<Occupant>>, cause: ResetCause) {
    let mut done = ResetBuses::default();
    for place in functions {
        if let Some(function) = lock(place).as_mut() {
            function.reset(cause, &mut done);
        }
    }
}

/// Functions keep their own invariants at each step, so a panic elsewhere does not spoil them.
fn lock<T>(function: &Mutex<T>) -> MutexGuard<'_, T> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ecam_target(offset: u64) -> Option<RoutedBdf> {
    u16::try_from(offset >> 12).ok().map(RoutedBdf::from_routing_id)
}

#[cfg(test)]
mod tests;
