//! Many hosts in one table.

use std::fs;
use std::path::Path;

use super::*;
use crate::host::HostError;

fn row(path: &str, facts: &Facts) -> Row {
    Row::new(Path::new(path), facts, Some(&config("1G", 2048)))
}

/// One of each verdict, and a file that is none.
fn fleet() -> Fleet {
    let ready = facts(|_| ());
    let warned = facts(|host| {
        host.file("/sys/kernel/mm/ksm/run", "1");
    });
    let bound = facts(|host| {
        host.bind(NIC.address, "igb");
    });
    let small = facts(|host| {
        for node in [0, 1] {
            let pool = format!(
                "/sys/devices/system/node/node{node}/hugepages/hugepages-1048576kB/free_hugepages"
            );
            host.file(&pool, "0");
        }
    });
    let unseen = facts(|host| {
        host.remove("/proc/interrupts");
    });
    let arm = facts(|host| {
        host.file("/proc/cpuinfo", "CPU implementer\t: 0x41");
    });
    let no_snapshot = HostError::NoSnapshot { path: "fleet/notes.tar".into() };
    Fleet::new(vec![
        row("fleet/rack1-01.tar.zst", &ready),
        row("fleet/rack1-02.tar.zst", &warned),
        row("fleet/rack1-03.tar.zst", &bound),
        row("fleet/rack2-01.tar.zst", &small),
        row("fleet/rack2-02.tar.zst", &unseen),
        row("fleet/edge-arm.tar.zst", &arm),
        Row::unreadable(Path::new("fleet/notes.tar"), &no_snapshot),
    ])
}

#[test]
fn a_fleet_is_a_table() {
    let text = anstream::adapter::strip_str(&fleet().to_string()).to_string();
    golden("check/golden/fleet.txt", &text);
}

#[test]
fn scripts_see_what_people_see() {
    let json = serde_json::to_value(fleet()).expect("plain data");
    assert_eq!(json["verdict"], "not_ready");
    assert_eq!(
        json["hosts"][2],
        json!({
            "host": "rack1-03",
            "path": "fleet/rack1-03.tar.zst",
            "verdict": "not_ready",
            "reason": {
                "code": "DEVICE-NOT-BOUND",
                "device": "0000:41:00.0",
                "seen": "igb has it",
            },
            "warnings": 0,
            "machine": {
                "cpus": [4, 12],
                "memory": [{ "node": 1, "count": 2, "size": "1G" }],
            },
        })
    );
    let reason = |host: usize| json["hosts"][host]["reason"]["code"].clone();
    assert_eq!(reason(4), "INTREMAP-OFF");
    assert_eq!(reason(6), "SNAPSHOT-INVALID");
    assert_eq!(json["hosts"][5]["machine"], Value::Null);
}

#[test]
fn the_worst_host_decides() {
    let ready = || facts(|_| ());
    let unseen = facts(|host| {
        host.remove("/proc/interrupts");
    });
    let bound = facts(|host| {
        host.bind(NIC.address, "igb");
    });
    let of = |hosts: &[&Facts]| {
        let rows = hosts.iter().zip(["a", "b", "c"]).map(|(facts, path)| row(path, facts));
        Fleet::new(rows.collect()).verdict
    };
    assert_eq!(of(&[&ready(), &ready()]), Verdict::Ready);
    assert_eq!(of(&[&unseen, &ready()]), Verdict::NotSeenEnough);
    assert_eq!(of(&[&unseen, &bound, &ready()]), Verdict::NotReady);
}

#[test]
fn hosts_of_one_name_are_called_by_their_paths() {
    let host = facts(|_| ());
    let fleet = Fleet::new(vec![row("a/host.tar.zst", &host), row("b/host.tar.zst", &host)]);
    let names: Vec<&str> = fleet.hosts.iter().map(|row| row.host.as_str()).collect();
    assert_eq!(names, ["a/host.tar.zst", "b/host.tar.zst"]);
}

#[test]
fn names_and_reasons_do_not_act_on_a_terminal() {
    let mut row = row("fleet/\u{1b}]0;owned\u{7}\n\u{202e}x.tar", &facts(|_| ()));
    row.reason = Some(Reason { code: Code::Ksm, device: None, seen: "a\u{1b}[2Jb\nc".to_owned() });
    let text = Fleet::new(vec![row]).to_string();
    let text = anstream::adapter::strip_str(&text).to_string();
    let line = text.lines().nth(1).expect("a row");
    assert!(line.starts_with(r"\x1b]0;owned\x07 \u{202e}x  "), "{text}");
    assert!(line.ends_with(r"KSM  a\x1b[2Jb c"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
}

#[test]
fn a_folder_of_snapshots_is_told_from_a_snapshot() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |path: &str| folder.path().join(path);
    for path in ["one/sys", "two/host/proc", "other/host/proc", "three", "empty", ".hidden/sys"] {
        fs::create_dir_all(at(path)).expect("a folder");
    }
    for path in ["b.tar.zst", "a.tgz", "notes.txt", "three/host.tar.xz", "three/config.json"] {
        fs::write(at(path), "").expect("a file");
    }
    let all = snapshots_in(folder.path()).expect("a folder").expect("snapshots");
    let names: Vec<_> = all.iter().map(|p| p.strip_prefix(folder.path()).expect("below")).collect();
    let expected =
        ["a.tgz", "b.tar.zst", "empty", "one", "other", "three/host.tar.xz", "two"].map(Path::new);
    assert_eq!(names, expected);
    for snapshot in ["one", "two", "a.tgz"] {
        assert_eq!(snapshots_in(&at(snapshot)).expect("a snapshot"), None, "{snapshot}");
    }
    assert!(matches!(snapshots_in(&at("empty")), Err(HostError::NoSnapshot { .. })));
}
