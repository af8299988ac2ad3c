//! Any snapshot of a host is judged or refused: read, listed, checked and planned for.
//!
//! The first byte says what an input is: an archive as it stands, or changes to a sound snapshot,
//! each the number of a file, the length of its new content, and that content.

#![no_main]

use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use berth::check::Report;
use berth::config::Config;
use berth::device_list::{DeviceList, Names};
use berth::host::{Facts, Query, Root};
use berth::plan::Plan;
use libfuzzer_sys::fuzz_target;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/hosts/epyc-nps1-ccx");

/// What stands in an archive.
#[derive(Clone)]
enum Item {
    Folder,
    File(Vec<u8>),
    Link(PathBuf),
}

static SOUND: LazyLock<Vec<(PathBuf, Item)>> = LazyLock::new(|| {
    let packed = std::fs::read(format!("{FOLDER}/host.tar.zst")).expect("the snapshot is there");
    let mut bytes = Vec::new();
    let mut unpacked = ruzstd::decoding::StreamingDecoder::new(Cursor::new(packed)).expect("zstd");
    unpacked.read_to_end(&mut bytes).expect("zstd");
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let entries = archive.entries().expect("a tar archive");
    entries
        .map(|entry| {
            let mut entry = entry.expect("a tar archive");
            let path = entry.path().expect("a path").into_owned();
            let item = if let Some(target) = entry.link_name().expect("a path") {
                Item::Link(target.into_owned())
            } else if entry.header().entry_type().is_dir() {
                Item::Folder
            } else {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("a tar archive");
                Item::File(content)
            };
            (path, item)
        })
        .collect()
});

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    Config::load(Path::new(&format!("{FOLDER}/config.json"))).expect("a good config")
});

fn changed(mut changes: &[u8]) -> Vec<u8> {
    let mut items = SOUND.clone();
    while let [low, high, length, rest @ ..] = changes {
        let (content, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let index = usize::from(u16::from_le_bytes([*low, *high])) % items.len();
        items[index].1 = match items[index].1 {
            Item::Link(_) => Item::Link(String::from_utf8_lossy(content).into_owned().into()),
            Item::Folder | Item::File(_) => Item::File(content.to_vec()),
        };
        changes = rest;
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (path, item) in items {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        // A path or a target that tar cannot hold is left out.
        let _ = match item {
            Item::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                archive.append_data(&mut header, path, std::io::empty())
            }
            Item::File(content) => {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, path, content.as_slice())
            }
            Item::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, path, target)
            }
        };
    }
    archive.into_inner().expect("memory takes all")
}

fuzz_target!(|bytes: &[u8]| {
    let archive = match bytes {
        [0, archive @ ..] => archive.to_vec(),
        [_, changes @ ..] => changed(changes),
        [] => return,
    };
    let mut file = tempfile::NamedTempFile::new_in("/dev/shm").expect("memory takes all");
    file.write_all(&archive).expect("memory takes all");
    let Ok(root) = Root::open(file.path()) else { return };
    let Ok(facts) = Facts::read(&root, &Query::from(&*CONFIG), &[]) else { return };
    let list = DeviceList::new(&facts.host.functions, &Names::default(), root.lacks()).to_string();
    let report = Report::new(&facts, Some(&CONFIG)).to_string();
    let plan = match Plan::new(&CONFIG, &facts.host) {
        Ok(plan) => plan.to_string(),
        Err(error) => error.to_string(),
    };
    assert!(!list.is_empty() && !report.is_empty() && !plan.is_empty());
});
