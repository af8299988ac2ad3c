//! Functions change hands: from the host's drivers to vfio-pci and back, and nothing is lost.
//!
//! `decide` makes steps from what exists and what is asked for, touching nothing; `execute`
//! makes them through the `host_control` to the kernel, each noted in the `journal` before. What is
//! noted there, `berth restore` puts back, after a crash of berth as after one of the host. All
//! commands hold the journal's lock while they look and act.
//!
//! A run that binds its devices is their `owner` and has a `guard`, a process that gives them
//! back at its end, whichever way it ends. Should both be killed, the next berth that opens the
//! journal does it.

mod decide;
mod disk;
mod error;
mod execute;
#[cfg(test)]
mod fake;
mod guard;
mod host_control;
mod journal;
mod module;
mod owner;
mod persist;
mod report;
mod run;
mod setting;
mod target;
mod virtual_functions;

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::HostBdf;

#[cfg(test)]
pub(crate) use decide::tests as testing;
pub use decide::{check_free, find, overridden};
pub use error::BindingError;
pub use module::{ModuleError, load as load_module, need as need_vfio};
pub use report::{Report, RestoreReport};
pub use run::{Lease, RunDevice, for_run, recover};
pub use setting::{Goal, Setting, Step, Value};
pub use target::Target;
pub use virtual_functions::{check_settable, no_ports, ports, sriov};

use crate::advice::parameters;
use crate::host::{Among, Functions, HostUse, Identity, Persisted, Root, RunningMachine, System};
use crate::units::PageSize;
use host_control::LiveHost;
use journal::{Entry, Journal};

/// How a command goes about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindOptions {
    /// All members of the functions' IOMMU groups too, but not the bridges.
    pub group: bool,
    /// Also what the host uses.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Also across reboots.
    pub persist: bool,
}

/// `berth bind`.
///
/// # Errors
/// Nothing has changed then.
pub fn bind(
    target: &Target,
    asked: &[HostBdf],
    options: BindOptions,
) -> Result<Report, BindingError> {
    let mut session = Session::for_command(target, options.dry_run)?;
    let host = Functions::read_to_take(&session.root, asked)?;
    let devices = decide::members(&host, asked, options)?;
    let steps = decide::bind(&host, &devices, options)?;
    if options.persist {
        decide::check_lasting(&host, &devices)?;
    }
    let mut report = Report::new(options.dry_run, &steps);
    if options.force {
        report.notes.extend(overridden(&host, &devices));
    }
    report.notes.extend(decide::notes(&host, &devices));
    if !host.vfio_pci {
        report.commands.insert(0, module::COMMAND.to_owned());
    }
    if !options.dry_run {
        module::need(&host)?;
        session.run(&steps)?;
    }
    if options.persist {
        let persisted = devices.iter().map(|&address| Persisted {
            address,
            identity: Identity::read(&session.root, address),
            modules: session.rivals(&host, address),
        });
        let persisted = persisted.collect();
        report.files =
            persist::add(target.folder(), &remake(&session.root), persisted, options.dry_run)?;
        report.notes.extend(decide::early_notes(&host, &devices));
    }
    report.look(&session, &devices)?;
    if !options.dry_run {
        report.check_bound()?;
    }
    Ok(report)
}

/// `berth unbind`.
///
/// # Errors
/// Nothing has changed then.
pub fn unbind(
    target: &Target,
    asked: &[HostBdf],
    options: BindOptions,
) -> Result<Report, BindingError> {
    let mut session = Session::for_command(target, options.dry_run)?;
    let host = Functions::read_to_take(&session.root, asked)?;
    let devices = decide::members(&host, asked, options)?;
    for &device in &devices {
        if let Some(run) = session.journal.run_of(&Setting::Driver(device)) {
            return Err(BindingError::BelongsToRun { device, run: run.to_owned() });
        }
    }
    let original = |setting: &Setting| session.original(setting);
    let steps = decide::unbind(&host, &devices, options, original)?;
    let mut report = Report::new(options.dry_run, &steps);
    if options.force {
        report.notes.extend(decide::overridden_back(&host, &devices));
    }
    if !options.dry_run {
        session.run(&steps)?;
    }
    if options.persist {
        report.files =
            persist::remove(target.folder(), &remake(&session.root), &devices, options.dry_run)?;
    }
    report.look(&session, &devices)?;
    Ok(report)
}

/// `berth restore`: all that the journal has, but for what machines that run have.
///
/// # Errors
/// The journal cannot be read or written. What cannot be put back is in the report.
pub fn restore(target: &Target, options: BindOptions) -> Result<RestoreReport, BindingError> {
    let mut session = Session::for_command(target, options.dry_run)?;
    let persisted = persist::functions(target.folder())?;
    let lasting = |setting: &Setting| match setting {
        Setting::Driver(device) if persisted.contains(device) => Some(*device),
        _ => None,
    };
    let again = session.journal.entries().iter().filter_map(|entry| lasting(&entry.setting));
    let notes: BTreeSet<String> = again.map(persist::note).collect();
    if options.dry_run {
        let (journal, obsolete) = (&session.journal, &session.obsolete);
        let lives = |owner: &str| owner::is_alive(journal.folder(), owner);
        return Ok(RestoreReport::planned(journal.entries(), lives, obsolete).with(notes));
    }
    // Those of runs that are over are among what was recovered, whatever became of them.
    let runs = |entry: &&Entry| {
        let owner = entry.owner.as_deref();
        owner.is_some_and(|owner| owner::is_alive(session.journal.folder(), owner))
    };
    let owned: Vec<_> = session.journal.entries().iter().filter(runs).cloned().collect();
    let held = if options.force { BTreeMap::new() } else { session.held()? };
    let Session { kernel, journal, recovered, obsolete, .. } = &mut session;
    let restored = execute::restore(kernel, journal, &held, |entry| entry.owner.is_none())?;
    let restored = std::mem::take(recovered).into_iter().chain(restored).collect();
    Ok(RestoreReport::new(restored, &owned, obsolete).with(notes))
}

/// What makes the host's initial RAM disk anew.
fn remake(root: &Root) -> String {
    parameters::initramfs(&System::read(root)).to_owned()
}

/// Lets a pool of huge pages grow to `pages`.
///
/// # Errors
/// Nothing has changed then: memory may be too fragmented for as many.
pub fn reserve(
    target: &Target,
    node: Option<u32>,
    size: PageSize,
    pages: u64,
) -> Result<(), BindingError> {
    let mut session = Session::open(target)?;
    let setting = Setting::HugePages { node, size };
    // Its value now is read when the step is made.
    session.run(&[Step::to(setting, Value::Nothing, Value::Count(pages))])
}

/// The steps that give functions to vfio-pci.
///
/// # Errors
/// One of them cannot be given, or must not be.
pub fn bind_steps(
    host: &Functions,
    devices: &BTreeSet<HostBdf>,
    force: bool,
) -> Result<Vec<Step>, BindingError> {
    decide::bind(host, devices, BindOptions { force, ..BindOptions::default() })
}

/// Makes steps that were decided elsewhere, and lets them last.
///
/// # Errors
/// The first step that the kernel refused; what was done before it is undone.
pub fn apply(session: &mut Session, steps: &[Step]) -> Result<(), BindingError> {
    session.run(steps)
}

/// The journal, locked, and the host that it is about.
pub struct Session {
    root: Root,
    kernel: LiveHost,
    journal: Journal,
    /// What berths that were killed had left behind.
    recovered: Vec<execute::Restored>,
    /// What the host's boot has made anew since.
    obsolete: Vec<Entry>,
}

impl Session {
    /// Waits for other berths, and gives back what those that were killed could not.
    pub fn open(target: &Target) -> Result<Self, BindingError> {
        let mut session = Self::look(target)?;
        if !session.obsolete.is_empty() {
            for Entry { setting, original, .. } in &session.obsolete {
                log::info!("{setting} was {original}; the host has booted since");
            }
        }
        session.journal.compact()?;
        let dead: BTreeSet<String> = session
            .journal
            .entries()
            .iter()
            .filter_map(|entry| entry.owner.clone())
            .filter(|owner| !owner::is_alive(session.journal.folder(), owner))
            .collect();
        if !dead.is_empty() {
            // Who was killed has its devices open until the kernel has ended it.
            if session.root.is_live() && !session.held()?.is_empty() {
                RunningMachine::wait_for_orphans(Among::Processes);
            }
            session.recovered = session.give_back(|owner| dead.contains(owner))?;
        }
        Ok(session)
    }

    /// The same; for a command that only says what it would do, nothing is given back.
    pub fn for_command(target: &Target, dry_run: bool) -> Result<Self, BindingError> {
        if dry_run { Self::look(target) } else { Self::open(target) }
    }

    /// What is still to be put back. A boot has made all anew but what `--persist` keeps.
    fn look(target: &Target) -> Result<Self, BindingError> {
        let root = target.root()?;
        let mut journal = Journal::open(target.state())?;
        let persisted = persist::functions(target.folder())?;
        let obsolete = journal.forget_earlier_boots(|entry| {
            let is_binding = matches!(entry.setting, Setting::Driver(_) | Setting::Override(_));
            let function = entry.setting.function();
            let is_persisted = function.is_some_and(|function| persisted.contains(&function));
            is_binding && is_persisted && entry.owner.is_none()
        });
        let kernel = LiveHost::new(target.folder());
        Ok(Self { root, kernel, journal, recovered: Vec::new(), obsolete })
    }

    /// Puts back what was changed for runs.
    fn give_back(
        &mut self,
        is_one: impl Fn(&String) -> bool,
    ) -> Result<Vec<execute::Restored>, BindingError> {
        let held = self.held()?;
        let is_theirs = |entry: &Entry| entry.owner.as_ref().is_some_and(&is_one);
        let restored = execute::restore(&self.kernel, &mut self.journal, &held, is_theirs)?;
        for restored in &restored {
            let (setting, to) = (&restored.setting, &restored.to);
            match &restored.reason {
                Some(reason) => log::warn!("{setting} is not {to} again: {reason}"),
                None => log::info!("{setting} is {to} again"),
            }
        }
        Ok(restored)
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), BindingError> {
        execute::run(&self.kernel, &mut self.journal, steps, None)
    }

    /// What a setting was before a command of berth's that lasts.
    pub fn original(&self, setting: &Setting) -> Option<Value> {
        self.journal.entry(setting, None).map(|entry| entry.original.clone())
    }

    /// Modules that would have a function: those of its kind, and of what has it or had it.
    fn rivals(&self, host: &Functions, device: HostBdf) -> BTreeSet<String> {
        let Some(found) = host.get(device) else { return BTreeSet::new() };
        let root = &self.root;
        let mut modules = found.native_modules(root);
        let now = found.function.driver.clone().filter(|_| !found.function.is_bound_to_vfio());
        let earlier = match self.original(&Setting::Driver(device)) {
            Some(Value::Name(driver)) if driver != decide::VFIO => Some(driver),
            _ => None,
        };
        let drivers = now.into_iter().chain(earlier);
        modules.extend(drivers.filter_map(|driver| root.module_of(&driver)));
        modules
    }

    /// Functions of the journal that a process has open, and the physical functions of such.
    fn held(&self) -> Result<BTreeMap<HostBdf, String>, BindingError> {
        let entries = self.journal.entries().iter();
        let functions: BTreeSet<HostBdf> =
            entries.filter_map(|entry| entry.setting.function()).collect();
        let functions: Vec<HostBdf> = functions.into_iter().collect();
        let host = Functions::read_to_take(&self.root, &functions)?;
        let mut held = BTreeMap::new();
        for (device, found) in &host.read {
            let use_ = found.uses.iter().find(|use_| matches!(use_, HostUse::OpenVfio { .. }));
            if let Some(use_) = use_ {
                held.insert(*device, format!("it {use_}"));
                if let Some((physical, _)) = found.virtual_of {
                    held.insert(physical, format!("{device} {use_}"));
                }
            }
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests;
