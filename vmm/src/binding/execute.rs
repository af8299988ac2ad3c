//! Makes the changes that were decided, each noted in the journal before and looked at after.

use std::collections::BTreeMap;

use berth_devices::pci::HostBdf;
use serde::Serialize;

use super::BindingError;
use super::host_control::HostControl;
use super::journal::{Entry, Journal};
use super::setting::{Goal, Setting, Step, Value};

/// What became of a setting on the way back.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// The setting.
    pub setting: Setting,
    /// What it was before berth.
    pub to: Value,
    /// How that went.
    pub outcome: Outcome,
    /// Why it is not as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How putting a setting back went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is again what it was.
    Restored,
    /// What it was about is not there any more.
    Gone,
    /// It belongs to a machine that runs, or is in use.
    Kept,
    /// The host has booted since, and its configuration has made it what it is.
    Obsolete,
    /// The kernel refused.
    Failed,
}

/// Makes `steps`, in their order. When one fails, those before it are undone.
///
/// `owner` is the run that they are made for; without one they last.
///
/// # Errors
/// The first step that the kernel refused, or that changed nothing.
pub fn run(
    kernel: &impl HostControl,
    journal: &mut Journal,
    steps: &[Step],
    owner: Option<&str>,
) -> Result<(), BindingError> {
    let mut intents = Vec::new();
    let mut new = Vec::new();
    for step in steps {
        // What does not exist yet comes with another step, and goes with it.
        let Some(now) = read(kernel, &step.setting)? else { continue };
        // A change that lasts takes over one that was made for a run.
        let adopted = owner.is_none() && journal.run_of(&step.setting).is_some();
        if journal.entry(&step.setting, owner).is_none() && !adopted {
            new.push(step.setting.clone());
        }
        if !step.after.is_met_by(&now) || adopted {
            intents.push(Entry {
                setting: step.setting.clone(),
                original: now,
                now: step.after.clone(),
                virtual_of: step.virtual_of,
                owner: owner.map(str::to_owned),
            });
        }
    }
    journal.intend(intents)?;
    for step in steps {
        if let Err(error) = take(kernel, journal, &step.setting, &step.after, owner) {
            let held = BTreeMap::new();
            let is_new =
                |entry: &Entry| entry.owner.as_deref() == owner && new.contains(&entry.setting);
            for restored in restore(kernel, journal, &held, is_new)? {
                if restored.outcome == Outcome::Failed {
                    let reason = restored.reason.unwrap_or_default();
                    log::error!("{} cannot be put back: {reason}", restored.setting);
                }
            }
            return Err(error);
        }
    }
    prune(kernel, journal)?;
    journal.compact()
}

/// Puts back what the journal has and `chosen` wants, as far as that goes.
///
/// `held` are functions that must not be taken from who has them, with the reason.
///
/// # Errors
/// The journal cannot be written. What the kernel refuses is in the result.
pub fn restore(
    kernel: &impl HostControl,
    journal: &mut Journal,
    held: &BTreeMap<HostBdf, String>,
    chosen: impl Fn(&Entry) -> bool,
) -> Result<Vec<Restored>, BindingError> {
    stop_autoprobe(kernel, journal, &chosen)?;
    let (mut entries, others): (Vec<Entry>, Vec<Entry>) =
        journal.entries().iter().cloned().partition(|entry| chosen(entry));
    entries.sort_by_key(|entry| entry.setting.rank(entry.virtual_of.is_some()));
    let mut results = Vec::new();
    for Entry { setting, original, owner, virtual_of, .. } in &entries {
        let owner = owner.as_deref();
        let mut push = |outcome, reason| {
            let (setting, to) = (setting.clone(), original.clone());
            results.push(Restored { setting, to, outcome, reason });
        };
        let goal = Goal::Is(original.clone());
        let now = match read(kernel, setting) {
            Ok(now) => now,
            Err(error) => {
                push(Outcome::Failed, Some(error.with_cause()));
                continue;
            }
        };
        let has_run = |other: &&Entry| other.setting == *setting && other.owner.is_some();
        let run = others.iter().find(has_run).and_then(|other| other.owner.as_ref());
        let reason = run.map(|run| format!("the machine runs: {run}"));
        let held = setting.function().and_then(|function| held.get(&function).cloned());
        // Ranks have their number put back before: what is noted of it still could not be.
        let number = virtual_of.map(Setting::VfCount);
        let absent = number.is_some_and(|number| journal.entry(&number, owner).is_some());
        match (now, reason.or(held)) {
            (None, _) if absent => {
                push(Outcome::Failed, Some("it comes with the number of VFs".to_owned()));
            }
            (None, _) => {
                journal.settle(setting, owner)?;
                push(Outcome::Gone, None);
            }
            (Some(now), Some(reason)) if !setting.acts(&now, &goal).is_empty() => {
                push(Outcome::Kept, Some(reason));
            }
            (Some(_), _) => match take(kernel, journal, setting, &goal, owner) {
                Ok(()) => push(Outcome::Restored, None),
                Err(error @ BindingError::Journal { .. }) => return Err(error),
                Err(error) => push(Outcome::Failed, Some(error.with_cause())),
            },
        }
    }
    prune(kernel, journal)?;
    journal.compact()?;
    Ok(results)
}

/// Virtual functions that come back get their ports before a driver reads them.
fn stop_autoprobe(
    kernel: &impl HostControl,
    journal: &mut Journal,
    chosen: &impl Fn(&Entry) -> bool,
) -> Result<(), BindingError> {
    let returning =
        journal.entries().iter().filter(|entry| chosen(entry)).filter_map(|entry| {
            match (&entry.setting, &entry.original) {
                (Setting::VfCount(physical), Value::Count(1..)) => Some((*physical, entry.clone())),
                _ => None,
            }
        });
    for (physical, count) in returning.collect::<Vec<_>>() {
        let setting = Setting::VfAutoprobe(physical);
        let now = read(kernel, &count.setting)?;
        if now.is_none_or(|now| now == count.original) {
            continue;
        }
        if let Some(original @ Value::Count(1)) = read(kernel, &setting)? {
            let goal = Goal::Is(Value::Count(0));
            journal.intend(vec![Entry {
                setting: setting.clone(),
                original,
                now: goal.clone(),
                virtual_of: None,
                owner: count.owner.clone(),
            }])?;
            take(kernel, journal, &setting, &goal, count.owner.as_deref())?;
        }
    }
    Ok(())
}

/// Brings a setting to its goal, whatever it is now, for the run `owner` or to last.
fn take(
    kernel: &impl HostControl,
    journal: &mut Journal,
    setting: &Setting,
    goal: &Goal,
    owner: Option<&str>,
) -> Result<(), BindingError> {
    let gone = || BindingError::Gone { setting: setting.clone() };
    if *goal == Goal::Lost {
        return Ok(());
    }
    let now = read(kernel, setting)?.ok_or_else(gone)?;
    for act in setting.acts(&now, goal) {
        kernel.perform(&act).map_err(|source| BindingError::Refused {
            setting: setting.clone(),
            call: act.to_string(),
            source,
        })?;
    }
    if *goal != Goal::Probe {
        let found = read(kernel, setting)?.ok_or_else(gone)?;
        if !goal.is_met_by(&found) {
            let (setting, wanted) = (setting.clone(), goal.clone());
            return Err(BindingError::Unchanged { setting, wanted, found });
        }
        if journal.entry(setting, owner).is_some_and(|entry| entry.original == found) {
            return journal.settle(setting, owner);
        }
    }
    match journal.entry(setting, owner) {
        Some(_) => journal.done(setting),
        None => Ok(()),
    }
}

/// Forgets virtual functions that berth made and that are gone again. Those that were there
/// before berth come back with their number, which the journal then still has.
fn prune(kernel: &impl HostControl, journal: &mut Journal) -> Result<(), BindingError> {
    for Entry { setting, virtual_of, owner, .. } in journal.entries().to_vec() {
        if let Some(physical) = virtual_of
            && journal.entry(&Setting::VfCount(physical), None).is_none()
            && read(kernel, &setting)?.is_none()
        {
            journal.settle(&setting, owner.as_deref())?;
        }
    }
    Ok(())
}

fn read(kernel: &impl HostControl, setting: &Setting) -> Result<Option<Value>, BindingError> {
    let failed = |source| BindingError::Unreadable { setting: setting.clone(), source };
    kernel.value(setting).map_err(failed)
}

#[cfg(test)]
mod tests;
