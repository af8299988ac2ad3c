//! What is on the disk is what is known, however the last berth ended.

use super::*;

fn driver(address: &str) -> Setting {
    Setting::Driver(address.parse().expect("an address"))
}

fn entry(from: &str, to: &str, owner: Option<&str>) -> Entry {
    Entry {
        setting: driver("0000:21:00.0"),
        original: Value::Name(from.to_owned()),
        now: Goal::Is(Value::Name(to.to_owned())),
        virtual_of: None,
        owner: owner.map(str::to_owned),
    }
}

#[test]
fn the_first_value_is_what_is_put_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = Journal::open(folder.path()).expect("a new journal");
    journal.intend(vec![entry("igb", "vfio-pci", Some("run"))]).expect("room");
    journal.done(&driver("0000:21:00.0")).expect("room");
    journal.intend(vec![entry("vfio-pci", "pci-stub", None)]).expect("room");
    drop(journal);
    let mut journal = Journal::open(folder.path()).expect("the journal");
    assert_eq!(journal.entries(), [entry("igb", "pci-stub", None)]);
    journal.settle(&driver("0000:21:00.0"), None).expect("room");
    journal.compact().expect("room");
    drop(journal);
    let text = fs::read_to_string(folder.path().join("journal")).expect("the file");
    assert_eq!(text, "{\"berth_journal\":{\"version\":1}}\n");
}

#[test]
fn a_line_cut_short_is_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal");
    fs::write(&path, "{\"berth_journal\":{\"version\":1}}\n{\"intent\":{\"sett").expect("a file");
    let mut journal = Journal::open(folder.path()).expect("the journal");
    journal.intend(vec![entry("igb", "vfio-pci", None)]).expect("room");
    drop(journal);
    let journal = Journal::open(folder.path()).expect("the journal");
    assert_eq!(journal.entries(), [entry("igb", "vfio-pci", None)]);
}

#[test]
fn what_is_no_journal_of_ours_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal");
    for (text, message) in [
        ("{\"berth_journal\":{\"version\":2}}\n", "line 1: version 2, and this berth reads 1"),
        ("{\"berth_journal\":{\"version\":1}}\n{}\n", "line 2: "),
        ("{\"done\":{\"setting\":{\"driver\":\"0000:21:00.0\"}}}\n", "line 1: it has no"),
    ] {
        fs::write(&path, text).expect("a file");
        let error = Journal::open(folder.path()).err().expect(text).to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("the file"), text);
    }
}
