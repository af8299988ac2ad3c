//! What cannot work is refused: one screen that names the object, the cause and the remedy, a
//! documented exit code, and a host that is as it was.

mod backends;
mod configs;
mod hosts;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::{self, GuestConfig, Host, Output};
use crate::postconditions::FINGERPRINT;

/// Lines of a small terminal.
const SCREEN: usize = 24;
const LIMIT: Duration = Duration::from_secs(60);

/// One mistake. In its texts `NIC` and `GROUP` stand for the device and its IOMMU group, `CONFIG`
/// for the config file.
struct Case {
    /// What is wrong, for people.
    name: &'static str,
    /// The text of the config file.
    config: fn(GuestConfig) -> String,
    /// Shell commands that put the host into a state, and back.
    host: [&'static str; 2],
    /// The command.
    run: &'static str,
    /// Exit code.
    code: i32,
    /// Parts of the message: object, cause, remedy.
    says: &'static [&'static str],
}

/// A mistake in the config alone.
const fn config(
    name: &'static str,
    config: fn(GuestConfig) -> String,
    code: i32,
    says: &'static [&'static str],
) -> Case {
    Case { name, config, host: ["", ""], run: "berth run CONFIG", code, says }
}

/// A good config on a host that cannot serve it.
const fn host(
    name: &'static str,
    host: [&'static str; 2],
    run: &'static str,
    says: &'static [&'static str],
) -> Case {
    Case { name, config: |good| good.to_string(), host, run, code: 3, says }
}

impl Case {
    /// Runs berth into it, and looks at the host before and after.
    fn check(&self, host: &Host) -> Result<()> {
        let group = format!("basename \"$(readlink {}/iommu_group)\"", host.nic_sysfs());
        let group = host.run(&group).unwrap_or_default();
        let config = format!("{}/vm.json", host.scratch());
        let fill = |text: &str| {
            text.replace("NIC", host.nic()).replace("GROUP", &group).replace("CONFIG", &config)
        };
        host.berth()?;
        let [prepare, restore] = self.host.map(fill);
        let run = fill(self.run);
        let script = format!(
            "{FINGERPRINT}
             mkdir -p /run/refusal; chmod 711 {}; cat >{config}; chmod 644 {config}
             ( set -e; : ; {prepare}
             ) >/run/refusal/prepare 2>&1 || {{ cat /run/refusal/prepare; exit 99; }}
             fingerprint >/run/refusal/before 2>/dev/null
             ( {run} ) >/run/refusal/stdout 2>/run/refusal/stderr </dev/null
             status=$?
             fingerprint >/run/refusal/after 2>/dev/null
             ( set -e; : ; {restore}
             ) >/run/refusal/restore 2>&1 || {{ cat /run/refusal/restore; exit 98; }}
             diff /run/refusal/before /run/refusal/after
             cat /run/refusal/stdout /run/refusal/stderr >&2
             exit $status",
            host.scratch()
        );
        let text = fill(&(self.config)(GuestConfig::new(host)));
        let output = host.exec_with(&script, text.as_bytes(), LIMIT)?;
        self.judge(&output, &fill).with_context(|| {
            format!("{}\nexit code {}\n{}", self.name, output.status, output.stderr)
        })?;
        println!("--- {} ({})\n{}", self.name, output.status, output.stderr);
        Ok(())
    }

    fn judge(&self, output: &Output, fill: &dyn Fn(&str) -> String) -> Result<()> {
        let Output { status, stdout: changes, stderr: message } = output;
        ensure!(!matches!(status, 98 | 99), "the host cannot be brought there: {changes}");
        ensure!(*status == self.code, "the exit code should be {}", self.code);
        ensure!(changes.is_empty(), "the host was changed:\n{changes}");
        let code = message.strip_prefix("error[").and_then(|rest| rest.split_once("]: "));
        let is_code = |code: &str| {
            code.chars().all(|c| c.is_ascii_uppercase() || c == '-' || c.is_ascii_digit())
        };
        ensure!(
            code.is_some_and(|(code, _)| is_code(code)),
            "the message does not start with a code"
        );
        ensure!(message.lines().count() <= SCREEN, "the message is longer than a screen");
        for part in self.says {
            let part = fill(part);
            ensure!(message.contains(&part), "the message does not say: {part}");
        }
        Ok(())
    }
}

/// Checks all of them, so that one run tells of every failure.
fn check_all(host: &Host, cases: &[Case]) -> Result<()> {
    harness::check_all(cases, "refusals", |case| case.check(host))
}
