//! `berth sriov`: how many virtual functions a physical one has, and what their ports are.
//!
//! The number goes through 0, and so past every virtual function: those there are must be idle.
//! New ones are kept from the host's drivers until their ports are set, because a driver reads
//! its MAC once.

mod report;

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::HostBdf;

pub use report::SriovReport;

use crate::binding::{
    self, BindingError, Goal, Report, Session, Setting, Step, Target, Value, check_free,
    check_settable, find, no_ports, ports, sriov,
};
use crate::host::{Functions, HostFunction, Sriov};
use crate::units::{VfPort, VfPortArgument, VfPortChange};

/// What `berth sriov PF N` is to make.
#[derive(Clone, Debug)]
pub struct SriovRequest {
    /// How many virtual functions.
    pub count: u32,
    /// Their ports.
    pub ports: Vec<VfPortArgument>,
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
pub fn show(target: &Target, physical: HostBdf) -> Result<SriovReport, BindingError> {
    SriovReport::read(&target.root()?, physical, None)
}

/// `berth sriov PF N`.
///
/// # Errors
/// The function cannot have so many, or one that it has is in use; nothing has changed then.
pub fn set(
    target: &Target,
    physical: HostBdf,
    request: &SriovRequest,
) -> Result<SriovReport, BindingError> {
    let root = target.root()?;
    let mut session = Session::for_command(target, request.dry_run)?;
    let host = Functions::read_to_take(&root, &[physical])?;
    let ports = ports(sriov(&host, physical)?)?;
    let first = renumber(&host, physical, &ports, request)?;
    let mut report = Report::new(request.dry_run, &first);
    let there: BTreeSet<HostBdf> = sriov(&host, physical)?.functions.iter().copied().collect();
    if request.force && (request.bind || there.len() as u32 != request.count) {
        report.notes.extend(binding::overridden(&host, &there));
    }
    if request.dry_run {
        if request.bind {
            report.notes.push("then each new VF would be bound to vfio-pci".to_owned());
        }
        return SriovReport::read(&root, physical, Some(report));
    }
    if request.bind && request.count > 0 {
        binding::need_vfio(&host)?;
    }
    binding::apply(&mut session, &first)?;
    // Only now do the functions have addresses: a card may number them by their count.
    let host = Functions::read_to_take(&root, &[physical])?;
    let second = hand_out(&session, &host, physical, request)?;
    report.add(&second);
    binding::apply(&mut session, &second)?;
    drop(session);
    SriovReport::read(&root, physical, Some(report))
}

/// The first half: their number, and their ports while no driver has them.
fn renumber(
    host: &Functions,
    physical: HostBdf,
    ports: &[VfPort],
    request: &SriovRequest,
) -> Result<Vec<Step>, BindingError> {
    let sriov = sriov(host, physical)?;
    let SriovRequest { count, .. } = *request;
    if count > sriov.max {
        return Err(BindingError::TooManyVirtualFunctions {
            device: physical,
            count,
            max: sriov.max,
        });
    }
    let changes: BTreeMap<u32, VfPortChange> =
        request.ports.iter().map(|one| (one.index, one.change)).collect();
    if let Some(&index) = changes.keys().find(|index| **index >= count) {
        return Err(BindingError::NoSuchIndex { device: physical, index, count });
    }
    if !changes.is_empty() && sriov.interface.is_none() {
        return Err(no_ports(host, physical));
    }
    for change in changes.values() {
        check_settable(sriov, physical, change)?;
    }
    let now = sriov.functions.len() as u32;
    if count > now && sriov.has_room == Some(false) {
        return Err(BindingError::NoRoom { device: physical });
    }
    let mut steps = Vec::new();
    let fresh = now != count;
    if fresh {
        steps.extend(farewell(host, physical, sriov, ports, request.force)?);
        if count > 0 {
            let autoprobe = Setting::VfAutoprobe(physical);
            steps.push(Step::to(autoprobe, flag(sriov.autoprobe), flag(false)));
        }
        let number = |count: u32| Value::Count(count.into());
        steps.push(Step::to(Setting::VfCount(physical), number(now), number(count)));
    }
    for (&index, change) in &changes {
        // What a new port is like is the driver's business.
        let before = if fresh { None } else { ports.get(index as usize) };
        let before = Value::Port(before.cloned().unwrap_or_default());
        let step = Step::new(Setting::VfPort { physical, index }, before, Goal::Port(*change));
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
    host: &Functions,
    physical: HostBdf,
    sriov: &Sriov,
    ports: &[VfPort],
    force: bool,
) -> Result<Vec<Step>, BindingError> {
    let mut steps = Vec::new();
    for (index, &device) in (0..).zip(&sriov.functions) {
        let found: &HostFunction = find(host, device)?;
        check_free(host, device, force)?;
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
    host: &Functions,
    physical: HostBdf,
    request: &SriovRequest,
) -> Result<Vec<Step>, BindingError> {
    let sriov = sriov(host, physical)?;
    let functions: BTreeSet<HostBdf> = sriov.functions.iter().copied().collect();
    let setting = Setting::VfAutoprobe(physical);
    let autoprobe = session.original(&setting);
    let mut steps = Vec::new();
    // First: without it the kernel keeps drivers from virtual functions, even when told.
    if let Some(original) = autoprobe.clone() {
        steps.push(Step::to(setting, flag(sriov.autoprobe), original));
    }
    if request.bind {
        steps.extend(binding::bind_steps(host, &functions, request.force)?);
    } else if autoprobe == Some(flag(true)) {
        for &device in &functions {
            let function = &find(host, device)?.function;
            if function.driver.is_none() {
                let driver = Setting::Driver(device);
                steps.push(Step::new(driver, Value::Nothing, Goal::Probe).of(Some(physical)));
            }
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests;
