//! What is wrong with a host and what to do about it there, in the same words for every command.
//!
//! A [`Code`] names a fault. A function of this hall judges one subject and gives an [`Advice`]:
//! what was seen, where, and the steps that cure it on this host. `berth check` prints it as a
//! [`Finding`], a plan as what could be better or as the help of its refusal, `berth bind` as the
//! help of its own.

pub mod binding;
mod code;
pub mod cpu;
pub mod device;
mod finding;
mod fix;
pub mod groups;
pub mod iommu;
pub mod limits;
pub mod memory;
pub mod parameters;
pub mod placement;
mod refusals;
pub mod remapping;
pub mod system;
#[cfg(test)]
mod tests;
pub mod vfio;

pub use code::{Code, Kind};
pub use finding::{Finding, Severity};
pub use fix::Fix;

use berth_devices::pci::{HostBdf, Link};

use crate::host::KernelLog;

/// What to do, step by step; commands stand in backticks.
pub type Steps = Vec<String>;

/// What one subject comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What was seen.
    pub seen: String,
    /// Where: files, or a line of the kernel's log.
    pub source: String,
    /// What to do about it.
    pub steps: Steps,
}

impl Advice {
    fn new(source: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { seen: seen.into(), source: source.into(), steps: Steps::new() }
    }

    fn step(mut self, step: impl Into<String>) -> Self {
        self.steps.push(step.into());
        self
    }

    fn steps(mut self, steps: impl IntoIterator<Item = String>) -> Self {
        self.steps.extend(steps);
        self
    }

    /// With the line of the log that says the same.
    fn said(mut self, line: Option<&str>) -> Self {
        if let Some(line) = line {
            self.source = said_in(&self.source, line);
        }
        self
    }
}

/// A source and the line of the kernel's log that belongs to it.
pub fn said_in(source: &str, line: &str) -> String {
    format!("{source}; kernel log: {line}")
}

/// The first line of the log with one of `words`, which holds none of `but`.
fn line<'a>(log: &'a KernelLog, words: &[&str], but: &[&str]) -> Option<&'a str> {
    let mut lines = log.lines.iter().map(String::as_str);
    let any = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
    lines.find(|line| any(line, words) && !any(line, but))
}

/// The link of the card at `device`, when it moves less than the card could.
pub fn link(device: HostBdf, link: &Link) -> Option<Advice> {
    let source = format!("/sys/bus/pci/devices/{device}/current_link_speed, current_link_width");
    (link.negotiated != link.capable).then(|| {
        let seen = format!("the link is {}, and the device has {}", link.negotiated, link.capable);
        // The current speed is what power management leaves of it.
        Advice::new(source, seen)
            .step("look at it again under load: idle devices slow their links down")
            .step("then move the card to a slot with more lanes, or seat it again")
    })
}
