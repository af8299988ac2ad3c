//! One finding: a fault, whether it is there, how that was seen and what to do.

use berth_devices::pci::HostBdf;
use serde::Serialize;

use super::fix::Fix;
use super::{Advice, Code};

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The fault is not there.
    Pass,
    /// Whether it is there could not be seen.
    Unknown,
    /// It is there, and the machine runs, but slower or less safely.
    Warn,
    /// It is there, and the machine does not run.
    Fail,
}

/// Whether a fault is there.
///
/// Serialized field names are for scripts; they stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The fault.
    pub code: Code,
    /// Whether it is there.
    pub severity: Severity,
    /// The device that it concerns, when it concerns one.
    pub device: Option<HostBdf>,
    /// What was seen.
    pub seen: String,
    /// Where: files, or a line of the kernel's log.
    pub source: String,
    /// What to do about it on this host, step by step; commands stand in backticks.
    pub remedy: Vec<String>,
    /// What berth can do about it at run time.
    pub fix: Option<Fix>,
}

impl Finding {
    /// The fault is not there.
    pub fn pass(code: Code, source: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(code, Severity::Pass, source.into(), seen.into())
    }

    /// What would tell cannot be seen.
    pub fn unknown(code: Code, source: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(code, Severity::Unknown, source.into(), seen.into())
    }

    /// The fault is there, and the machine runs.
    pub fn warn(code: Code, source: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(code, Severity::Warn, source.into(), seen.into())
    }

    /// The fault is there, and the machine does not run.
    pub fn fail(code: Code, source: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(code, Severity::Fail, source.into(), seen.into())
    }

    /// The fault is there as `advice` says, and the machine does not run.
    pub fn failed(code: Code, advice: Advice) -> Self {
        Self::fail(code, "", "").advised(advice)
    }

    /// The fault is there as `advice` says, and the machine runs.
    pub fn warned(code: Code, advice: Advice) -> Self {
        Self::warn(code, "", "").advised(advice)
    }

    fn new(code: Code, severity: Severity, source: String, seen: String) -> Self {
        Self { code, severity, device: None, seen, source, remedy: Vec::new(), fix: None }
    }

    /// Of this device.
    pub fn of(self, device: HostBdf) -> Self {
        Self { device: Some(device), ..self }
    }

    /// With one more step of the remedy.
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.remedy.push(step.into());
        self
    }

    /// With more steps of the remedy.
    pub fn steps(mut self, steps: impl IntoIterator<Item = String>) -> Self {
        self.remedy.extend(steps);
        self
    }

    /// With what to do about it.
    pub fn advised(self, advice: Advice) -> Self {
        Self { seen: advice.seen, source: advice.source, ..self }.steps(advice.steps)
    }

    /// With what berth can do about it.
    pub fn fix(self, fix: Fix) -> Self {
        Self { fix: Some(fix), ..self }
    }
}
