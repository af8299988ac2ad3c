//! `berth check`: what would keep a machine from running well, and what to do about it.

use std::path::PathBuf;

use berth::advice::{Code, Fix, Kind};
use berth::check::{Report, Verdict};
use berth::config::Config;
use berth::error::Error;
use berth::exit::Outcome;
use berth::host::{Facts, Query};
use berth_devices::pci::Bdf;

use super::host_at;
use super::print::{print, write};

/// What `berth check` is asked.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The config of the machine that is to run
    pub config: Option<PathBuf>,
    /// A device that a machine is to get; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub device: Vec<Bdf>,
    /// Then do what can be done at run time: load modules, reserve huge pages, bind
    #[arg(long, conflicts_with_all = ["host", "dry_run"])]
    pub fix: bool,
    /// Show what --fix would do
    #[arg(long)]
    pub dry_run: bool,
    /// Look at another host: a folder or archive with its sys and proc, as of `berth snapshot`
    #[arg(long, value_name = "PATH")]
    pub host: Option<PathBuf>,
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
    let look = || -> Result<Report, Error> {
        let root = host_at(args.host.as_deref())?;
        let query = config.as_ref().map(Query::from).unwrap_or_default();
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
    Ok(match report.verdict {
        Verdict::Ready => Outcome::Done,
        Verdict::NotReady => Outcome::HostRefused,
        Verdict::NotSeenEnough => Outcome::NotSeenEnough,
    })
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
