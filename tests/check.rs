//! `berth check` on hosts with faults: each is found, named with its culprit, and what is said to
//! help does help.

mod boot;
mod cases;
mod elsewhere;
mod fixed;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::{self, GuestConfig, Host};

const LIMIT: Duration = Duration::from_secs(60);
/// The journal of these tests.
const STATE: &str = "/tmp/berth-state";

/// One fault of a host. In its texts `NIC` and `GROUP` stand for the device and its IOMMU group,
/// `CONFIG` for the config file.
struct Case {
    /// What is wrong, for people.
    name: &'static str,
    /// Shell commands that bring the host there, and back.
    host: [&'static str; 2],
    /// The config, from the usual one.
    config: fn(GuestConfig) -> GuestConfig,
    /// The command, which prints JSON.
    run: &'static str,
    /// The finding's code.
    code: &'static str,
    /// `fail` or `warn`.
    severity: &'static str,
    /// The device that it concerns; empty for none.
    device: &'static str,
    /// Parts of what was seen: the culprit above all.
    seen: &'static [&'static str],
    /// A part of where it was seen.
    source: &'static str,
    /// Parts of the remedy.
    remedy: &'static [&'static str],
    /// Whether the remedy's commands, as they are printed, make the fault go away.
    cured: bool,
}

/// A fault of the whole host that the usual config meets.
const FAULT: Case = Case {
    name: "",
    host: ["", ""],
    config: |usual| usual,
    run: "berth check CONFIG --json",
    code: "",
    severity: "warn",
    device: "",
    seen: &[],
    source: "",
    remedy: &[],
    cured: false,
};

impl Case {
    fn check(&self, host: &Host) -> Result<()> {
        let group = format!("basename \"$(readlink {}/iommu_group)\"", host.nic_sysfs());
        let group = host.run(&group).unwrap_or_default();
        let config = format!("{}/vm.json", host.scratch());
        let fill = |text: &str| {
            text.replace("NIC", host.nic()).replace("GROUP", &group).replace("CONFIG", &config)
        };
        let text = (self.config)(GuestConfig::new(host)).to_string();
        let [prepare, restore] = self.host.map(fill);
        let enter = format!(
            "chmod 711 {}; cat >{config}; chmod 644 {config}
             ( set -e; : ; {prepare} ) 2>&1",
            host.scratch()
        );
        let prepared = host.exec_with(&enter, text.as_bytes(), LIMIT)?;
        ensure!(prepared.status == 0, "the host cannot be brought there: {}", prepared.stdout);
        let result = self.judge(host, &fill);
        // What a remedy wrote down is this case's alone.
        let leave =
            format!("( set -e; : ; {restore} ) 2>&1; status=$?; rm -rf {STATE}; exit $status");
        let restored = host.exec_with(&leave, &[], LIMIT)?;
        result.with_context(|| self.name)?;
        ensure!(restored.status == 0, "the host cannot be brought back: {}", restored.stdout);
        Ok(())
    }

    fn judge(&self, host: &Host, fill: &dyn Fn(&str) -> String) -> Result<()> {
        let run = fill(self.run);
        let report = report(host, &run)?;
        let finding = fault(&report, self.code)?
            .with_context(|| format!("no {} in {}", self.code, faults(&report).join("\n")))?;
        let text = |key: &str| finding[key].as_str().unwrap_or_default();
        let told = format!("{finding:#}");
        ensure!(text("severity") == self.severity, "not as severe: {told}");
        ensure!(text("device") == fill(self.device), "another device: {told}");
        for part in self.seen {
            ensure!(text("seen").contains(&fill(part)), "{part} is not named: {told}");
        }
        ensure!(text("source").contains(&fill(self.source)), "seen elsewhere: {told}");
        let remedy: Vec<&str> =
            finding["remedy"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for part in self.remedy {
            let part = fill(part);
            ensure!(remedy.iter().any(|step| step.contains(&part)), "no step {part}: {told}");
        }
        println!("--- {} ({})\n{told}", self.name, self.severity);
        if self.cured {
            for step in &remedy {
                let Some(command) = step.strip_prefix('`').and_then(|s| s.split('`').next()) else {
                    continue;
                };
                let command = command.replace("USER", "user");
                host.run(&format!("export BERTH_STATE_DIR={STATE}; {command}"))
                    .with_context(|| format!("the remedy {command} fails"))?;
            }
            let report = self::report(host, &run)?;
            ensure!(
                fault(&report, self.code)?.is_none(),
                "still there after its remedy: {report:#}"
            );
        }
        Ok(())
    }
}

/// What `berth check ... --json` says; its exit code is that of its verdict.
fn report(host: &Host, command: &str) -> Result<Value> {
    let command = format!("export BERTH_STATE_DIR={STATE}; {command}");
    let output = host.exec_with(&command, &[], LIMIT)?;
    let report: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("no report: {} {}{}", command, output.stdout, output.stderr))?;
    let expected = match report["verdict"].as_str() {
        Some("ready") => 0,
        Some("not_ready") => 3,
        Some("not_seen_enough") => 6,
        other => anyhow::bail!("the verdict is {other:?} in {report:#}"),
    };
    ensure!(output.status == expected, "exit code {} of {report:#}", output.status);
    Ok(report)
}

/// The finding with `code` that warns or fails; there must not be two.
fn fault<'a>(report: &'a Value, code: &str) -> Result<Option<&'a Value>> {
    let all = report["findings"].as_array().context("a list of findings")?;
    let mut bad = all.iter().filter(|f| f["code"] == code).filter(|finding| is_fault(finding));
    let first = bad.next();
    ensure!(bad.next().is_none(), "{code} is there twice: {report:#}");
    Ok(first)
}

fn is_fault(finding: &Value) -> bool {
    matches!(finding["severity"].as_str(), Some("warn" | "fail"))
}

/// What warns or fails, in a line each.
fn faults(report: &Value) -> Vec<String> {
    let all = report["findings"].as_array().into_iter().flatten();
    let bad = all.filter(|finding| is_fault(finding));
    bad.map(|f| format!("{} {} {}: {}", f["severity"], f["code"], f["device"], f["seen"])).collect()
}

/// Checks all of them, so that one run tells of every failure.
fn check_all(host: &Host, cases: &[Case]) -> Result<()> {
    host.berth()?;
    harness::check_all(cases, "faults", |case| case.check(host))
}
