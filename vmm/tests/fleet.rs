//! `berth check` on several hosts at once, as it is called.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn host(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hosts").join(name)
}

fn check(arguments: &[&str], hosts: &[&Path]) -> Output {
    let mut berth = Command::new(env!("CARGO_BIN_EXE_berth"));
    berth.arg("check").args(arguments);
    for host in hosts {
        berth.arg("--host").arg(host);
    }
    berth.output().expect("berth runs")
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {output:?}"))
}

/// A folder of snapshots under these names.
fn folder(hosts: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, of) in hosts {
        let to = folder.path().join(format!("{name}.tar.zst"));
        fs::copy(host(of).join("host.tar.zst"), to).expect("a copy");
    }
    folder
}

#[test]
fn several_hosts_are_a_table_and_the_worst_is_the_exit_code() {
    let config = host("epyc-nps1-ccx").join("config.json");
    let config = config.to_str().expect("a path");
    let folder = folder(&[("good", "epyc-nps1-ccx"), ("arm", "capture-arm64")]);
    fs::write(folder.path().join("broken.tar"), "no archive").expect("a file");
    let all = check(&[config], &[folder.path()]);
    let text = String::from_utf8_lossy(&all.stdout).into_owned();
    let first_words: Vec<&str> =
        text.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    assert_eq!(first_words, ["HOST", "arm", "broken", "good", "", "3"], "{text}");
    assert!(text.contains("HOST-FOREIGN") && text.contains("SNAPSHOT-INVALID"), "{text}");
    assert_eq!(all.status.code(), Some(3), "{text}");

    // Each host has the exit code in the table that it has by itself.
    let good = folder.path().join("good.tar.zst");
    let alone = check(&[config, "--json"], &[&good]);
    let twice = check(&[config, "--json"], &[&good, &good]);
    assert!(json(&alone)["findings"].is_array(), "one host is no table");
    assert_eq!(json(&twice)["verdict"], json(&alone)["verdict"]);
    assert_eq!(twice.status.code(), alone.status.code());
    let hosts = json(&twice)["hosts"].as_array().expect("a list").clone();
    assert_eq!(hosts.len(), 2);
    assert_eq!(hosts[0]["machine"]["cpus"].as_array().map(Vec::len), Some(8), "{hosts:?}");
}

#[test]
fn what_is_about_one_host_is_refused_for_several() {
    let folder = folder(&[("a", "epyc-nps1-ccx"), ("b", "epyc-nps1-ccx")]);
    let refused = check(&["--dry-run"], &[folder.path()]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--dry-run"), "{refused:?}");
    let refused = check(&["--fix"], &[folder.path()]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

#[test]
fn a_name_does_not_act_on_a_terminal() {
    let folder =
        folder(&[("a", "epyc-nps1-ccx"), ("b\u{1b}]0;owned\u{7}\u{9b}2J", "epyc-nps1-ccx")]);
    // Nor is it text, always.
    let no_text = OsStr::from_bytes(b"c\xff.tar.zst");
    fs::copy(host("epyc-nps1-ccx").join("host.tar.zst"), folder.path().join(no_text))
        .expect("a copy");
    for arguments in [&[][..], &["--json"][..]] {
        let output = check(arguments, &[folder.path()]);
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("owned") && text.contains("c\u{fffd}"), "{text}");
    }
}
