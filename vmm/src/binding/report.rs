//! What binding commands print: one line per function, or JSON with the same facts.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use berth_devices::pci::HostBdf;
use serde::Serialize;

use super::execute::{Outcome, Restored};
use super::journal::Entry;
use super::setting::{Setting, Step, Value};
use super::{BindingError, Session, decide};
use crate::host::{Functions, device_file, group_file};

/// What `bind`, `unbind` and `sriov` did.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Nothing was done; this is what would be.
    pub dry_run: bool,
    /// Settings that changed.
    pub changes: Vec<Step>,
    /// The same as commands.
    pub commands: Vec<String>,
    /// Files of the host's configuration that changed.
    pub files: Vec<String>,
    /// The functions as they are now.
    pub functions: Vec<FunctionReport>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// A function as it is now.
#[derive(Debug, Serialize)]
pub struct FunctionReport {
    /// Its address.
    pub address: HostBdf,
    /// Its driver.
    pub driver: Option<String>,
    /// Its driver before berth; absent when berth has not changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier_driver: Option<Value>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// The file that gives it to a machine, if it is there.
    pub group_file: Option<String>,
    /// The same with iommufd.
    pub device_file: Option<String>,
}

impl Report {
    /// Of steps that were decided.
    pub fn new(dry_run: bool, steps: &[Step]) -> Self {
        let changes: Vec<Step> = steps.iter().filter(|step| step.changes()).cloned().collect();
        let acts = changes.iter().flat_map(|step| step.setting.acts(&step.before, &step.after));
        Self {
            dry_run,
            commands: acts.map(|act| act.to_string()).collect(),
            changes,
            files: Vec::new(),
            functions: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds steps.
    pub fn add(&mut self, steps: &[Step]) {
        let Self { changes, commands, .. } = Self::new(self.dry_run, steps);
        self.changes.extend(changes);
        self.commands.extend(commands);
    }

    /// Adds functions as they are now.
    pub fn look(
        &mut self,
        session: &Session,
        devices: &BTreeSet<HostBdf>,
    ) -> Result<(), BindingError> {
        let devices: Vec<HostBdf> = devices.iter().copied().collect();
        let host = Functions::read_to_take(&session.root, &devices)?;
        for address in devices {
            let function = &decide::find(&host, address)?.function;
            let exists = |file: &String| Path::new(file).exists();
            self.functions.push(FunctionReport {
                address,
                driver: function.driver.clone(),
                earlier_driver: session.original(&Setting::Driver(address)),
                group: function.group,
                group_file: function.group.map(group_file).filter(exists),
                device_file: function.device_file.as_deref().map(device_file).filter(exists),
            });
        }
        Ok(())
    }

    /// Whether VFIO offers the functions, one way or the other.
    pub fn check_bound(&self) -> Result<(), BindingError> {
        let offered = |f: &&FunctionReport| f.group_file.is_some() || f.device_file.is_some();
        match self.functions.iter().find(|function| !offered(function)) {
            Some(&FunctionReport { address: device, group: Some(group), .. }) => {
                Err(BindingError::NoGroupFile { device, group })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dry_run {
            for command in &self.commands {
                writeln!(f, "{command}")?;
            }
        } else {
            for function in &self.functions {
                let FunctionReport { address, driver, .. } = function;
                write!(f, "{address}  {}", driver.as_deref().unwrap_or("no driver"))?;
                if let Some(earlier) = &function.earlier_driver {
                    write!(f, "  (was: {earlier})")?;
                }
                if let Some(file) = &function.group_file {
                    write!(f, "  {file}")?;
                }
                writeln!(f)?;
            }
            if self.changes.is_empty() && self.files.is_empty() {
                writeln!(f, "nothing to change")?;
            }
        }
        for file in &self.files {
            writeln!(f, "{}", file)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

/// What `restore` did.
#[derive(Debug, Serialize)]
pub struct RestoreReport {
    /// Nothing was done; this is what would be.
    pub dry_run: bool,
    /// One entry per setting of the journal.
    pub settings: Vec<Restored>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl RestoreReport {
    /// What the journal would have put back.
    pub fn planned(entries: &[Entry], lives: impl Fn(&str) -> bool, obsolete: &[Entry]) -> Self {
        let settings = entries.iter().map(|entry| {
            let run = entry.owner.as_deref().filter(|owner| lives(owner));
            let outcome = if run.is_some() { Outcome::Kept } else { Outcome::Restored };
            restored(entry, outcome, run.map(the_machine_runs))
        });
        let obsolete = obsolete.iter().map(|entry| restored(entry, Outcome::Obsolete, None));
        let settings = settings.chain(obsolete).collect();
        Self { dry_run: true, settings, notes: Vec::new() }
    }

    /// What was put back, what runs keep, and what the host's boot has made anew.
    pub fn new(mut settings: Vec<Restored>, owned: &[Entry], obsolete: &[Entry]) -> Self {
        settings.extend(owned.iter().map(|entry| {
            restored(entry, Outcome::Kept, entry.owner.as_deref().map(the_machine_runs))
        }));
        settings.extend(obsolete.iter().map(|entry| restored(entry, Outcome::Obsolete, None)));
        Self { dry_run: false, settings, notes: Vec::new() }
    }

    /// Adds notes.
    pub fn with(self, notes: BTreeSet<String>) -> Self {
        Self { notes: notes.into_iter().collect(), ..self }
    }

    /// An error when something that should be put back was not.
    pub fn check(&self) -> Result<(), BindingError> {
        let failed = self.settings.iter().filter(|one| one.outcome == Outcome::Failed);
        match failed.count() {
            0 => Ok(()),
            count => Err(BindingError::NotRestored { count, total: self.settings.len() }),
        }
    }
}

fn restored(entry: &Entry, outcome: Outcome, reason: Option<String>) -> Restored {
    let Entry { setting, original, .. } = entry;
    Restored { setting: setting.clone(), to: original.clone(), outcome, reason }
}

fn the_machine_runs(run: &str) -> String {
    format!("the machine runs: {run}")
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.settings.is_empty() {
            writeln!(f, "nothing to put back")?;
        }
        for Restored { setting, to, outcome, reason } in &self.settings {
            let verb = match outcome {
                Outcome::Restored if self.dry_run => "would be",
                Outcome::Restored => "is again",
                Outcome::Gone => "is gone; was",
                Outcome::Kept => "is left alone; was",
                Outcome::Obsolete => "has been set anew by a boot of the host; was",
                Outcome::Failed => "is NOT again",
            };
            let reason = reason.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            writeln!(f, "{setting} {verb} {to}{reason}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}
