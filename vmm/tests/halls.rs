//! The halls of the library and the order in which they stand: a hall may use those before it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. Why a hall stands where it does is in README.md beside the sources.
const HALLS: [&str; 19] = [
    "units",
    "footprint",
    "child",
    "state",
    "netlink",
    "host",
    "device_list",
    "config",
    "advice",
    "plan",
    "sandbox",
    "binding",
    "sriov",
    "check",
    "exit",
    "placement_lock",
    "machine",
    "error",
    "lib",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The halls that a source names: the word after each `crate::`, or the first word of each part
/// of `crate::{...}`.
fn named(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let word = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut halls = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            None => {
                halls.insert(word(after));
            }
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (at, character) in group.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ if start && character.is_alphabetic() => {
                            halls.insert(word(&group[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    halls
}

fn rank(hall: &str) -> usize {
    let rank = HALLS.iter().position(|known| *known == hall);
    rank.unwrap_or_else(|| panic!("the hall `{hall}` has no place in HALLS"))
}

#[test]
fn halls_use_only_those_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut breaches = Vec::new();
    for file in &files {
        let inside = file.strip_prefix(&root).expect("it is below");
        // The program stands above the whole library, which it knows as `berth`.
        if inside.starts_with("commands") || inside == Path::new("main.rs") {
            continue;
        }
        let first = inside.components().next().expect("a path has parts");
        let hall = Path::new(first.as_os_str()).with_extension("");
        let hall = hall.to_str().expect("an ASCII name");
        let source = fs::read_to_string(file).expect("a source");
        for used in named(&source) {
            if rank(&used) > rank(hall) {
                breaches.push(format!("{} uses {used}", inside.display()));
            }
        }
    }
    assert!(files.len() > 100, "only {} sources were found", files.len());
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn grouped_imports_are_seen() {
    let halls = named("use crate::{host::{Root, Query}, plan, units::PageSize};\n// crate::check");
    let expected = ["host", "plan", "units"].map(str::to_owned);
    assert_eq!(halls, BTreeSet::from(expected));
}
