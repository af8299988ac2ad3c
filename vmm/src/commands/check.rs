//! `berth check`: what would keep a machine from running well, and what to do about it.

use std::path::{Path, PathBuf};

use berth::advice::{Code, Fix, Kind};
use berth::check::{Fleet, Report, Row, Verdict, snapshots_in};
use berth::config::Config;
use berth::error::Error;
use berth::exit::Outcome;
use berth::host::{Facts, Query, Root};
use berth_devices::pci::HostBdf;
use clap::CommandFactory;
use clap::error::ErrorKind;

use super::cli::Cli;
use super::host_at;
use super::print::{print, write};

/// What `berth check` is asked.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The config of the machine that is to run
    pub config: Option<PathBuf>,
    /// A device that a machine is to get; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub device: Vec<HostBdf>,
    /// Then do what can be done at run time: load modules, reserve huge pages, bind
    #[arg(long, conflicts_with_all = ["host", "dry_run"])]
    pub fix: bool,
    /// Show what --fix would do
    #[arg(long)]
    pub dry_run: bool,
    /// Look at another host: a folder or archive with its sys and proc, as of `berth snapshot`.
    /// Repeated, or with a folder of such snapshots, it makes a table, a host a row
    #[arg(long, value_name = "PATH")]
    pub host: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// List the codes of findings and refusals, and look at nothing
    #[arg(long, exclusive = true)]
    pub list: bool,
}

/// `berth check`.
pub fn run(args: &CheckArgs) -> Result<Outcome, Error> {
    if args.list {
        return write(&listed());
    }
    let config = args.config.as_deref().map(Config::load).transpose()?;
    let query = config.as_ref().map(Query::from).unwrap_or_default();
    if let Some(hosts) = several(&args.host)? {
        if args.dry_run {
            let words = "--dry-run is about one host: give one --host";
            Cli::command().error(ErrorKind::ArgumentConflict, words).exit();
        }
        // One after the other: a snapshot in memory is many times its size on the disk.
        let judge = |path: &PathBuf| {
            let facts = Root::open(path).and_then(|root| Facts::read(&root, &query, &args.device));
            match facts {
                Ok(facts) => Row::new(path, &facts, config.as_ref()),
                Err(error) => Row::unreadable(path, &error),
            }
        };
        let fleet = Fleet::new(hosts.iter().map(judge).collect());
        print(&fleet, args.json)?;
        return Ok(outcome(fleet.verdict));
    }
    let look = || -> Result<Report, Error> {
        let root = host_at(args.host.first().map(PathBuf::as_path))?;
        let facts = Facts::read(&root, &query, &args.device)?;
        Ok(Report::new(&facts, config.as_ref()))
    };
    let mut report = look()?;
    let fixes = report.fixes();
    if args.fix && !fixes.is_empty() {
        apply(&fixes)?;
        report = look()?;
    }
    print(&report, args.json)?;
    if args.dry_run && !args.json {
        announce(&fixes)?;
    }
    Ok(outcome(report.verdict))
}

fn outcome(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Ready => Outcome::Done,
        Verdict::NotReady => Outcome::HostRefused,
        Verdict::NotSeenEnough => Outcome::NotSeenEnough,
    }
}

/// The snapshots that `paths` name, folders of them opened; `None` where that is one host.
fn several(paths: &[PathBuf]) -> Result<Option<Vec<PathBuf>>, Error> {
    let in_folder = |path: &PathBuf| -> Result<Option<Vec<PathBuf>>, Error> {
        Ok(snapshots_in(Path::new(path))?)
    };
    match paths {
        [] => Ok(None),
        [only] => in_folder(only),
        all => {
            let mut hosts = Vec::new();
            for path in all {
                hosts.extend(in_folder(path)?.unwrap_or_else(|| vec![path.clone()]));
            }
            Ok(Some(hosts))
        }
    }
}

/// All codes, those of findings first.
fn listed() -> String {
    let mut text = String::new();
    for (kind, title) in [
        (Kind::Finding, "findings of `berth check`, and refusals for the same faults"),
        (Kind::Shortfall, "what a plan says could be better besides"),
        (Kind::Refusal, "refusals only"),
    ] {
        text += &format!("# {title}\n");
        for code in Code::ALL.iter().filter(|code| code.kind() == kind) {
            text += &format!("{code:23} {}: {}\n", code.topic(), code.why());
        }
    }
    text
}

/// Shows, then does. What was done stays when a later one fails: each helps by itself.
fn apply(fixes: &[Fix]) -> Result<(), Error> {
    let mut failed = None;
    for fix in fixes {
        eprintln!("berth: {fix}");
        match fix.apply() {
            Ok(undo) => eprintln!("berth:   undone by: {undo}"),
            Err(error) if failed.is_none() => failed = Some(error.into()),
            // The first failure is the one to look at; the findings tell of the others.
            Err(_) => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

fn announce(fixes: &[Fix]) -> Result<Outcome, Error> {
    let mut text = "\n--fix would do this:\n".to_owned();
    if fixes.is_empty() {
        text = "\n--fix would do nothing\n".to_owned();
    }
    for fix in fixes {
        text += &format!("  {fix}\n");
    }
    write(&text)
}
