//! How each assigned function is reset, when the machine starts and when it ends.

use std::collections::BTreeSet;

use berth_devices::pci::Bdf;
use berth_devices::vfio::ResetMethod;

use super::PlanError;
use super::devices::Assigned;
use super::text::list;
use crate::config::DeviceReset;
use crate::host::{HostProfile, Resets};

/// Chooses the way of each function, and says where the guest finds what others have left.
pub(super) fn choose(
    assigned: &mut [Assigned],
    host: &HostProfile,
    notes: &mut Vec<String>,
) -> Result<(), PlanError> {
    let guests: BTreeSet<Bdf> = assigned.iter().map(|device| device.address).collect();
    for device in assigned {
        let address = device.address;
        let resets = host.functions.resets(address, &guests);
        if resets.method() == ResetMethod::None && device.demand == DeviceReset::Required {
            return Err(PlanError::NoReset { device: address, others: resets.others });
        }
        notes.extend(note(address, &resets));
        (device.reset, device.reset_alone) = (resets.method(), resets.alone());
    }
    Ok(())
}

fn note(address: Bdf, resets: &Resets) -> Option<String> {
    let others = match resets.others.as_slice() {
        [] => String::new(),
        others => {
            format!("; a hot reset would hit {}, not assigned to this guest", list(others))
        }
    };
    match resets.method() {
        ResetMethod::None => Some(format!(
            "{address} has no reset: the guest finds it as its last user left it{others}"
        )),
        ResetMethod::Pm => Some(format!(
            "{address} has no better reset than a PM reset, over which some devices keep state{others}"
        )),
        _ => None,
    }
}
