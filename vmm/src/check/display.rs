//! Findings as text for people: what is wrong first, what is right in a line.

use std::fmt::{self, Formatter};

use anstyle::{AnsiColor, Style};

use super::{Code, Finding, Report, Severity};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let of = |severity| self.findings.iter().filter(move |found| found.severity == severity);
        for severity in [Severity::Fail, Severity::Warn] {
            for finding in of(severity) {
                fmt_fault(f, finding)?;
            }
        }
        fmt_unknown(f, of(Severity::Unknown))?;
        let mut passed: Vec<&str> = Vec::new();
        for finding in of(Severity::Pass) {
            if !passed.contains(&finding.code.topic()) {
                passed.push(finding.code.topic());
            }
        }
        if !passed.is_empty() {
            let style = style(Severity::Pass);
            writeln!(f, "{style}good{style:#}  {}", wrapped(&passed.join(", "), 6))?;
        }
        if !self.lacks.is_empty() {
            writeln!(f, "\nnot in the snapshot: {}", wrapped(&self.lacks.join(", "), 20))?;
        }
        let count = |severity| of(severity).count();
        writeln!(
            f,
            "\n{}: {} failed, {} warnings, {} not seen, {} passed",
            self.verdict,
            count(Severity::Fail),
            count(Severity::Warn),
            count(Severity::Unknown),
            count(Severity::Pass),
        )
    }
}

fn fmt_fault(f: &mut Formatter<'_>, finding: &Finding) -> fmt::Result {
    let style = style(finding.severity);
    let word = if finding.severity == Severity::Fail { "FAIL" } else { "warn" };
    let device = finding.device.map_or_else(String::new, |device| format!("{device}: "));
    writeln!(f, "{style}{word}  {}{style:#}  {device}{}", finding.code, finding.seen)?;
    let dim = Style::new().dimmed();
    writeln!(f, "      {dim}seen in {}{dim:#}", finding.source)?;
    writeln!(f, "      {}", finding.code.why())?;
    for step in &finding.remedy {
        writeln!(f, "      - {step}")?;
    }
    writeln!(f)
}

/// One line for all that share what stands in the way.
fn fmt_unknown<'a>(
    f: &mut Formatter<'_>,
    findings: impl Iterator<Item = &'a Finding>,
) -> fmt::Result {
    let mut reasons: Vec<(&str, Vec<Code>)> = Vec::new();
    for finding in findings {
        match reasons.iter_mut().find(|(seen, _)| *seen == finding.seen) {
            Some((_, codes)) if codes.contains(&finding.code) => {}
            Some((_, codes)) => codes.push(finding.code),
            None => reasons.push((&finding.seen, vec![finding.code])),
        }
    }
    let style = style(Severity::Unknown);
    for (seen, codes) in &reasons {
        let codes: Vec<&str> = codes.iter().map(|code| code.name()).collect();
        writeln!(f, "{style}????{style:#}  {}: {seen}", codes.join(", "))?;
    }
    if reasons.is_empty() { Ok(()) } else { writeln!(f) }
}

/// `text` in lines of up to 100 columns, all but the first indented.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut width = indent;
    for word in text.split(' ') {
        if width + word.len() > 100 && width > indent {
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', indent));
            width = indent;
        } else if width > indent {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += word.len();
    }
    lines
}

pub(super) fn style(severity: Severity) -> Style {
    let color = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
    match severity {
        Severity::Pass => color(AnsiColor::Green),
        Severity::Unknown => color(AnsiColor::Cyan),
        Severity::Warn => color(AnsiColor::Yellow),
        Severity::Fail => color(AnsiColor::Red).bold(),
    }
}
