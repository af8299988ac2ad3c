//! `"bind": "auto"`: devices that are a machine's for one run.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::RawFd;

use berth_devices::pci::HostBdf;

use super::guard::Guard;
use super::owner::Owner;
use super::{
    BindOptions, BindingError, Session, Setting, Target, decide, execute, module, virtual_functions,
};
use crate::host::Functions;
use crate::sandbox::Restriction;
use crate::units::VfPortChange;

/// A device of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunDevice {
    /// Its address.
    pub address: HostBdf,
    /// Whether berth may take it from its driver.
    pub bind: bool,
    /// What its port is to be, if it is a virtual function.
    pub port: VfPortChange,
}

/// Devices that are given back when the run is over.
pub struct Lease(Guard);

impl Lease {
    /// The descriptors that end the run when they are closed, and that tell how that went.
    pub fn fds(&self) -> [RawFd; 2] {
        self.0.fds()
    }

    /// Tells whose process the machine is: it has to be gone before its devices go back.
    pub fn watch(&self, machine: u32) {
        self.0.watch(machine);
    }

    /// Gives the devices back, which must be closed.
    pub fn end(self) {
        if !self.0.dismiss() {
            log::error!("not every device could be given back: `berth restore` tries again");
        }
    }
}

/// Binds `devices` for a run of the machine `name`; `None` when there is nothing to change. Who gives
/// them back may do what `restriction` leaves.
///
/// # Errors
/// A device cannot be had; nothing has changed then.
pub fn for_run(
    target: &Target,
    name: &str,
    devices: &[RunDevice],
    restriction: Restriction,
) -> Result<Option<Lease>, BindingError> {
    if !devices.iter().any(|device| device.bind || !device.port.is_empty()) {
        return Ok(None);
    }
    let mut session = Session::open(target)?;
    let addresses: Vec<HostBdf> = devices.iter().map(|device| device.address).collect();
    let host = Functions::read_to_take(&session.root, &addresses)?;
    // Whoever was killed has lost its devices by now, so that the owner of one lives.
    for &device in &addresses {
        if let Some(run) = session.journal.run_of(&Setting::Driver(device)) {
            return Err(BindingError::BelongsToRun { device, run: run.to_owned() });
        }
    }
    let mut steps = Vec::new();
    for device in devices.iter().filter(|device| !device.port.is_empty()) {
        steps.extend(virtual_functions::port_step(
            &session.root,
            &host,
            device.address,
            &device.port,
        )?);
    }
    let bound: BTreeSet<HostBdf> =
        devices.iter().filter(|device| device.bind).map(|device| device.address).collect();
    steps.extend(decide::bind(&host, &bound, BindOptions::default())?);
    if !steps.iter().any(|step| step.changes()) {
        return Ok(None);
    }
    if !bound.is_empty() {
        module::need(&host)?;
    }
    let owner = Owner::new(session.journal.folder(), name)?;
    let id = owner.id().to_owned();
    // Before the first change, so that there is none without a guard.
    let guard = Guard::start(target, owner, &addresses, restriction)?;
    execute::run(&session.kernel, &mut session.journal, &steps, Some(&id))?;
    Ok(Some(Lease(guard)))
}

/// Gives back what a berth that was killed together with its guard has left. Who calls this may do
/// without it, so it does not fail for that.
pub fn recover(target: &Target) {
    /// Of a journal with nothing in it.
    const EMPTY: u64 = 40;

    let path = target.state().join("journal");
    if fs::metadata(path).is_ok_and(|file| file.len() > EMPTY)
        && let Err(error) = Session::open(target)
    {
        let level = if is_for_root(&error) { log::Level::Info } else { log::Level::Warn };
        log::log!(level, "what an earlier berth has changed stays: {}", error.with_cause());
    }
}

/// Users who may not keep the journal could change no drivers either: it is root's business.
fn is_for_root(error: &BindingError) -> bool {
    matches!(error, BindingError::Journal { source, .. } if source.kind() == ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_not_warned_of_roots_journal() {
        let journal =
            |kind: ErrorKind| BindingError::Journal { path: "journal".into(), source: kind.into() };
        assert!(is_for_root(&journal(ErrorKind::PermissionDenied)));
        assert!(!is_for_root(&journal(ErrorKind::StorageFull)));
    }
}
