//! Many hosts in one table: which of them can run a machine, and what it would get there.

use std::fmt::{self, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

use anstyle::Style;
use berth_devices::pci::HostBdf;
use serde::Serialize;

use super::display::style;
use super::{Case, Code, Report, Severity, Verdict};
use crate::config::Config;
use crate::host::{Facts, HostError, IdSet, Root, is_archive_name, without_archive_ending};
use crate::plan::Plan;
use crate::units::{PageSize, visible};

/// What `berth check` found on several hosts.
///
/// Serialized field names are for scripts; they stay.
#[derive(Debug, Serialize)]
pub struct Fleet {
    /// That of the worst host: one that is not ready, then one of which not enough was seen.
    pub verdict: Verdict,
    /// In the order in which they were given.
    pub hosts: Vec<Row>,
}

/// One host.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What its snapshot is called, without what tells the kind of archive.
    pub host: String,
    /// The snapshot; what is no text in its name is replaced.
    pub path: String,
    /// Whether the machine can run there.
    pub verdict: Verdict,
    /// What decided the verdict, where that is not "ready".
    pub reason: Option<Reason>,
    /// How many findings warn.
    pub warnings: usize,
    /// What the machine would get once the host is ready; `None` where it does not fit, and
    /// without a config.
    pub machine: Option<Share>,
}

/// The first finding that keeps a host from being ready.
#[derive(Debug, Serialize)]
pub struct Reason {
    /// The fault, or why the snapshot cannot be read.
    pub code: Code,
    /// The device that it concerns, when it concerns one.
    pub device: Option<HostBdf>,
    /// What was seen.
    pub seen: String,
}

/// What a machine would get of a host.
#[derive(Debug, Serialize)]
pub struct Share {
    /// CPUs of its vCPUs, by vCPU.
    pub cpus: Vec<u32>,
    /// Its memory.
    pub memory: Vec<Pages>,
}

/// Pages of one node.
#[derive(Debug, Serialize)]
pub struct Pages {
    /// The node; `None` where the kernel knows of none.
    pub node: Option<u32>,
    /// How many.
    pub count: u64,
    /// Their size.
    pub size: PageSize,
}

impl From<&Plan> for Share {
    fn from(plan: &Plan) -> Self {
        let size = plan.memory.page_size;
        let pages = plan.memory.pages.iter();
        Self {
            cpus: plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect(),
            memory: pages.map(|p| Pages { node: p.node, count: p.pages, size }).collect(),
        }
    }
}

impl Row {
    /// Judges the host that `facts` tell of, for the machine of `config` if there is one.
    pub fn new(path: &Path, facts: &Facts, config: Option<&Config>) -> Self {
        let case = Case::new(facts, config);
        let report = Report::of(&case);
        let warns = |finding: &&super::Finding| finding.severity == Severity::Warn;
        Self {
            host: without_archive_ending(&name(path)).to_owned(),
            path: path.to_string_lossy().into_owned(),
            verdict: report.verdict,
            warnings: report.findings.iter().filter(warns).count(),
            reason: report.decisive().map(|finding| Reason {
                code: finding.code,
                device: finding.device,
                seen: finding.seen.clone(),
            }),
            machine: case.plan().map(Share::from),
        }
    }

    /// A host that cannot be looked at. The others can.
    pub fn unreadable(path: &Path, error: &HostError) -> Self {
        let mut seen = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            seen += &format!(": {error}");
            cause = error.source();
        }
        Self {
            host: without_archive_ending(&name(path)).to_owned(),
            path: path.to_string_lossy().into_owned(),
            verdict: Verdict::NotReady,
            warnings: 0,
            reason: Some(Reason { code: error.code(), device: None, seen }),
            machine: None,
        }
    }
}

impl Fleet {
    /// The table of these hosts. Where two have one name, all are called by their paths.
    pub fn new(mut hosts: Vec<Row>) -> Self {
        let mut names: Vec<&str> = hosts.iter().map(|row| row.host.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            for row in &mut hosts {
                row.host = row.path.clone();
            }
        }
        let has = |verdict| hosts.iter().any(|row| row.verdict == verdict);
        let worst = [Verdict::NotReady, Verdict::NotSeenEnough].into_iter().find(|one| has(*one));
        Self { verdict: worst.unwrap_or(Verdict::Ready), hosts }
    }
}

/// The last part of a path, or where it ends in none, the path.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The snapshots in `folder`, sorted by name: archives, and folders that hold a host each. `None`
/// for what is a snapshot itself or no folder.
///
/// # Errors
/// The folder cannot be read.
pub fn snapshots_in(folder: &Path) -> Result<Option<Vec<PathBuf>>, HostError> {
    if !folder.is_dir() || Root::open(folder).is_ok() {
        return Ok(None);
    }
    let read = |source| HostError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if !name(&path).starts_with('.') {
            found.extend(snapshots_at(path));
        }
    }
    found.sort_unstable();
    if found.is_empty() {
        return Err(HostError::NoSnapshot { path: folder.to_owned() });
    }
    Ok(Some(found))
}

/// What an entry of a folder of snapshots holds: a host, or archives of it in a folder of its own.
fn snapshots_at(path: PathBuf) -> Vec<PathBuf> {
    if !path.is_dir() {
        return if is_archive_name(&name(&path)) { vec![path] } else { Vec::new() };
    }
    let is_root = Root::open(&path).is_ok();
    let entries = fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path());
    let archives: Vec<PathBuf> =
        entries.filter(|path| is_archive_name(&name(path)) && !path.is_dir()).collect();
    // One that holds neither has a row, which says so.
    if is_root || archives.is_empty() { vec![path] } else { archives }
}

const HEADINGS: [&str; 5] = ["HOST", "VERDICT", "NODE", "CPUS", "PAGES"];

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 5]> = self.hosts.iter().map(Row::cells).collect();
        let mut widths = HEADINGS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let heading = Style::new().bold();
        write!(f, "{heading}")?;
        for (heading, width) in HEADINGS.iter().zip(widths) {
            write!(f, "{heading:width$}  ")?;
        }
        writeln!(f, "REASON{heading:#}")?;
        for (host, cells) in self.hosts.iter().zip(&rows) {
            for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
                let style = if column == 1 { host.verdict.style() } else { Style::new() };
                write!(f, "{style}{cell:width$}{style:#}  ")?;
            }
            writeln!(f, "{}", host.reason())?;
        }
        let count = |verdict| self.hosts.iter().filter(|row| row.verdict == verdict).count();
        writeln!(
            f,
            "\n{} hosts: {} ready, {} not ready, {} not seen enough",
            self.hosts.len(),
            count(Verdict::Ready),
            count(Verdict::NotReady),
            count(Verdict::NotSeenEnough),
        )
    }
}

impl Row {
    fn cells(&self) -> [String; 5] {
        let dash = || "-".to_owned();
        let of = |cell: fn(&Share) -> String| {
            self.machine.as_ref().map(cell).filter(|cell| !cell.is_empty()).unwrap_or_else(dash)
        };
        // A name of a file may hold line ends too.
        let shown = visible(&self.host).replace(['\n', '\t'], " ");
        [
            shown,
            self.verdict.to_string(),
            of(|share| {
                let nodes = share.memory.iter().filter_map(|pages| pages.node);
                nodes.collect::<IdSet>().to_string()
            }),
            of(|share| share.cpus.iter().copied().collect::<IdSet>().to_string()),
            of(|share| {
                let each = share.memory.iter().map(|p| format!("{} x {}", p.count, p.size));
                each.collect::<Vec<_>>().join(", ")
            }),
        ]
    }

    fn reason(&self) -> String {
        let Some(reason) = &self.reason else {
            return match self.warnings {
                0 => "-".to_owned(),
                1 => "1 warning".to_owned(),
                count => format!("{count} warnings"),
            };
        };
        let device = reason.device.map_or_else(String::new, |device| format!("{device}: "));
        let seen = visible(&reason.seen).replace(['\n', '\t'], " ");
        format!("{}  {device}{seen}", reason.code)
    }
}

impl Verdict {
    fn style(self) -> Style {
        style(match self {
            Self::Ready => Severity::Pass,
            Self::NotReady => Severity::Fail,
            Self::NotSeenEnough => Severity::Unknown,
        })
    }
}
