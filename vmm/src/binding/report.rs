//! What binding commands print: one line per function, or JSON with the same facts.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use berth_devices::pci::Bdf;
use serde::Serialize;

use super::execute::{Outcome, Restored};
use super::journal::Entry;
use super::setting::{Setting, Step, Value};
use super::{BindingError, Session, decide};
use crate::host::{Inventory, Root};

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
    pub address: Bdf,
    /// Its driver.
    pub driver: Option<String>,
    /// Its driver before berth; absent when berth has not changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier_driver: Option<Value>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// The file that gives it to a machine, if it is there.
    pub group_file: Option<String>,
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
    pub fn look(&mut self, session: &Session, devices: &BTreeSet<Bdf>) -> Result<(), BindingError> {
        let devices: Vec<Bdf> = devices.iter().copied().collect();
        let host = Inventory::read_to_take(&Root::live(), &devices)?;
        for address in devices {
            let function = &decide::find(&host, address)?.function;
            let file = function.group.map(|group| format!("/dev/vfio/{group}"));
            self.functions.push(FunctionReport {
                address,
                driver: function.driver.clone(),
                earlier_driver: session.original(&Setting::Driver(address)),
                group: function.group,
                group_file: file.filter(|file| Path::new(file).exists()),
            });
        }
        Ok(())
    }

    /// Whether VFIO offers the functions.
    pub fn check_bound(&self) -> Result<(), BindingError> {
        let missing = self.functions.iter().find(|function| function.group_file.is_none());
        match missing {
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
}

impl RestoreReport {
    /// What the journal would have put back.
    pub fn planned(entries: &[Entry]) -> Self {
        let settings = entries.iter().map(|entry| Restored {
            setting: entry.setting.clone(),
            to: entry.original.clone(),
            outcome: if entry.owner.is_some() { Outcome::Kept } else { Outcome::Restored },
            reason: entry.owner.clone(),
        });
        Self { dry_run: true, settings: settings.collect() }
    }

    /// What was put back, and what runs keep.
    pub fn new(mut settings: Vec<Restored>, owned: &[Entry]) -> Self {
        settings.extend(owned.iter().map(|entry| Restored {
            setting: entry.setting.clone(),
            to: entry.original.clone(),
            outcome: Outcome::Kept,
            reason: entry.owner.as_ref().map(|run| format!("the machine runs: {run}")),
        }));
        Self { dry_run: false, settings }
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

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.settings.is_empty() {
            return writeln!(f, "nothing to put back");
        }
        for Restored { setting, to, outcome, reason } in &self.settings {
            let verb = match outcome {
                Outcome::Restored if self.dry_run => "would be",
                Outcome::Restored => "is again",
                Outcome::Gone => "is gone; was",
                Outcome::Kept => "is left alone; was",
                Outcome::Failed => "is NOT again",
            };
            let reason = reason.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            writeln!(f, "{setting} {verb} {to}{reason}")?;
        }
        Ok(())
    }
}
