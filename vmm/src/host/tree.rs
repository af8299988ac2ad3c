//! Files in memory: what an archive held, or what was read of a host.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// A folder's entries by name.
pub(super) type Entries = BTreeMap<String, Entry>;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A folder.
    Folder(Entries),
    /// A file's bytes.
    File(Vec<u8>),
    /// A symbolic link's target.
    Link(PathBuf),
}

/// A root folder and all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree(Entries);

impl Tree {
    /// What is at `path`, whose links were followed already.
    pub(super) fn get(&self, path: &Path) -> Option<Found<'_>> {
        let mut here = &self.0;
        let mut names = names(path).peekable();
        while let Some(name) = names.next() {
            match here.get(&name)? {
                Entry::Folder(entries) => here = entries,
                Entry::File(bytes) => return names.peek().is_none().then_some(Found::File(bytes)),
                Entry::Link(target) => {
                    return names.peek().is_none().then_some(Found::Link(target));
                }
            }
        }
        Some(Found::Folder(here))
    }

    /// Puts `entry` at `path`, with the folders above it. What is there stays when the new entry
    /// says less: a folder or a file that is known only by its name, a shorter part of a file.
    /// Returns how many entries there are more.
    pub(super) fn insert(&mut self, path: &Path, entry: Entry) -> usize {
        let mut names: Vec<String> = names(path).collect();
        let Some(last) = names.pop() else {
            return 0;
        };
        let mut here = &mut self.0;
        let mut made = 0;
        for name in names {
            let below = here.entry(name).or_insert_with(|| {
                made += 1;
                Entry::Folder(Entries::new())
            });
            if !matches!(below, Entry::Folder(_)) {
                *below = Entry::Folder(Entries::new());
            }
            let Entry::Folder(entries) = below else {
                return made;
            };
            here = entries;
        }
        let says_less = match (&entry, here.get(&last)) {
            (_, None) | (Entry::Link(_), _) => false,
            (Entry::Folder(entries), _) => entries.is_empty(),
            (Entry::File(bytes), Some(Entry::File(known))) => bytes.len() < known.len(),
            (Entry::File(bytes), Some(_)) => bytes.is_empty(),
        };
        if !says_less && here.insert(last, entry).is_none() {
            made += 1;
        }
        made
    }

    /// Takes away what is at `path`.
    #[cfg(test)]
    pub(super) fn remove(&mut self, path: &Path) {
        let mut names: Vec<String> = names(path).collect();
        let last = names.pop().unwrap_or_default();
        let mut here = &mut self.0;
        for name in names {
            match here.get_mut(&name) {
                Some(Entry::Folder(entries)) => here = entries,
                _ => return,
            }
        }
        here.remove(&last);
    }

    /// The tree's only folder as the root, when neither `/sys` nor `/proc` is at its own.
    pub(super) fn without_leading_folder(mut self) -> Self {
        loop {
            let is_root =
                |entries: &Entries| ["sys", "proc"].iter().any(|n| entries.contains_key(*n));
            if is_root(&self.0) || self.0.len() != 1 {
                return self;
            }
            match self.0.pop_first() {
                Some((_, Entry::Folder(entries))) => self.0 = entries,
                Some((name, other)) => {
                    self.0.insert(name, other);
                    return self;
                }
                None => return self,
            }
        }
    }

    /// Lets `edit` change the bytes of every file.
    pub(super) fn edit(&mut self, edit: &mut impl FnMut(&Path, &mut Vec<u8>)) {
        fn walk(folder: &Path, entries: &mut Entries, edit: &mut impl FnMut(&Path, &mut Vec<u8>)) {
            for (name, entry) in entries {
                let path = folder.join(name);
                match entry {
                    Entry::Folder(entries) => walk(&path, entries, edit),
                    Entry::File(bytes) => edit(&path, bytes),
                    Entry::Link(_) => {}
                }
            }
        }
        walk(Path::new(""), &mut self.0, edit);
    }

    /// Every entry with its path, folders before what they hold.
    pub(super) fn for_each(
        &self,
        visit: &mut impl FnMut(&Path, &Entry) -> io::Result<()>,
    ) -> io::Result<()> {
        fn walk(
            folder: &Path,
            entries: &Entries,
            visit: &mut impl FnMut(&Path, &Entry) -> io::Result<()>,
        ) -> io::Result<()> {
            for (name, entry) in entries {
                let path = folder.join(name);
                visit(&path, entry)?;
                if let Entry::Folder(entries) = entry {
                    walk(&path, entries, visit)?;
                }
            }
            Ok(())
        }
        walk(Path::new(""), &self.0, visit)
    }
}

/// What [`Tree::get`] finds.
pub(super) enum Found<'a> {
    /// A folder.
    Folder(&'a Entries),
    /// A file's bytes.
    File(&'a [u8]),
    /// A symbolic link's target.
    Link(&'a Path),
}

fn names(path: &Path) -> impl Iterator<Item = String> + '_ {
    path.components().filter_map(|component| match component {
        // The kernel's own names are ASCII.
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    })
}

/// `path` with the links in it followed, under a root that no link leaves: an absolute target
/// starts at that root, and `..` stops there. `link` gives the target of what is one.
///
/// # Errors
/// ELOOP after as many links as the kernel follows (path_resolution(7)), and after more parts of
/// paths than any of sysfs has: 40 targets of 4 KiB each are many.
pub(super) fn resolve(path: &Path, link: impl Fn(&Path) -> Option<PathBuf>) -> io::Result<PathBuf> {
    const LINKS: usize = 40;
    const PARTS: usize = 256;

    let mut pending: Vec<OsString> = Vec::new();
    let push = |pending: &mut Vec<OsString>, path: &Path| {
        pending.extend(path.components().rev().map(|part| part.as_os_str().to_owned()));
    };
    push(&mut pending, path);
    let mut done = PathBuf::from("/");
    let mut followed = 0;
    let mut parts = 0;
    while let Some(part) = pending.pop() {
        parts += 1;
        if parts > PARTS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        if part == ".." {
            done.pop();
            continue;
        }
        if part == "." {
            continue;
        }
        // An absolute part, `/`, replaces what was there before.
        let next = done.join(&part);
        match link(&next) {
            Some(target) => {
                followed += 1;
                if followed > LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                push(&mut pending, &target);
            }
            None => done = next,
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        let mut tree = Tree::default();
        for (path, entry) in entries {
            tree.insert(Path::new(path), entry.clone());
        }
        tree
    }

    #[test]
    fn links_never_leave_the_root() {
        let links = [("/a", "../../../etc"), ("/etc/b", "/proc/c"), ("/loop", "loop")];
        let link = |path: &Path| {
            let found = links.iter().find(|(from, _)| Path::new(from) == path);
            found.map(|(_, to)| PathBuf::from(to))
        };
        for (path, resolved) in
            [("/a/x", "/etc/x"), ("a/b/d", "/proc/c/d"), ("/../..", "/"), ("./x/../y", "/y")]
        {
            assert_eq!(resolve(Path::new(path), link).expect("a path"), Path::new(resolved));
        }
        let error = resolve(Path::new("/loop"), link).expect_err("a loop");
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_link_that_walks_to_and_fro_is_not_followed_for_long() {
        let looked = std::cell::Cell::new(0);
        let link = |path: &Path| {
            looked.set(looked.get() + 1);
            (path == Path::new("/sys")).then(|| PathBuf::from("r/../".repeat(800) + "r"))
        };
        let error = resolve(Path::new("/sys/x"), link).expect_err("800 times to and fro");
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert!(looked.get() <= 256, "{} look-ups", looked.get());
    }

    #[test]
    fn a_leading_folder_is_left_out() {
        let file = Entry::File(b"0".to_vec());
        let plain = tree(&[("sys/x", file.clone())]);
        assert_eq!(tree(&[("host/sys/x", file.clone())]).without_leading_folder(), plain);
        assert_eq!(plain.clone().without_leading_folder(), plain);
    }

    #[test]
    fn what_says_less_replaces_nothing() {
        let file = Entry::File(b"0".to_vec());
        let mut filled = tree(&[("a/b", file.clone())]);
        let before = filled.clone();
        filled.insert(Path::new("/a"), Entry::Folder(Entries::new()));
        filled.insert(Path::new("/a/b"), Entry::File(Vec::new()));
        assert_eq!(filled, before);
    }
}
