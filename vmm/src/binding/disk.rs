//! The door to the disk: where the journal's lines are kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use crate::state;

/// A file of lines that only grows, and that is replaced at one go.
pub trait Disk {
    /// Adds a line, which may not be on the disk when this returns.
    fn append(&mut self, line: &str) -> io::Result<()>;

    /// Returns when all lines are on the disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Puts `text` in the place of all lines: after a crash there is the one or the other.
    fn replace(&mut self, text: &str) -> io::Result<()>;
}

/// The file `journal` in a folder.
pub struct LiveDisk {
    folder: PathBuf,
    /// Opened by the first change.
    file: Option<File>,
}

impl LiveDisk {
    /// The one in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, file: None }
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let path = self.folder.join("journal");
        let open = || state::open(OpenOptions::new().append(true).create(true), &path);
        Ok(match self.file.take() {
            Some(file) => self.file.insert(file),
            None => self.file.insert(open()?),
        })
    }
}

impl Disk for LiveDisk {
    fn append(&mut self, line: &str) -> io::Result<()> {
        self.file()?.write_all(line.as_bytes())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file()?.sync_all()
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        let (path, new) = (self.folder.join("journal"), self.folder.join("journal.new"));
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        self.file = None;
        let mut options = OpenOptions::new();
        let mut file = state::open(options.create(true).write(true).truncate(true), &new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()?;
        self.file = Some(file);
        Ok(())
    }
}
