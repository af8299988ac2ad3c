//! `berth sriov`: how many virtual functions a physical one has, and what their ports are.
//!
//! The number goes through 0, and so past every virtual function: those there are must be idle.
//! New ones are kept from the host's drivers until their ports are set, because a driver reads
//! its MAC once.

pub mod netlink;
mod port;
mod report;

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::Bdf;

pub use port::{IndexedWish, Mac, PortWish, VfPort};
pub use report::SriovReport;

use crate::binding::{
    self, BindingError, Choice, Goal, Report, Session, Setting, Step, Value, check_free, find,
};
use crate::host::{Inventory, Listed, Root, Sriov};

/// What `berth sriov PF N` is to make.
#[derive(Clone, Debug)]
pub struct Wish {
    /// How many virtual functions.
    pub count: u32,
    /// Their ports.
    pub ports: Vec<IndexedWish>,
    /// Whether they are bound to vfio-pci.
    pub bind: bool,
    /// Also if one is in use.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// `berth sriov PF`.
///
/// # Errors
/// There is no such function, or it has no SR-IOV.
pub fn show(physical: Bdf) -> Result<SriovReport, BindingError> {
    SriovReport::read(physical, None)
}

/// `berth sriov PF N`.
///
/// # Errors
/// The function cannot have so many, or one that it has is in use; nothing has changed then.
pub fn set(physical: Bdf, wish: &Wish) -> Result<SriovReport, BindingError> {
    let root = Root::live();
    let mut session = Session::open()?;
    let host = Inventory::read_to_take(&root, &[physical])?;
    let ports = ports(sriov(&host, physical)?)?;
    let first = renumber(&host, physical, &ports, wish)?;
    let mut report = Report::new(wish.dry_run, &first);
    if wish.dry_run {
        if wish.bind {
            report.notes.push("then each new VF would be bound to vfio-pci".to_owned());
        }
        return SriovReport::read(physical, Some(report));
    }
    binding::apply(&mut session, &first)?;
    // Only now do the functions have addresses: a card may number them by their count.
    let host = Inventory::read_to_take(&root, &[physical])?;
    let second = hand_out(&session, &host, physical, wish)?;
    report.add(&second);
    binding::apply(&mut session, &second)?;
    drop(session);
    SriovReport::read(physical, Some(report))
}

/// The step that gives a virtual function's port what a run wishes for it.
///
/// # Errors
/// It is no virtual function, or its port cannot be reached.
pub fn port_of(
    host: &Inventory,
    device: Bdf,
    wish: &PortWish,
) -> Result<Option<Step>, BindingError> {
    let Some((physical, index)) = find(host, device)?.virtual_of else {
        return Err(BindingError::NotVirtual { device });
    };
    let card = Inventory::read_to_take(&Root::live(), &[physical])?;
    let ports = ports(sriov(&card, physical)?)?;
    let now = ports.get(index as usize).ok_or(BindingError::NoInterface { device: physical })?;
    let setting = Setting::VfPort { physical, index };
    let step = Step::new(setting, Value::Port(now.clone()), Goal::Port(*wish));
    Ok(step.changes().then_some(step))
}

fn sriov(host: &Inventory, physical: Bdf) -> Result<&Sriov, BindingError> {
    let found = find(host, physical)?;
    let is_virtual = found.virtual_of.is_some();
    found.sriov.as_ref().ok_or(BindingError::NoSriov { device: physical, is_virtual })
}

fn ports(sriov: &Sriov) -> Result<Vec<VfPort>, BindingError> {
    let Some(interface) = &sriov.interface else { return Ok(Vec::new()) };
    netlink::ports(interface)
        .map_err(|source| BindingError::Ports { interface: interface.clone(), source })
}

/// The first half: their number, and their ports while no driver has them.
fn renumber(
    host: &Inventory,
    physical: Bdf,
    ports: &[VfPort],
    wish: &Wish,
) -> Result<Vec<Step>, BindingError> {
    let sriov = sriov(host, physical)?;
    let Wish { count, .. } = *wish;
    if count > sriov.max {
        return Err(BindingError::TooManyVirtualFunctions {
            device: physical,
            count,
            max: sriov.max,
        });
    }
    let wishes: BTreeMap<u32, PortWish> =
        wish.ports.iter().map(|one| (one.index, one.wish)).collect();
    if let Some(&index) = wishes.keys().find(|index| **index >= count) {
        return Err(BindingError::NoSuchIndex { device: physical, index, count });
    }
    if !wishes.is_empty() && sriov.interface.is_none() {
        return Err(BindingError::NoInterface { device: physical });
    }
    let now = sriov.functions.len() as u32;
    let mut steps = Vec::new();
    let fresh = now != count;
    if fresh {
        steps.extend(farewell(host, physical, sriov, ports, wish.force)?);
        if count > 0 {
            let autoprobe = Setting::VfAutoprobe(physical);
            steps.push(Step::to(autoprobe, flag(sriov.autoprobe), flag(false)));
        }
        let number = |count: u32| Value::Count(count.into());
        steps.push(Step::to(Setting::VfCount(physical), number(now), number(count)));
    }
    for (&index, wish) in &wishes {
        // What a new port is like is the driver's business.
        let before = if fresh { None } else { ports.get(index as usize) };
        let before = Value::Port(before.cloned().unwrap_or_default());
        let step = Step::new(Setting::VfPort { physical, index }, before, Goal::Port(*wish));
        if fresh || step.changes() {
            steps.push(step);
        }
    }
    Ok(steps)
}

fn flag(on: bool) -> Value {
    Value::Count(on.into())
}

/// What goes with the virtual functions there are, for the way back.
fn farewell(
    host: &Inventory,
    physical: Bdf,
    sriov: &Sriov,
    ports: &[VfPort],
    force: bool,
) -> Result<Vec<Step>, BindingError> {
    let mut steps = Vec::new();
    for (index, &device) in (0..).zip(&sriov.functions) {
        let found: &Listed = find(host, device)?;
        check_free(device, found, Choice { force, group: false })?;
        let lost = |setting, before| Step::new(setting, before, Goal::Lost).of(Some(physical));
        if let Some(port) = ports.get(index as usize) {
            let setting = Setting::VfPort { physical, index };
            steps.push(lost(setting, Value::Port(port.clone())));
        }
        let function = &found.function;
        let only = Value::name(function.driver_override.as_deref());
        steps.push(lost(Setting::Override(device), only));
        steps.push(lost(Setting::Driver(device), Value::name(function.driver.as_deref())));
    }
    Ok(steps)
}

/// The second half: who gets them. Those that nobody asked for go to the host's drivers, if those
/// took new ones before.
fn hand_out(
    session: &Session,
    host: &Inventory,
    physical: Bdf,
    wish: &Wish,
) -> Result<Vec<Step>, BindingError> {
    let sriov = sriov(host, physical)?;
    let functions: BTreeSet<Bdf> = sriov.functions.iter().copied().collect();
    let setting = Setting::VfAutoprobe(physical);
    let autoprobe = session.original(&setting);
    let mut steps = Vec::new();
    if wish.bind {
        steps.extend(binding::bind_steps(host, &functions, wish.force)?);
    } else if autoprobe == Some(flag(true)) {
        for &device in &functions {
            let function = &find(host, device)?.function;
            if function.driver.is_none() {
                let driver = Setting::Driver(device);
                steps.push(Step::new(driver, Value::Nothing, Goal::Probe).of(Some(physical)));
            }
        }
    }
    if let Some(original) = autoprobe {
        steps.push(Step::to(setting, flag(sriov.autoprobe), original));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests;
