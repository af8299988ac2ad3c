//! The journal: what every changed setting was before berth, on disk before it changes.
//!
//! A file of JSON lines in berth's state folder. An intent is on the disk, file and folder, before
//! the first call that fulfils it; what is not settled by a later line is to be put back by
//! `berth restore`. A line that a crash cut short belongs to an intent that nothing was done
//! for, and is dropped. After each command the file is replaced by one with what is left.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use berth_devices::pci::Bdf;
use serde::{Deserialize, Serialize};

use super::BindingError;
use super::setting::{Goal, Setting, Value};

/// Raised when an older berth would misread the file.
const VERSION: u32 = 1;

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Record {
    /// The first line.
    BerthJournal { version: u32 },
    /// A setting is about to change.
    Intent {
        setting: Setting,
        before: Value,
        after: Goal,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        virtual_of: Option<Bdf>,
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
    pub virtual_of: Option<Bdf>,
    /// The run that it was changed for; `None` for one that lasts until it is undone.
    pub owner: Option<String>,
}

/// The journal, open and locked: other berths wait until it is dropped.
pub struct Journal {
    folder: PathBuf,
    file: File,
    entries: Vec<Entry>,
    _lock: File,
    #[cfg(test)]
    pub(super) fuse: Option<std::rc::Rc<super::fake::Fuse>>,
}

impl Journal {
    /// Opens the journal in `folder`, which is made when it is not there. Waits while another
    /// berth has it.
    ///
    /// # Errors
    /// The folder cannot be written, or the file is none that this berth reads.
    pub fn open(folder: &Path) -> Result<Self, BindingError> {
        let failed = |source| BindingError::Journal { path: folder.to_owned(), source };
        if !folder.exists() {
            fs::create_dir_all(folder).map_err(failed)?;
            let parent = folder.parent().unwrap_or(Path::new("/"));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        }
        let lock = lock(&folder.join("lock")).map_err(failed)?;
        let path = folder.join("journal");
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let entries = replay(&path, &text)?;
        // Also gets rid of a line that was cut short: the next one would continue it.
        let file = write_anew(folder, &entries).map_err(failed)?;
        Ok(Self {
            folder: folder.to_owned(),
            file,
            entries,
            _lock: lock,
            #[cfg(test)]
            fuse: None,
        })
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
        self.file.sync_all().map_err(|source| self.failed(source))
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
        self.burn();
        self.file =
            write_anew(&self.folder, &self.entries).map_err(|source| self.failed(source))?;
        Ok(())
    }

    fn append(&mut self, record: &Record) -> Result<(), BindingError> {
        let line = line(record);
        self.burn_in_the_middle_of(&line);
        self.file.write_all(line.as_bytes()).map_err(|source| self.failed(source))?;
        apply(&mut self.entries, record);
        self.burn();
        Ok(())
    }

    fn failed(&self, source: io::Error) -> BindingError {
        BindingError::Journal { path: self.folder.clone(), source }
    }

    /// Where a test may end this process.
    fn burn(&self) {
        #[cfg(test)]
        if let Some(fuse) = &self.fuse {
            fuse.burn();
        }
    }

    #[cfg_attr(not(test), expect(unused_variables))]
    fn burn_in_the_middle_of(&mut self, line: &str) {
        #[cfg(test)]
        if let Some(fuse) = &self.fuse
            && fuse.is_last()
        {
            let _ = self.file.write_all(&line.as_bytes()[..line.len() / 2]);
            fuse.burn();
        }
    }
}

/// An exclusive lock that ends with this process, however it ends.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            log::warn!("waiting for another berth, which has {}", path.display());
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).expect("a record is plain data") + "\n"
}

/// The file with nothing but `entries`, in the place of the old one at one go.
fn write_anew(folder: &Path, entries: &[Entry]) -> io::Result<File> {
    let (path, new) = (folder.join("journal"), folder.join("journal.new"));
    let mut text = line(&Record::BerthJournal { version: VERSION });
    for entry in entries.iter().cloned() {
        let Entry { setting, original: before, now: after, virtual_of, owner } = entry;
        text += &line(&Record::Intent { setting, before, after, virtual_of, owner });
    }
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return OpenOptions::new().append(true).open(path);
    }
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

fn replay(path: &Path, text: &str) -> Result<Vec<Entry>, BindingError> {
    let mut entries = Vec::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let damaged =
            |why: String| BindingError::Damaged { path: path.to_owned(), line: index + 1, why };
        // The last line of a berth that was killed while it wrote.
        let Some(whole) = line.strip_suffix('\n') else {
            break;
        };
        match serde_json::from_str::<Record>(whole) {
            Ok(Record::BerthJournal { version: VERSION }) if index == 0 => {}
            Ok(Record::BerthJournal { version }) => {
                return Err(damaged(format!("version {version}, and this berth reads {VERSION}")));
            }
            Ok(_) if index == 0 => return Err(damaged("it has no first line".to_owned())),
            Ok(record) => apply(&mut entries, &record),
            Err(error) => return Err(damaged(error.to_string())),
        }
    }
    Ok(entries)
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
