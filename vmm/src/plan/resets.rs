//! How each assigned function is reset, when the machine starts and when it ends.

use berth_devices::pci::Bdf;
use berth_devices::vfio::ResetMethod;

use super::Note;
use super::devices::Assigned;
use crate::host::HostProfile;

/// What a hot reset of a function would hit.
struct HotReset {
    /// There is a port above, through which it can be done.
    possible: bool,
    /// Functions on the bus that are not the guest's.
    foreign: Vec<Bdf>,
}

/// Chooses the way of each function. Functions of one card are reset together when one of them
/// cannot be reset by itself.
pub(super) fn choose(assigned: &mut [Assigned], host: &HostProfile, notes: &mut Vec<Note>) {
    let chosen: Vec<ResetMethod> = assigned
        .iter()
        .map(|device| {
            let hot = hot_reset(device, assigned, host);
            let card = assigned.iter().filter(|other| card(other) == card(device));
            let alone = |other: &Assigned| other.alone().is_functions_own();
            let together = hot.possible && hot.foreign.is_empty() && !card.clone().all(alone);
            let kernel = &device.function.reset_methods;
            let method = match together {
                // Also for one that can, since its siblings cannot.
                true if card.count() > 1 => ResetMethod::Hot,
                together => ResetMethod::best(kernel, together),
            };
            notes.extend(note(device, method, &hot));
            method
        })
        .collect();
    for (device, method) in assigned.iter_mut().zip(chosen) {
        device.reset = method;
    }
}

/// The host's device that a function is of. A virtual function is one by itself.
fn card(device: &Assigned) -> Bdf {
    if device.function.is_virtual { device.address } else { device.address.slot() }
}

fn hot_reset(device: &Assigned, assigned: &[Assigned], host: &HostProfile) -> HotReset {
    let Assigned { address, function, .. } = device;
    let all = &host.functions.addresses;
    let on_bus = |other: &&Bdf| (other.domain(), other.bus()) == (address.domain(), address.bus());
    // The kernel tries a bus reset only of a function that it finds alone on the bus.
    let untried = function.link.is_some() && all.iter().filter(on_bus).count() > 1;
    let resettable = untried || function.reset_methods.contains(&ResetMethod::Bus);
    let ours = |other: &Bdf| {
        let idle = host.functions.pci(*other).filter(|f| f.is_bound_to_vfio());
        let of_our_group = idle.is_some_and(|f| assigned.iter().any(|a| Some(a.group) == f.group));
        of_our_group || assigned.iter().any(|a| a.address == *other)
    };
    let foreign = all.iter().filter(on_bus).filter(|other| !ours(other));
    HotReset { possible: resettable && !function.is_virtual, foreign: foreign.copied().collect() }
}

fn note(device: &Assigned, method: ResetMethod, hot: &HotReset) -> Option<Note> {
    let device = device.address;
    let bystanders = if hot.possible { hot.foreign.clone() } else { Vec::new() };
    match method {
        ResetMethod::None => Some(Note::ResetNone { device, bystanders }),
        ResetMethod::Pm if !bystanders.is_empty() => Some(Note::ResetPoor { device, bystanders }),
        _ => None,
    }
}
