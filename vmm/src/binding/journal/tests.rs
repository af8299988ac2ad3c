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
    let boot = this_boot();
    assert_eq!(text, format!("{{\"berth_journal\":{{\"version\":1,\"boot\":\"{boot}\"}}}}\n"));
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
        ("", "line 1: it is cut off in its first line"),
        ("{\"berth_journ", "line 1: it is cut off in its first line"),
        ("{\"berth_journal\":{\"version\":1}}\n\0\0\n", "line 2: "),
        ("{\"done\":{\"setting\":{\"driver\":\"0000:21:00.0\"}}}\n", "line 1: it has no"),
    ] {
        fs::write(&path, text).expect("a file");
        let error = Journal::open(folder.path()).err().expect(text).to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("the file"), text);
    }
}

#[test]
fn what_a_boot_has_made_anew_is_forgotten_but_for_what_lasts() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || Journal::open(folder.path()).expect("the journal");
    let other = Entry { setting: driver("0000:41:00.0"), ..entry("igb", "vfio-pci", None) };
    let mut journal = open();
    journal.intend(vec![entry("igb", "vfio-pci", None), other.clone()]).expect("room");
    assert_eq!(journal.forget_earlier_boots(|_| false), []);
    drop(journal);

    let mut journal = open();
    let lasts = |entry: &Entry| entry.setting == other.setting;
    let forgotten = journal.forget_boots_before("the next".to_owned(), lasts);
    assert_eq!(forgotten, [entry("igb", "vfio-pci", None)]);
    drop(journal);
    assert_eq!(open().entries().len(), 2, "a look forgets nothing");

    let mut journal = open();
    journal.forget_boots_before("the next".to_owned(), lasts);
    journal.compact().expect("room");
    assert_eq!(open_next(folder.path()), [other]);
}

/// A kernel that does not tell its boot's name is taken for the one that it was.
#[test]
fn nothing_is_forgotten_where_a_boot_has_no_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal");
    fs::write(&path, "{\"berth_journal\":{\"version\":1}}\n").expect("a file");
    let mut journal = Journal::open(folder.path()).expect("the journal");
    journal.intend(vec![entry("igb", "vfio-pci", None)]).expect("room");
    assert_eq!(journal.forget_boots_before("the next".to_owned(), |_| false), []);
    assert_eq!(journal.forget_boots_before(String::new(), |_| false), []);
    assert_eq!(journal.entries().len(), 1);
}

/// What is in the journal of a host that calls its boot "the next".
fn open_next(folder: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(folder.join("journal")).expect("the file");
    let (entries, boot) = replay(folder, &text).expect("a journal");
    assert_eq!(boot, "the next");
    entries
}

/// The kernel's lock: whoever comes second waits, and then sees what the first has noted.
#[test]
fn two_berths_take_turns() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Journal::open(folder.path()).expect("a new journal");
    let path = folder.path().to_owned();
    let second = std::thread::spawn(move || {
        let journal = Journal::open(&path).expect("the journal");
        journal.entries().len()
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!second.is_finished(), "it waits");
    first.intend(vec![entry("igb", "vfio-pci", None)]).expect("room");
    drop(first);
    assert_eq!(second.join().expect("it opens the journal"), 1);
}

/// Such a name would be written to, or removed, elsewhere.
#[test]
fn a_name_in_the_journal_that_is_a_path_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, owner) in [
        ("../../../../../tmp/evil", "run"),
        ("..", "run"),
        ("", "run"),
        ("igb", "../journal"),
        ("igb", "/etc/passwd"),
    ] {
        for (before, after) in [(name, "vfio-pci"), ("vfio-pci", name)] {
            let lines = [
                Record::BerthJournal { version: VERSION, boot: String::new() },
                Record::Intent {
                    setting: driver("0000:21:00.0"),
                    before: Value::Name(before.to_owned()),
                    after: Goal::Is(Value::Name(after.to_owned())),
                    virtual_of: None,
                    owner: Some(owner.to_owned()),
                },
            ];
            let text: String = lines.iter().map(line).collect();
            fs::write(folder.path().join("journal"), text).expect("a file");
            let Err(error) = Journal::open(folder.path()) else { panic!("{name}, {owner}") };
            assert!(error.to_string().contains("line 2"), "{error}");
        }
    }
}

#[test]
fn the_journal_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal");
    let mode = || fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    drop(Journal::open(folder.path()).expect("a new journal"));
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
    let mut journal = Journal::open(folder.path()).expect("the journal");
    journal.intend(vec![entry("igb", "vfio-pci", None)]).expect("room");
    assert_eq!(mode(), 0o600);
}
