//! Virtual functions of a card, and the step that changes the port of one.

use berth_devices::pci::HostBdf;

use super::{BindingError, Goal, Setting, Step, Value, find};
use crate::host::{Functions, Root, Sriov};
use crate::netlink::vf_ports;
use crate::units::{VfPort, VfPortChange};

/// The step that gives the port of virtual function `device` what a run asks for it.
///
/// # Errors
/// It is no virtual function, or its port cannot be reached.
pub(super) fn port_step(
    root: &Root,
    host: &Functions,
    device: HostBdf,
    change: &VfPortChange,
) -> Result<Option<Step>, BindingError> {
    let Some((physical, index)) = find(host, device)?.virtual_of else {
        return Err(BindingError::NotVirtual { device });
    };
    let card = Functions::read_to_take(root, &[physical])?;
    let sriov = sriov(&card, physical)?;
    check_settable(sriov, physical, change)?;
    let ports = ports(sriov)?;
    let now = ports.get(index as usize).ok_or_else(|| no_ports(&card, physical))?;
    let setting = Setting::VfPort { physical, index };
    let step = Step::new(setting, Value::Port(now.clone()), Goal::Port(*change));
    Ok(step.changes().then_some(step))
}

/// Whether the card's own interface takes the change of a port.
///
/// # Errors
/// The card is in switchdev mode, and more than a MAC is to change.
pub fn check_settable(
    sriov: &Sriov,
    physical: HostBdf,
    change: &VfPortChange,
) -> Result<(), BindingError> {
    let is_mac = VfPortChange { mac: None, ..*change }.is_empty();
    if sriov.is_switchdev && !is_mac {
        return Err(BindingError::Switchdev { device: physical });
    }
    Ok(())
}

/// Why the ports of a physical function cannot be set.
pub fn no_ports(host: &Functions, physical: HostBdf) -> BindingError {
    /// Base class of network controllers.
    const NETWORK: u32 = 0x02;
    let class = host.pci(physical).map(|function| function.class >> 16);
    BindingError::NoInterface { device: physical, is_network: class == Some(NETWORK) }
}

/// What a physical function says of its virtual ones.
///
/// # Errors
/// There is no such function, or it has no SR-IOV.
pub fn sriov(host: &Functions, physical: HostBdf) -> Result<&Sriov, BindingError> {
    let found = find(host, physical)?;
    let is_virtual = found.virtual_of.is_some();
    found.sriov.as_ref().ok_or(BindingError::NoSriov { device: physical, is_virtual })
}

/// The ports of a card's virtual functions, by index; none where no network driver has the card.
///
/// # Errors
/// The driver of the physical function does not tell.
pub fn ports(sriov: &Sriov) -> Result<Vec<VfPort>, BindingError> {
    let Some(interface) = &sriov.interface else { return Ok(Vec::new()) };
    vf_ports::ports(interface)
        .map_err(|source| BindingError::Ports { interface: interface.clone(), source })
}
