//! Snapshots of hosts as tar archives, plain or compressed.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use super::HostError;
use super::tree::{Entries, Entry, Tree};

/// The largest host is some 10,000 files of a page: what unpacks to more is no snapshot.
const MOST_BYTES: u64 = 1 << 30;
/// Its files, folders and links.
const MOST_ENTRIES: usize = 1 << 20;
/// Folders above any of its files; a path of sysfs has some 20.
const DEEPEST: usize = 100;

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
        unpack(decompressed(file)?, MOST_BYTES)
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
            let mut bytes = Bounded(Vec::new());
            lzma_rs::xz_decompress(&mut BufReader::new(whole), &mut bytes)
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
            Box::new(Cursor::new(bytes.0))
        }
        _ => Box::new(whole),
    })
}

fn unpack(archive: impl Read, most: u64) -> io::Result<Tree> {
    let mut archive = tar::Archive::new(Measured { from: archive, left: most });
    let mut tree = Tree::default();
    for (count, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if count == MOST_ENTRIES || path.components().count() > DEEPEST {
            return Err(too_much());
        }
        let found = match entry.header().entry_type() {
            tar::EntryType::Directory => Entry::Folder(Entries::new()),
            tar::EntryType::Symlink => match entry.link_name()? {
                Some(target) => Entry::Link(target.into_owned()),
                None => continue,
            },
            // Both are what a second name of a file is; a path from the archive's start.
            tar::EntryType::Link => match entry.link_name()? {
                Some(target) => Entry::Link(Path::new("/").join(target)),
                None => continue,
            },
            kind if kind.is_file() => {
                let (size, mut bytes) = (entry.size(), Vec::new());
                entry.read_to_end(&mut bytes)?;
                if (bytes.len() as u64) < size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Entry::File(bytes)
            }
            // Devices, pipes: nothing that a snapshot tells by them.
            _ => continue,
        };
        tree.insert(&path, found);
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

fn too_much() -> io::Error {
    io::Error::other("it unpacks to more than a snapshot of a host holds")
}

/// A stream that may only have so many bytes more.
struct Measured<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(bytes)?;
        self.left = self.left.checked_sub(got as u64).ok_or_else(too_much)?;
        Ok(got)
    }
}

/// Bytes up to what a snapshot may have.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > MOST_BYTES {
            return Err(too_much());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.insert(Path::new("sys/bus/pci"), Entry::Link(PathBuf::from("../devices/pci")));
        tree.insert(Path::new("sys/devices/pci/x"), Entry::File(b"0x8086\n".to_vec()));
        tree.insert(Path::new("proc/empty"), Entry::Folder(Entries::new()));
        tree
    }

    fn packed(tree: &Tree) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(tree, &mut bytes).expect("memory takes all");
        bytes
    }

    fn unpacked(bytes: Vec<u8>) -> io::Result<Tree> {
        unpack(decompressed(Cursor::new(bytes))?, MOST_BYTES)
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        assert_eq!(unpacked(packed(&sample())).expect("an archive"), sample());
    }

    #[test]
    fn every_compression_is_known_by_its_start() {
        let mut plain = Vec::new();
        decompressed(Cursor::new(packed(&sample())))
            .and_then(|mut archive| archive.read_to_end(&mut plain))
            .expect("zstd");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).expect("memory takes all");
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&plain).expect("memory takes all");
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut plain.as_slice(), &mut xz).expect("memory takes all");
        for bytes in [
            plain,
            gzip.finish().expect("memory takes all"),
            bzip2.finish().expect("memory takes all"),
            xz,
        ] {
            assert_eq!(unpacked(bytes).expect("an archive"), sample());
        }
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        let mut tree = sample();
        tree.insert(Path::new("proc/zeroes"), Entry::File(vec![0; 1 << 20]));
        let bytes = packed(&tree);
        assert!(bytes.len() < 1 << 16, "zeroes compress");
        let archive = decompressed(Cursor::new(bytes)).expect("zstd");
        let error = unpack(archive, 1 << 19).expect_err("a MiB in half of one");
        assert!(error.to_string().contains("more than a snapshot"), "{error}");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        for bytes in [&b"#!/bin/sh\nexit 0\n"[..], b"\x1f\x8b\0\0\0\0\0", b"BZh9junk..........."] {
            assert!(unpacked(bytes.to_vec()).is_err());
        }
    }
}
