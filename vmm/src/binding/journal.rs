//! The journal: what every changed setting was before berth, on disk before it changes.
//!
//! A file of JSON lines in berth's state folder. An intent is on the disk, file and folder, before
//! the first call that fulfils it; what is not settled by a later line is to be put back by
//! `berth restore`. A line that a crash cut short belongs to an intent that nothing was done
//! for, and is dropped. After each command the file is replaced by one with what is left.
//!
//! The first line names the boot that the entries are of: the next one makes drivers, numbers and
//! pages anew, by the host's own configuration, and putting back what was before would break that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_devices::pci::HostBdf;
use serde::{Deserialize, Serialize};

use super::BindingError;
use super::disk::{Disk, LiveDisk};
use super::setting::{Goal, Setting, Value};
use crate::state::{self, Lock};

/// Raised when an older berth would misread the file.
const VERSION: u32 = 1;

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Record {
    /// The first line.
    BerthJournal {
        version: u32,
        /// The kernel's name for the boot, where it tells.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        boot: String,
    },
    /// A setting is about to change.
    Intent {
        setting: Setting,
        before: Value,
        after: Goal,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        virtual_of: Option<HostBdf>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
    /// It has changed, and was looked at.
    Done { setting: Setting },
    /// It is again what it was, or what it was about is gone.
    Settled {
        setting: Setting,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
}

impl Record {
    /// Drivers and runs become parts of paths: each has to be one name. What is wrong otherwise.
    fn check(&self) -> Result<(), String> {
        let names: Vec<&str> = match self {
            Self::Intent { before, after, owner, .. } => {
                let goal = if let Goal::Is(value) = after { Some(value) } else { None };
                let values = [Some(before), goal].into_iter().flatten();
                let drivers = values.filter_map(|value| match value {
                    Value::Name(driver) => Some(driver.as_str()),
                    _ => None,
                });
                drivers.chain(owner.as_deref()).collect()
            }
            Self::Settled { owner, .. } => owner.as_deref().into_iter().collect(),
            Self::BerthJournal { .. } | Self::Done { .. } => Vec::new(),
        };
        let is_path = |name: &&&str| ["", ".", ".."].contains(*name) || name.contains(['/', '\0']);
        match names.iter().find(is_path) {
            Some(name) => Err(format!("{name:?} is neither a driver nor a run")),
            None => Ok(()),
        }
    }
}

/// A setting that is to be put back one day.
///
/// One may be there twice: changed by a command to last, and on top of that for a run, at whose
/// end it goes back to what the command made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The setting.
    pub setting: Setting,
    /// What it was before the first such change.
    pub original: Value,
    /// What berth last made of it.
    pub now: Goal,
    /// The physical function whose virtual function it is about.
    pub virtual_of: Option<HostBdf>,
    /// The run that it was changed for; `None` for one that lasts until it is undone.
    pub owner: Option<String>,
}

/// The journal, open and locked: other berths wait until it is dropped.
pub struct Journal {
    folder: PathBuf,
    disk: Box<dyn Disk>,
    entries: Vec<Entry>,
    /// The boot that the entries are of.
    boot: String,
    _lock: Lock,
}

impl Journal {
    /// Opens the journal in `folder`, which is made when it is not there. Waits while another
    /// berth has it.
    ///
    /// # Errors
    /// The folder cannot be written or others can, another berth does not let go of it, or the file
    /// is none that this berth reads.
    pub fn open(folder: &Path) -> Result<Self, BindingError> {
        Self::open_on(Box::new(LiveDisk::new(folder.to_owned())), folder)
    }

    /// The same, with its lines going to `disk`.
    pub(super) fn open_on(mut disk: Box<dyn Disk>, folder: &Path) -> Result<Self, BindingError> {
        let failed = |source| BindingError::Journal { path: folder.to_owned(), source };
        state::prepare(folder)?;
        let lock = Lock::take(&folder.join("lock"))?;
        let path = folder.join("journal");
        let (entries, boot) = match fs::read(&path) {
            Ok(bytes) => replay(&path, &String::from_utf8_lossy(&bytes))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), this_boot()),
            Err(error) => return Err(failed(error)),
        };
        // Also gets rid of a line that was cut short: the next one would continue it.
        disk.replace(&text(&boot, &entries)).map_err(failed)?;
        Ok(Self { folder: folder.to_owned(), disk, entries, boot, _lock: lock })
    }

    /// Forgets what a boot has made anew, which is returned; what `lasts` across boots stays. It
    /// is on the disk with the next [`Self::compact`].
    pub fn forget_earlier_boots(&mut self, lasts: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        self.forget_boots_before(this_boot(), lasts)
    }

    fn forget_boots_before(&mut self, boot: String, lasts: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let before = std::mem::replace(&mut self.boot, boot);
        // A kernel that does not tell has to be taken for the same.
        if before == self.boot || before.is_empty() || self.boot.is_empty() {
            return Vec::new();
        }
        self.entries.extract_if(.., |entry| !lasts(entry)).collect()
    }

    /// What is to be put back, the oldest change first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What was changed of `setting` for the run `owner`, or to last.
    pub fn entry(&self, setting: &Setting, owner: Option<&str>) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is(setting, owner))
    }

    /// The run that has `setting` now.
    pub fn run_of(&self, setting: &Setting) -> Option<&str> {
        let mut entries = self.entries.iter().filter(|entry| entry.setting == *setting);
        entries.find_map(|entry| entry.owner.as_deref())
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Notes changes that are about to be made; when this returns, they are on the disk.
    pub fn intend(&mut self, entries: Vec<Entry>) -> Result<(), BindingError> {
        if entries.is_empty() {
            return Ok(());
        }
        for Entry { setting, original, now, virtual_of, owner } in entries {
            self.append(&Record::Intent {
                setting,
                before: original,
                after: now,
                virtual_of,
                owner,
            })?;
        }
        self.disk.sync().map_err(|source| self.failed(source))
    }

    /// Notes that a setting has changed. Not to lose this matters to nobody: to act again does
    /// no harm.
    pub fn done(&mut self, setting: &Setting) -> Result<(), BindingError> {
        self.append(&Record::Done { setting: setting.clone() })
    }

    /// Notes that there is nothing left to put back of a setting.
    pub fn settle(&mut self, setting: &Setting, owner: Option<&str>) -> Result<(), BindingError> {
        let (setting, owner) = (setting.clone(), owner.map(str::to_owned));
        self.append(&Record::Settled { setting, owner })
    }

    /// Replaces the file by one with what is left.
    pub fn compact(&mut self) -> Result<(), BindingError> {
        let text = text(&self.boot, &self.entries);
        self.disk.replace(&text).map_err(|source| self.failed(source))
    }

    fn append(&mut self, record: &Record) -> Result<(), BindingError> {
        self.disk.append(&line(record)).map_err(|source| self.failed(source))?;
        apply(&mut self.entries, record);
        Ok(())
    }

    fn failed(&self, source: io::Error) -> BindingError {
        BindingError::Journal { path: self.folder.clone(), source }
    }
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).expect("a record is plain data") + "\n"
}

/// The file's text with nothing but `entries`.
fn text(boot: &str, entries: &[Entry]) -> String {
    let mut text = line(&Record::BerthJournal { version: VERSION, boot: boot.to_owned() });
    for entry in entries.iter().cloned() {
        let Entry { setting, original: before, now: after, virtual_of, owner } = entry;
        text += &line(&Record::Intent { setting, before, after, virtual_of, owner });
    }
    text
}

/// What the kernel calls this boot (`random.c`: a UUID drawn once); empty where it does not tell.
fn this_boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

fn replay(path: &Path, text: &str) -> Result<(Vec<Entry>, String), BindingError> {
    let (mut entries, mut of_boot) = (Vec::new(), None);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let damaged =
            |why: String| BindingError::Damaged { path: path.to_owned(), line: index + 1, why };
        // The last line of a berth that was killed while it wrote.
        let Some(whole) = line.strip_suffix('\n') else {
            break;
        };
        match serde_json::from_str::<Record>(whole) {
            Ok(Record::BerthJournal { version: VERSION, boot }) if index == 0 => {
                of_boot = Some(boot);
            }
            Ok(Record::BerthJournal { version, .. }) => {
                return Err(damaged(format!("version {version}, and this berth reads {VERSION}")));
            }
            Ok(_) if index == 0 => return Err(damaged("it has no first line".to_owned())),
            Ok(record) => {
                record.check().map_err(damaged)?;
                apply(&mut entries, &record);
            }
            Err(error) => return Err(damaged(error.to_string())),
        }
    }
    // The file is never put in its place without a first line.
    let cut = || BindingError::Damaged {
        path: path.to_owned(),
        line: 1,
        why: "it is cut off in its first line".to_owned(),
    };
    Ok((entries, of_boot.ok_or_else(cut)?))
}

impl Entry {
    fn is(&self, setting: &Setting, owner: Option<&str>) -> bool {
        self.setting == *setting && self.owner.as_deref() == owner
    }
}

/// The first `before` is what a setting is put back to. A change that lasts takes over what a run
/// has made.
fn apply(entries: &mut Vec<Entry>, record: &Record) {
    match record {
        Record::Intent { setting, before, after, virtual_of, owner } => {
            let mut original = before.clone();
            if owner.is_none() {
                // What a run began is this change's to put back, unless an earlier one's.
                let begun = entries.iter().find(|entry| entry.setting == *setting);
                if let Some(entry) = begun {
                    original = entry.original.clone();
                }
                entries.retain(|entry| entry.setting != *setting || entry.owner.is_none());
            }
            let known = entries.iter_mut().find(|entry| entry.is(setting, owner.as_deref()));
            match known {
                Some(entry) => entry.now = after.clone(),
                None => entries.push(Entry {
                    setting: setting.clone(),
                    original,
                    now: after.clone(),
                    virtual_of: *virtual_of,
                    owner: owner.clone(),
                }),
            }
        }
        Record::Settled { setting, owner } => {
            entries.retain(|entry| !entry.is(setting, owner.as_deref()));
        }
        Record::BerthJournal { .. } | Record::Done { .. } => {}
    }
}

#[cfg(test)]
mod tests;
