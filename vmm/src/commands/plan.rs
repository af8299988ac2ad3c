//! `berth plan`: what a machine would get, or why it cannot run.

use std::path::Path;

use berth::config::Config;
use berth::error::Error;
use berth::exit::Outcome;
use berth::host::{HostProfile, Query};
use berth::plan::{Note, Plan};

use super::host_at;
use super::print::print;

/// Prints the plan of the machine whose config is at `path`, for this host or for the one of the
/// snapshot at `host`.
pub fn run(path: &Path, host: Option<&Path>, json: bool) -> Result<Outcome, Error> {
    print(&make(path, host)?, json)
}

fn make(path: &Path, host: Option<&Path>) -> Result<Plan, Error> {
    let config = Config::load(path)?;
    let root = host_at(host)?;
    let mut host = HostProfile::read(&root, &Query::from(&config))?.with_assumptions(&root);
    host.look_around(&root);
    let mut plan = Plan::new(&config, &host).map_err(|error| error.explained(&host))?;
    let lacks: Vec<String> = root.lacks_for_plan().into_iter().map(str::to_owned).collect();
    if !lacks.is_empty() {
        plan.notes.push(Note::NotInSnapshot { lacks });
    }
    Ok(plan)
}
