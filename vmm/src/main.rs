//! berth runs one virtual machine around PCIe devices that it owns.
//!
//! A [`config::Config`] is what the user wishes, a [`host::HostProfile`] what exists. From both
//! comes a [`plan::Plan`], every decision, or the reason there is none. [`machine::Machine`]
//! executes it, and an [`exit::Exit`] says how that ended.

mod affinity;
mod chipset;
mod cli;
mod config;
mod console;
mod error;
mod exit;
mod host;
mod kvm;
mod limits;
mod machine;
mod memory;
mod plan;
mod sandbox;
mod vcpu;

use std::io::{self, Write};
use std::path::Path;

use clap::Parser;

use cli::{Cli, Command};
use config::Config;
use error::Error;
use exit::{Exit, Outcome};
use host::{HostProfile, Root};
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
            let plan = make_plan(&config)?;
            let name = plan.name.clone();
            let exit = machine::run(plan, seccomp)?;
            if exit != Exit::PowerOff {
                log::warn!("{name}: {}", Outcome::Ended(exit).meaning());
            }
            Ok(Outcome::Ended(exit))
        }
        Command::Plan { config, json } => print(&make_plan(&config)?, json),
    }
}

/// What the machine of the config file at `path` gets on this host.
fn make_plan(path: &Path) -> Result<Plan, Error> {
    let config = Config::load(path)?;
    let host = HostProfile::read(&Root::live(), &config)?;
    Ok(Plan::new(&config, &host)?)
}

fn print(plan: &Plan, json: bool) -> Result<Outcome, Error> {
    let text = if json {
        let json = serde_json::to_string_pretty(plan);
        json.map_err(|error| Error::Output(error.into()))? + "\n"
    } else {
        plan.to_string()
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // A reader such as `head` that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Done),
        result => result.map(|()| Outcome::Done).map_err(Error::Output),
    }
}
