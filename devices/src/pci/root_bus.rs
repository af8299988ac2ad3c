//! Bus numbers: which function an access to configuration space reaches, whatever the guest made
//! of its ports.
//!
//! A function is named by the address that it has when the machine starts, for good; the guest
//! may renumber the buses behind its ports, and an access to a bus then goes through the numbers
//! of that moment. Reading them takes no lock: each port publishes them after a write.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::{GuestBdf, RoutedBdf};

/// The bus numbers behind a port, as its registers hold them now.
#[derive(Debug)]
pub struct BusNumbers {
    /// Secondary bus when the machine starts: the bus in the names of the functions behind it.
    home: u8,
    /// Secondary bus, subordinate bus.
    now: AtomicU16,
}

impl BusNumbers {
    /// A port with one bus behind it.
    #[must_use]
    pub fn new(secondary: u8) -> Self {
        Self { home: secondary, now: AtomicU16::new(u16::from_le_bytes([secondary; 2])) }
    }

    /// The secondary and the subordinate bus.
    pub fn get(&self) -> (u8, u8) {
        let [secondary, subordinate] = self.now.load(Ordering::Acquire).to_le_bytes();
        (secondary, subordinate)
    }

    /// Publishes what the guest wrote. One store, so that nobody sees half of it.
    pub fn set(&self, secondary: u8, subordinate: u8) {
        self.now.store(u16::from_le_bytes([secondary, subordinate]), Ordering::Release);
    }
}

/// A root bus: the buses that its host bridge forwards to, and its ports.
#[derive(Clone, Debug)]
pub struct RootBus {
    /// Its own number and those of the buses below it; fixed, as `_CRS` tells the guest.
    buses: RangeInclusive<u8>,
    /// Behind which port, in the order of their devices.
    ports: Vec<Arc<BusNumbers>>,
}

impl RootBus {
    /// A root bus with the first number of `buses`.
    #[must_use]
    pub fn new(buses: RangeInclusive<u8>, ports: Vec<Arc<BusNumbers>>) -> Self {
        Self { buses, ports }
    }

    /// The name of the function that answers at `target`, if there is one and this host bridge
    /// forwards to it.
    ///
    /// A port takes what is between its secondary and its subordinate bus, and turns an access to
    /// its secondary bus into one that only device 0 answers (PCI Express Base 6.0, section
    /// 7.3.3; 7.3.1 for device 0). Ports of a sane guest do not overlap; of others the first one
    /// takes the access.
    #[must_use]
    pub fn route(&self, target: RoutedBdf) -> Option<GuestBdf> {
        let bus = target.bus();
        if !self.buses.contains(&bus) {
            return None;
        }
        if bus == *self.buses.start() {
            return Some(target.named_on(bus));
        }
        let (home, secondary) = self.ports.iter().find_map(|port| {
            let (secondary, subordinate) = port.get();
            (secondary..=subordinate).contains(&bus).then_some((port.home, secondary))
        })?;
        // Endpoints have no further buses behind them.
        let here = secondary == bus && target.device() == 0;
        here.then(|| target.named_on(home))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bdf(bus: u8, device: u8, function: u8) -> GuestBdf {
        GuestBdf::new(bus, device, function).expect("a device and a function")
    }

    fn route(root: &RootBus, target: GuestBdf) -> Option<GuestBdf> {
        root.route(RoutedBdf::from_routing_id(target.routing_id()))
    }

    #[test]
    fn a_renumbered_bus_keeps_its_functions() {
        let ports: Vec<_> = [1, 2].map(BusNumbers::new).map(Arc::new).into();
        let root = RootBus::new(0..=9, ports.clone());
        assert_eq!(route(&root, bdf(0, 31, 7)), Some(bdf(0, 31, 7)));
        assert_eq!(route(&root, bdf(2, 0, 3)), Some(bdf(2, 0, 3)));
        assert_eq!(route(&root, bdf(2, 1, 0)), None, "only device 0 is behind a port");
        ports[1].set(5, 6);
        assert_eq!(route(&root, bdf(5, 0, 3)), Some(bdf(2, 0, 3)));
        assert_eq!((route(&root, bdf(2, 0, 3)), route(&root, bdf(6, 0, 0))), (None, None));
        // Numbers before the guest's firmware or kernel gives any.
        ports[1].set(0, 0);
        assert_eq!(
            (route(&root, bdf(5, 0, 0)), route(&root, bdf(0, 0, 0))),
            (None, Some(bdf(0, 0, 0)))
        );
    }

    /// A bridge at a time, as the specification tells it: does it claim the access, and as what?
    fn model(start: u8, end: u8, ports: &[(u8, u8)], target: GuestBdf) -> Option<GuestBdf> {
        let bus = target.bus();
        if bus < start || bus > end {
            return None;
        }
        if bus == start {
            return Some(target);
        }
        for (index, &(secondary, subordinate)) in ports.iter().enumerate() {
            if bus < secondary || bus > subordinate {
                continue;
            }
            if bus > secondary || target.device() != 0 {
                return None;
            }
            return Some(bdf(start + 1 + index as u8, 0, target.function()));
        }
        None
    }

    proptest! {
        #[test]
        fn routes_like_the_specification_whatever_the_numbers(
            start in 0u8..200,
            length in 0u8..50,
            numbers in prop::collection::vec((any::<u8>(), any::<u8>()), 0..17),
            near in prop::collection::vec((0u8..20, 0u8..20), 0..17),
            (bus, device, function) in (any::<u8>(), 0u8..32, 0u8..8),
        ) {
            // Some wild, some plausible.
            let numbers: Vec<(u8, u8)> = numbers
                .into_iter()
                .zip(near.iter().map(|(s, n)| (start + s, start + s + n % 4)).chain([(0, 0)].into_iter().cycle()))
                .enumerate()
                .map(|(index, (wild, tame))| if index % 3 == 0 { wild } else { tame })
                .collect();
            let ports: Vec<_> = (0..numbers.len() as u8)
                .map(|index| Arc::new(BusNumbers::new(start + 1 + index)))
                .collect();
            for (port, (secondary, subordinate)) in ports.iter().zip(&numbers) {
                port.set(*secondary, *subordinate);
            }
            let root = RootBus::new(start..=start + length, ports);
            for bus in [bus, start, start.saturating_add(1), start + length] {
                for device in [0, device] {
                    let target = bdf(bus, device, function);
                    let expected = model(start, start + length, &numbers, target);
                    prop_assert_eq!(route(&root, target), expected, "{}", target);
                }
            }
        }
    }
}
