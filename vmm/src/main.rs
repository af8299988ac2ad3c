//! berth runs one virtual machine around PCIe devices that it owns.
//!
//! A [`config::Config`] is what the user wishes, a [`host::HostProfile`] what exists. From both
//! comes a [`plan::Plan`], every decision, or the reason there is none. [`machine::Machine`]
//! executes it, and an [`exit::Exit`] says how that ended.

mod affinity;
mod binding;
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
mod sriov;
mod vcpu;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use clap::Parser;
use serde::Serialize;

use berth_devices::pci::Bdf;
use binding::{Choice, Lease, Manner, Wanted};
use cli::{Cli, Command, How};
use config::{BindMode, Config};
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
            let (plan, lease) = prepare(&config)?;
            let name = plan.name.clone();
            let result = machine::run(plan, seccomp);
            // The machine has let go of its devices by now.
            if let Some(lease) = lease {
                lease.end();
            }
            let exit = result?;
            if exit != Exit::PowerOff {
                log::warn!("{name}: {}", Outcome::Ended(exit).meaning());
            }
            Ok(Outcome::Ended(exit))
        }
        Command::Plan { config, json } => print(&make_plan(&config)?, json),
        Command::Bind { devices, group, persist, how } => {
            print(&binding::bind(&devices, manner(&how, group, persist))?, how.json)
        }
        Command::Unbind { devices, group, persist, how } => {
            print(&binding::unbind(&devices, manner(&how, group, persist))?, how.json)
        }
        Command::Restore { how } => {
            let report = binding::restore(manner(&how, false, false))?;
            print(&report, how.json)?;
            Ok(report.check().map(|()| Outcome::Done)?)
        }
        Command::Sriov { device, count: None, how, .. } => print(&sriov::show(device)?, how.json),
        Command::Sriov { device, count: Some(count), vf: ports, bind, how } => {
            let wish = sriov::Wish { count, ports, bind, force: how.force, dry_run: how.dry_run };
            print(&sriov::set(device, &wish)?, how.json)
        }
    }
}

fn manner(how: &How, group: bool, persist: bool) -> Manner {
    Manner { choice: Choice { group, force: how.force }, dry_run: how.dry_run, persist }
}

/// What the machine of the config file at `path` gets on this host.
fn make_plan(path: &Path) -> Result<Plan, Error> {
    let config = Config::load(path)?;
    let host = HostProfile::read(Path::new("/"), &config)?;
    Ok(Plan::new(&config, &host)?)
}

/// A plan whose devices are bound, for as long as the lease lasts.
fn prepare(path: &Path) -> Result<(Plan, Option<Lease>), Error> {
    let config = Config::load(path)?;
    binding::recover();
    let host = HostProfile::read(Path::new("/"), &config)?;
    let plan = Plan::new(&config, &host)?;
    let addresses: Vec<Bdf> = plan.pci.functions.iter().map(|function| function.host).collect();
    let devices = config.devices.iter().zip(&addresses);
    let wanted: Vec<Wanted> = devices
        .map(|(device, &address)| Wanted {
            address,
            bind: device.bind == BindMode::Auto,
            port: device.port(),
        })
        .collect();
    let Some(lease) = binding::for_run(config.name.as_str(), &wanted)? else {
        return Ok((plan, None));
    };
    // Only a bound function shows whether it can be opened.
    let config = config.with_devices(addresses);
    let replan = || -> Result<Plan, Error> {
        let host = HostProfile::read(Path::new("/"), &config)?;
        Ok(Plan::new(&config, &host)?)
    };
    match replan() {
        Ok(plan) => Ok((plan, Some(lease))),
        Err(error) => {
            lease.end();
            Err(error)
        }
    }
}

fn print(report: &(impl Serialize + Display), json: bool) -> Result<Outcome, Error> {
    let text = if json {
        let json = serde_json::to_string_pretty(report);
        json.map_err(|error| Error::Output(error.into()))? + "\n"
    } else {
        report.to_string()
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // A reader such as `head` that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Done),
        result => result.map(|()| Outcome::Done).map_err(Error::Output),
    }
}
