//! berth runs one virtual machine around PCIe devices that it owns.
//!
//! A [`config::Config`] is what the user wishes, a [`host::HostProfile`] what exists. From both
//! comes a [`plan::Plan`], every decision, or the reason there is none. [`machine::Machine`]
//! executes it, and an [`exit::Exit`] says how that ended.

mod affinity;
mod check;
mod chipset;
mod cli;
mod config;
mod console;
mod error;
mod exit;
mod host;
mod inspect;
mod kvm;
mod limits;
mod listing;
mod machine;
mod memory;
mod plan;
mod sandbox;
mod vcpu;

use std::io;
use std::path::Path;

use clap::Parser;

use cli::{Cli, Command};
use config::Config;
use error::Error;
use exit::{Exit, Outcome};
use host::HostProfile;
use plan::Plan;

fn main() -> Outcome {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    execute(cli.command).unwrap_or_else(|error| {
        // Without standard error there is nobody left to tell.
        let _ = error.report(&mut io::stderr().lock());
        error.outcome()
    })
}

fn execute(command: Command) -> Result<Outcome, Error> {
    match command {
        Command::Run { config, seccomp } => {
            let plan = make_plan(&config, None)?;
            let name = plan.name.clone();
            let exit = machine::run(plan, seccomp)?;
            if exit != Exit::PowerOff {
                log::warn!("{name}: {}", Outcome::Ended(exit).meaning());
            }
            Ok(Outcome::Ended(exit))
        }
        Command::Plan { config, host, json } => {
            inspect::print(&make_plan(&config, host.as_deref())?, json)
        }
        Command::Check(args) => inspect::check(&args),
        Command::Devices { host, json } => inspect::devices(host.as_deref(), json),
        Command::Snapshot => inspect::snapshot(),
    }
}

/// What the machine of the config file at `path` gets on this host, or on the one that was
/// captured at `host`.
fn make_plan(path: &Path, host: Option<&Path>) -> Result<Plan, Error> {
    let config = Config::load(path)?;
    let root = inspect::open(host)?;
    let host = HostProfile::read(&root, &config)?;
    let mut plan = Plan::new(&config, &host)?;
    let lacks = root.lacks_for_plan();
    if !lacks.is_empty() {
        let lacks = lacks.join(", ");
        plan.notes.push(format!("not in the capture, and taken to be as needed: {lacks}"));
    }
    Ok(plan)
}
