//! The commands that look at a host: `devices`, `check`, `snapshot`; how commands print.

use std::io::{self, Write};
use std::path::Path;

use berth_devices::pci::Bdf;
use serde::Serialize;

use crate::check::{Code, Fix, Report};
use crate::config::Config;
use crate::error::Error;
use crate::exit::Outcome;
use crate::host::{Facts, Inventory, Root, Snapshot};
use crate::listing::{Listing, Names};

/// What `berth check` is asked.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The config of the machine that is to run
    pub config: Option<std::path::PathBuf>,
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
    pub host: Option<std::path::PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// List the codes that findings have, and look at nothing
    #[arg(long, exclusive = true)]
    pub list: bool,
}

/// This host, or the one that was captured at `path`.
pub fn open(path: Option<&Path>) -> Result<Root, Error> {
    Ok(path.map_or_else(|| Ok(Root::live()), Root::open)?)
}

/// `berth devices`.
pub fn devices(host: Option<&Path>, json: bool) -> Result<Outcome, Error> {
    let root = open(host)?;
    let inventory = Inventory::read(&root)?;
    let listing = Listing::new(&inventory, &Names::of_this_system(), root.lacks());
    print(&listing, json)?;
    Ok(Outcome::Done)
}

/// `berth snapshot`.
pub fn snapshot() -> Result<Outcome, Error> {
    let mut out = io::stdout().lock();
    if io::IsTerminal::is_terminal(&out) {
        return Err(Error::SnapshotToTerminal);
    }
    let snapshot = Snapshot::take(Root::live())?;
    snapshot.write(&mut out).and_then(|()| out.flush()).map_err(Error::Output)?;
    Ok(Outcome::Done)
}

/// `berth check`.
pub fn check(args: &CheckArgs) -> Result<Outcome, Error> {
    if args.list {
        let lines =
            Code::ALL.iter().map(|code| format!("{code:20} {}: {}\n", code.topic(), code.why()));
        return write(&lines.collect::<String>());
    }
    let config = args.config.as_deref().map(Config::load).transpose()?;
    let look = || -> Result<Report, Error> {
        let root = open(args.host.as_deref())?;
        let facts = Facts::read(&root, config.as_ref(), &args.device)?;
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
    Ok(if report.ready { Outcome::Done } else { Outcome::HostRefused })
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

/// As JSON or as text for people.
pub fn print<T: Serialize + ToString>(value: &T, json: bool) -> Result<Outcome, Error> {
    if json {
        let json = serde_json::to_string_pretty(value);
        return write(&(json.map_err(|error| Error::Output(error.into()))? + "\n"));
    }
    write(&value.to_string())
}

/// To standard output, in colour on a terminal.
fn write(text: &str) -> Result<Outcome, Error> {
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        // A reader such as `head` that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Done),
        result => result.map(|()| Outcome::Done).map_err(Error::Output),
    }
}
