//! Hosts that people reported, and what berth has to say of each: tests/hosts has a folder a host,
//! and README.md there says what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

/// What the commands must say of a host.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    check: Option<CheckExpectation>,
    #[serde(default)]
    devices: BTreeMap<String, DeviceExpectation>,
    plan: Option<PlanExpectation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckExpectation {
    exit: Option<i32>,
    #[serde(default)]
    has: Vec<FindingPattern>,
    #[serde(default)]
    never: Vec<FindingPattern>,
}

/// A finding, as far as its fields are given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FindingPattern {
    code: Option<String>,
    severity: Option<String>,
    device: Option<String>,
    #[serde(default)]
    words: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceExpectation {
    state: Option<String>,
    #[serde(default)]
    words: Vec<String>,
    #[serde(default)]
    never: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanExpectation {
    refused: Option<bool>,
    #[serde(default)]
    words: Vec<String>,
    #[serde(default)]
    never: Vec<String>,
}

impl FindingPattern {
    fn matches(&self, finding: &Value) -> bool {
        let is = |field: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| finding[field] == wanted)
        };
        let text = format!(
            "{}\n{}\n{}",
            text(&finding["seen"]),
            text(&finding["source"]),
            text(&finding["remedy"])
        );
        is("code", &self.code)
            && is("severity", &self.severity)
            && is("device", &self.device)
            && self.words.iter().all(|word| text.contains(word.as_str()))
    }
}

/// A text, or the lines of a list.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// A host's folder.
struct Host(PathBuf);

impl Host {
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// `berth COMMAND --host ...`, of the machine in question if there is one.
    fn berth(&self, command: &str, json: bool) -> Output {
        let mut berth = Command::new(env!("CARGO_BIN_EXE_berth"));
        berth.arg(command).arg("--host").arg(self.file("host.tar.zst"));
        if json {
            berth.arg("--json");
        }
        let config = self.file("config.json");
        if command != "devices" && config.exists() {
            berth.arg(config);
        }
        berth.output().expect("berth runs")
    }

    fn json(&self, command: &str) -> (Value, Option<i32>) {
        let output = self.berth(command, true);
        let json = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("berth {command}: {}", said(&output)));
        (json, output.status.code())
    }

    /// What is not as expected.
    fn differences(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file("expect.json")).expect("every host has one");
        let expected: Expectation = serde_json::from_str(&text).expect("an expectation");
        let mut differences = Vec::new();
        if let Some(check) = &expected.check {
            self.check(check, &mut differences);
        }
        if !expected.devices.is_empty() {
            self.devices(&expected.devices, &mut differences);
        }
        if let Some(plan) = &expected.plan {
            self.plan(plan, &mut differences);
        }
        differences
    }

    fn check(&self, expected: &CheckExpectation, differences: &mut Vec<String>) {
        let (report, code) = self.json("check");
        let findings = report["findings"].as_array().expect("a list of findings");
        if expected.exit.is_some_and(|exit| code != Some(exit)) {
            differences.push(format!("check ends with {code:?}"));
        }
        for pattern in &expected.has {
            if !findings.iter().any(|finding| pattern.matches(finding)) {
                let of_code = findings.iter().filter(|finding| {
                    pattern.code.as_deref().is_some_and(|code| finding["code"] == code)
                });
                let said: Vec<String> = of_code.map(Value::to_string).collect();
                differences.push(format!("no finding is {pattern:?}: {}", said.join("\n    ")));
            }
        }
        for pattern in &expected.never {
            if let Some(finding) = findings.iter().find(|finding| pattern.matches(finding)) {
                differences.push(format!("a finding is {pattern:?}: {finding}"));
            }
        }
    }

    fn devices(
        &self,
        expected: &BTreeMap<String, DeviceExpectation>,
        differences: &mut Vec<String>,
    ) {
        let (list, _) = self.json("devices");
        let devices = list["devices"].as_array().expect("a list of devices");
        for (address, expected) in expected {
            let Some(device) = devices.iter().find(|device| device["address"] == **address) else {
                differences.push(format!("{address} is not listed"));
                continue;
            };
            let state = &device["state"];
            if expected.state.as_deref().is_some_and(|expected| state != expected) {
                differences.push(format!("{address} is {state}"));
            }
            let said = text(&device["obstacles"]);
            let of = format!("devices of {address}");
            compare(&of, &said, &expected.words, &expected.never, differences);
        }
    }

    fn plan(&self, expected: &PlanExpectation, differences: &mut Vec<String>) {
        let output = self.berth("plan", false);
        if expected.refused.is_some_and(|refused| refused == output.status.success()) {
            differences.push(format!("plan ends with {}", output.status));
        }
        compare("plan", &said(&output), &expected.words, &expected.never, differences);
    }
}

fn compare(
    who: &str,
    said: &str,
    words: &[String],
    never: &[String],
    differences: &mut Vec<String>,
) {
    for word in words.iter().filter(|word| !said.contains(word.as_str())) {
        differences.push(format!("{who} does not say `{word}`: {said}"));
    }
    for word in never.iter().filter(|word| said.contains(word.as_str())) {
        differences.push(format!("{who} says `{word}`: {said}"));
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn all_hosts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hosts");
    let entries = fs::read_dir(&folder).expect("the folder of hosts");
    let mut hosts: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect();
    hosts.sort_unstable();
    assert!(!hosts.is_empty(), "{} has no host", folder.display());
    hosts
}

/// One `berth check` of all hosts at once, and the time that each takes of it.
#[test]
#[ignore = "a benchmark, for scripts/bench"]
fn bench_check_of_a_fleet() {
    let hosts: Vec<PathBuf> =
        all_hosts().into_iter().map(|host| host.join("host.tar.zst")).collect();
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let mut check = Command::new(env!("CARGO_BIN_EXE_berth"));
            check.arg("check");
            for host in &hosts {
                check.arg("--host").arg(host);
            }
            let start = Instant::now();
            let output = check.output().expect("berth runs");
            let time = start.elapsed().as_secs_f64() * 1000.0;
            assert!(matches!(output.status.code(), Some(0..=3)), "{}", said(&output));
            time
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    let each = times[times.len() / 2] / hosts.len() as f64;
    println!("BENCH {}", json!({ "of": "check", "hosts": hosts.len(), "ms_each": each }));
}

#[test]
fn every_host_gets_its_right_answer() {
    let hosts = all_hosts();
    let mut wrong = Vec::new();
    for host in hosts {
        let name = host.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let differences = Host(host).differences();
        wrong.extend(differences.into_iter().map(|difference| format!("{name}: {difference}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
