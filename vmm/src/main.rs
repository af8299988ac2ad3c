//! berth runs one virtual machine around PCIe devices that it owns.
//!
//! A [`config::Config`] is what the user wishes, a [`host::HostProfile`] what exists. From both
//! comes a [`plan::Plan`], every decision, or the reason there is none. [`machine::Machine`]
//! executes it, and an [`exit::Exit`] says how that ended.

mod binding;
mod check;
mod child;
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
mod netlink;
mod pin;
mod placement_lock;
mod plan;
mod sandbox;
mod sriov;
mod steering;
mod vcpu;

use std::io;
use std::path::Path;

use clap::Parser;

use berth_devices::pci::Bdf;
use binding::{Choice, Lease, Manner, Wanted};
use cli::{Cli, Command, Functions, How};
use config::{BindMode, Config};
use error::Error;
use exit::{Exit, Outcome};
use host::{HostProfile, Root};
use placement_lock::PlacementLock;
use plan::Plan;
use sandbox::Mode;

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
        Command::Run { config, seccomp } => run(&config, seccomp),
        Command::Plan { config, host, json } => {
            inspect::print(&make_plan(&config, host.as_deref())?, json)
        }
        Command::Check(args) => inspect::check(&args),
        Command::Devices { host, json } => inspect::devices(host.as_deref(), json),
        Command::Snapshot => inspect::snapshot(),
        Command::Bind { functions: Functions { devices, group }, persist, how } => {
            inspect::print(&binding::bind(&devices, manner(&how, group, persist))?, how.json)
        }
        Command::Unbind { functions: Functions { devices, group }, persist, how } => {
            inspect::print(&binding::unbind(&devices, manner(&how, group, persist))?, how.json)
        }
        Command::Restore { how } => {
            let report = binding::restore(manner(&how, false, false))?;
            inspect::print(&report, how.json)?;
            Ok(report.check().map(|()| Outcome::Done)?)
        }
        Command::Sriov { device, count: None, how, .. } => {
            inspect::print(&sriov::show(device)?, how.json)
        }
        Command::Sriov { device, count: Some(count), vf: ports, bind, how } => {
            let wish = sriov::Wish { count, ports, bind, force: how.force, dry_run: how.dry_run };
            inspect::print(&sriov::set(device, &wish)?, how.json)
        }
    }
}

fn manner(how: &How, group: bool, persist: bool) -> Manner {
    Manner { choice: Choice { group, force: how.force }, dry_run: how.dry_run, persist }
}

/// Runs the machine of the config file at `path` to its end.
fn run(path: &Path, seccomp: Mode) -> Result<Outcome, Error> {
    let lock = PlacementLock::take();
    let (plan, lease) = prepare(path)?;
    let name = plan.name.clone();
    let result = machine::run(plan, seccomp, lock);
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

/// A plan whose devices are bound, for as long as the lease lasts.
fn prepare(path: &Path) -> Result<(Plan, Option<Lease>), Error> {
    let config = Config::load(path)?;
    binding::recover();
    let root = Root::live();
    let plan = Plan::new(&config, &HostProfile::read(&root, &config)?)?;
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
    let replan =
        || -> Result<Plan, Error> { Ok(Plan::new(&config, &HostProfile::read(&root, &config)?)?) };
    match replan() {
        Ok(plan) => Ok((plan, Some(lease))),
        Err(error) => {
            lease.end();
            Err(error)
        }
    }
}
