//! How each assigned function is reset, when the machine starts and when it ends.

use std::collections::BTreeSet;

use berth_devices::pci::HostBdf;
use berth_devices::vfio::ResetMethod;

use super::devices::Assigned;
use super::{Note, PlanError};
use crate::config::DeviceReset;
use crate::host::{HostProfile, Resets};

/// Chooses the way of each function, and says where the guest finds what others have left.
pub(super) fn choose(
    assigned: &mut [Assigned],
    host: &HostProfile,
    notes: &mut Vec<Note>,
) -> Result<(), PlanError> {
    let guests: BTreeSet<HostBdf> = assigned.iter().map(|device| device.address).collect();
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

fn note(device: HostBdf, resets: &Resets) -> Option<Note> {
    let bystanders = resets.others.clone();
    match resets.method() {
        ResetMethod::None => Some(Note::ResetNone { device, bystanders }),
        ResetMethod::Pm => Some(Note::ResetPoor { device, bystanders }),
        _ => None,
    }
}
