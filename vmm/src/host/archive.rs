//! Snapshots of hosts as tar archives, plain or compressed.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::HostError;
use super::tree::{Entries, Entry, Tree};

/// What a snapshot may have. The largest host is some 30,000 files, most of them of a few bytes.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// All that it unpacks to, with the archive's own headers.
    bytes: u64,
    /// A file of sysfs. An attribute is a page at most, a device's own data not many.
    attribute: u64,
    /// Any other file: modules.alias, the kernel's log, CPUs and interrupts of a large host.
    file: u64,
    /// Files, folders and links, also those folders that are only named in a path.
    entries: usize,
    /// Folders above any of its files; a path of sysfs has some 20.
    depth: usize,
}

/// Largest file of a snapshot but for those of sysfs; modules.alias has 2 MiB.
pub(super) const LARGEST_FILE: u64 = 4 << 20;

const LIMITS: Limits = Limits {
    bytes: 64 << 20,
    attribute: 64 << 10,
    file: LARGEST_FILE,
    entries: 1 << 18,
    depth: 32,
};

/// Longest path and longest target of a link, with their terminator (PATH_MAX in limits.h).
const LONGEST_PATH: usize = 4096;
/// What unpacking xz may take, in KiB: xz -9 has a dictionary of 64 MiB.
const XZ_MEMORY: u32 = 68 << 10;

/// What names of archives end in, the longest first.
const ENDINGS: [&str; 10] = [
    ".tar.zst", ".tar.bz2", ".tar.gz", ".tar.xz", ".tbz2", ".tzst", ".tgz", ".tbz", ".txz", ".tar",
];

/// Whether a file is called as archives are. What it holds tells whether it is one.
pub fn is_archive_name(name: &str) -> bool {
    without_archive_ending(name) != name
}

/// The name without what tells the kind of archive.
pub fn without_archive_ending(name: &str) -> &str {
    let shorter = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
    shorter.filter(|rest| !rest.is_empty()).unwrap_or(name)
}

/// Reads the archive at `path`.
///
/// Into memory, not onto a disk: there is then nothing that an archive could overwrite, no
/// device or owner to restore, and nothing to clean up.
pub(super) fn read(path: &Path) -> Result<Tree, HostError> {
    let read = || -> io::Result<Tree> {
        let file = BufReader::new(File::open(path)?);
        unpack(decompressed(file)?, LIMITS)
    };
    read().map_err(|source| HostError::Archive { path: path.to_owned(), source })
}

/// By the magic number at its start, not by its name.
fn decompressed(mut file: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut magic = [0; 6];
    let mut got = 0;
    while got < magic.len() {
        match file.read(&mut magic[got..])? {
            0 => break,
            more => got += more,
        }
    }
    let magic = &magic[..got];
    let whole = Cursor::new(magic.to_vec()).chain(file);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::MultiBzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(ruzstd::decoding::StreamingDecoder::new(whole).map_err(io::Error::other)?)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(whole, true, XZ_MEMORY))
        }
        _ => Box::new(whole),
    })
}

fn unpack(archive: impl Read, limits: Limits) -> io::Result<Tree> {
    let mut archive = tar::Archive::new(Measured { from: archive, left: limits.bytes });
    let mut tree = Tree::default();
    let mut made = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path.components().count() > limits.depth || is_too_long(&path) {
            return Err(too_much("a path"));
        }
        let found = match entry.header().entry_type() {
            tar::EntryType::Directory => Entry::Folder(Entries::new()),
            tar::EntryType::Symlink => match entry.link_name()? {
                Some(target) if is_too_long(&target) => return Err(too_much("a link's target")),
                Some(target) => Entry::Link(target.into_owned()),
                None => continue,
            },
            // Both are what a second name of a file is; a path from the archive's start.
            tar::EntryType::Link => match entry.link_name()? {
                Some(target) if is_too_long(&target) => return Err(too_much("a link's target")),
                Some(target) => Entry::Link(Path::new("/").join(target)),
                None => continue,
            },
            kind if kind.is_file() => {
                let (size, mut bytes) = (entry.size(), Vec::new());
                let most = if is_attribute(&path) { limits.attribute } else { limits.file };
                if size > most {
                    return Err(too_much(&format!("{} ({size} bytes)", path.display())));
                }
                entry.read_to_end(&mut bytes)?;
                if (bytes.len() as u64) < size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Entry::File(bytes)
            }
            // Devices, pipes, files with holes: nothing that a snapshot tells by them.
            _ => continue,
        };
        made += tree.insert(&path, found);
        if made > limits.entries {
            return Err(too_much("the number of its files"));
        }
    }
    // What is behind the last file is nothing, and then the checksum of what was compressed.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(tree)
}

/// Writes `tree` as a tar archive that zstd compressed.
pub(super) fn write(tree: &Tree, out: &mut impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(Vec::new());
    tree.for_each(&mut |path, entry| {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        match entry {
            Entry::Folder(_) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                archive.append_data(&mut header, path.join(""), io::empty())
            }
            Entry::File(bytes) => {
                header.set_mode(0o644);
                header.set_size(bytes.len() as u64);
                archive.append_data(&mut header, path, bytes.as_slice())
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                archive.append_link(&mut header, path, PathBuf::from(target))
            }
        }
    })?;
    let bytes = archive.into_inner()?;
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    out.write_all(&ruzstd::encoding::compress_to_vec(bytes.as_slice(), level))
}

/// `what` is too large.
fn too_much(what: &str) -> io::Error {
    io::Error::other(format!("{what} is more than a snapshot of a host holds"))
}

fn is_too_long(path: &Path) -> bool {
    path.as_os_str().as_bytes().len() >= LONGEST_PATH
}

/// Whether `path` is in sysfs, in an archive with or without a leading folder.
fn is_attribute(path: &Path) -> bool {
    let normal = |part: &Component| matches!(part, Component::Normal(_));
    path.components().filter(normal).take(2).any(|part| part.as_os_str() == "sys")
}

/// A stream that may only have so many bytes more.
struct Measured<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(bytes)?;
        self.left =
            self.left.checked_sub(got as u64).ok_or_else(|| too_much("what it unpacks to"))?;
        Ok(got)
    }
}

#[cfg(test)]
mod tests;
