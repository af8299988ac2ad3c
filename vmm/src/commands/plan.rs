//! `berth plan`: what a machine would get, or why it cannot run.

use std::path::Path;

use berth::config::Config;
use berth::error::Error;
use berth::exit::Outcome;
use berth::host::{HostProfile, Query};
use berth::plan::Plan;

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
    let host = HostProfile::read(&root, &Query::from(&config))?.with_assumptions(&root);
    let mut plan = Plan::new(&config, &host)?;
    let lacks = root.lacks_for_plan();
    if !lacks.is_empty() {
        let lacks = lacks.join(", ");
        plan.notes.push(format!("not in the snapshot, and taken to be as needed: {lacks}"));
    }
    Ok(plan)
}
