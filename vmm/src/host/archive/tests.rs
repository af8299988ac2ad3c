//! Archives, sound and hostile: all of them are made here.

use std::cell::Cell;
use std::rc::Rc;

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
    unpack(decompressed(Cursor::new(bytes))?, LIMITS)
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
    for (_, bytes) in compressed(&plain) {
        assert_eq!(unpacked(bytes).expect("an archive"), sample());
    }
}

/// The same bytes in every way that is read.
fn compressed(plain: &[u8]) -> [(&'static str, Vec<u8>); 5] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(plain).expect("memory takes all");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(plain).expect("memory takes all");
    let options = lzma_rust2::XzOptions::with_preset(0);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).expect("a writer");
    xz.write_all(plain).expect("memory takes all");
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    [
        ("tar", plain.to_vec()),
        ("gzip", gzip.finish().expect("memory takes all")),
        ("bzip2", bzip2.finish().expect("memory takes all")),
        ("xz", xz.finish().expect("memory takes all")),
        ("zstd", ruzstd::encoding::compress_to_vec(plain, level)),
    ]
}

/// Limits that archives of a test reach.
const SMALL: Limits = Limits { bytes: 1 << 20, attribute: 64 << 10, file: 256 << 10, ..LIMITS };

/// Unpacks `bytes` within [`SMALL`]; why not, and how many bytes were unpacked until then.
fn refused(bytes: Vec<u8>) -> (String, u64) {
    struct Counted<R>(R, Rc<Cell<u64>>);

    impl<R: Read> Read for Counted<R> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let got = self.0.read(bytes)?;
            self.1.set(self.1.get() + got as u64);
            Ok(got)
        }
    }

    let count = Rc::new(Cell::new(0));
    let archive = decompressed(Cursor::new(bytes)).expect("a known start");
    let error = unpack(Counted(archive, count.clone()), SMALL).expect_err("it means harm");
    (error.to_string(), count.get())
}

/// A tar archive of so many files of `size` zeroes each.
fn zeroes(files: usize, size: usize, name: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in 0..files {
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        let path = format!("{name}{file}");
        archive.append_data(&mut header, path, &*vec![0; size]).expect("memory takes all");
    }
    archive.into_inner().expect("memory takes all")
}

/// One of the most that is read at a time, beyond the limit.
const SLACK: u64 = 128 << 10;

#[test]
fn nothing_unpacks_to_more_than_its_limit_however_it_is_packed() {
    // Eight times what is allowed, in files that are allowed each.
    for (kind, bytes) in compressed(&zeroes(64, 128 << 10, "proc/")) {
        let (why, unpacked) = refused(bytes);
        assert!(why.contains("what it unpacks to is more"), "{kind}: {why}");
        assert!(unpacked <= SMALL.bytes + SLACK, "{kind}: {unpacked} bytes were unpacked");
    }
    // One file, which is refused by its size before any of it is unpacked.
    for (name, size) in [("proc/zeroes", 257 << 10), ("sys/zeroes", 65 << 10), ("x/sys/z", 1 << 20)]
    {
        for (kind, bytes) in compressed(&zeroes(1, size, name)) {
            let (why, unpacked) = refused(bytes);
            assert!(why.starts_with(name), "{kind}: {why}");
            assert!(unpacked <= 1024, "{kind}: {unpacked} bytes were unpacked");
        }
    }
}

/// Behind the last file of an archive there is nothing to be read either.
#[test]
fn what_follows_the_end_counts() {
    let mut bytes = zeroes(1, 10, "proc/x");
    bytes.resize(8 << 20, 0);
    for (kind, bytes) in compressed(&bytes) {
        let (why, unpacked) = refused(bytes);
        assert!(why.contains("what it unpacks to"), "{kind}: {why}");
        assert!(unpacked <= SMALL.bytes + SLACK, "{kind}: {unpacked} bytes were unpacked");
    }
}

#[test]
fn folders_links_and_paths_have_limits() {
    let with = |path: &str, target: Option<&str>| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        match target {
            Some(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                archive.append_link(&mut header, path, target).expect("memory takes all");
            }
            None => archive.append_data(&mut header, path, io::empty()).expect("memory takes all"),
        }
        archive.into_inner().expect("memory takes all")
    };
    for (archive, said) in [
        (with("sys", Some(&("r/../".repeat(1000) + "r"))), "a link's target"),
        (with(&"a/".repeat(40), None), "a path"),
        (with(&("sys/".to_owned() + &"a".repeat(5000)), None), "a path"),
    ] {
        let (why, _) = refused(archive);
        assert!(why.starts_with(said), "{why}");
    }
    // Folders that are only named in paths count.
    let limits = Limits { entries: 100, ..LIMITS };
    let mut archive = tar::Builder::new(Vec::new());
    for file in 0..10 {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        let path = format!("proc/{file}/{}", "a/".repeat(20));
        archive.append_data(&mut header, path, io::empty()).expect("memory takes all");
    }
    let bytes = archive.into_inner().expect("memory takes all");
    let error = unpack(Cursor::new(bytes), limits).expect_err("200 folders");
    assert!(error.to_string().starts_with("the number of its files"), "{error}");
}

/// The decoder would make room for a dictionary before it reads a byte.
#[test]
fn an_xz_archive_cannot_ask_for_more_memory_than_its_limit() {
    let [.., (_, mut xz), _] = compressed(&zeroes(1, 10, "proc/x"));
    // Stream header, 12 bytes; block header: size, flags, LZMA2, one byte of properties (the xz
    // file format, sections 2.1.1, 3.1 and 5.3.1). 40 is a dictionary of 4 GiB less one.
    let size = (usize::from(xz[12]) + 1) * 4;
    assert_eq!(xz[14..16], [0x21, 1], "LZMA2");
    xz[16] = 40;
    let mut crc = flate2::Crc::new();
    crc.update(&xz[12..12 + size - 4]);
    xz[12 + size - 4..12 + size].copy_from_slice(&crc.sum().to_le_bytes());
    let (why, unpacked) = refused(xz);
    assert!(why.contains("memory"), "{why}");
    assert_eq!(unpacked, 0);
}

#[test]
fn what_is_no_archive_is_refused() {
    for bytes in [&b"#!/bin/sh\nexit 0\n"[..], b"\x1f\x8b\0\0\0\0\0", b"BZh9junk..........."] {
        assert!(unpacked(bytes.to_vec()).is_err());
    }
}
