//! The commands of the program, a file each. Each turns its arguments into calls of the library
//! and prints what comes back.

mod check;
mod cli;
mod devices;
mod plan;
mod print;
mod run;
mod snapshot;

use std::io;
use std::path::Path;

use berth::binding::{self, Target};
use berth::error::Error;
use berth::exit::Outcome;
use berth::host::Root;
use berth::machine::RunOptions;
use berth::sriov;
use clap::Parser;

use cli::{Cli, Command};
use print::{Refused, print};

/// What is said unless RUST_LOG asks for more. A library's warning names no device and has no
/// remedy, so that only its errors are told; what matters of the rest is said by whoever calls it.
const LOG_FILTER: &str = "error,berth=warn,berth_devices=warn,berth_arch=warn";

/// Parses the command line, executes it and reports what failed.
pub fn main() -> Outcome {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(LOG_FILTER)).init();
    let json = cli.command.json();
    execute(cli.command).unwrap_or_else(|error| {
        // Without an output nobody is left to tell.
        if json {
            let _ = print(&Refused { error: error.failure() }, true);
        } else {
            let _ = error.report(&mut io::stderr().lock());
        }
        error.outcome()
    })
}

fn execute(command: Command) -> Result<Outcome, Error> {
    match command {
        Command::Run { config, seccomp, sandbox_report } => {
            run::run(&config, RunOptions { seccomp, sandbox_report })
        }
        Command::Plan { config, host, json } => plan::run(&config, host.as_deref(), json),
        Command::Check(args) => check::run(&args),
        Command::Devices { host, json } => devices::run(host.as_deref(), json),
        Command::Snapshot => snapshot::run(),
        Command::Bind { functions, persist, change } => {
            let options = change.options(functions.group, persist);
            print(&binding::bind(&Target::live(), &functions.devices, options)?, change.json)
        }
        Command::Unbind { functions, persist, change } => {
            let options = change.options(functions.group, persist);
            print(&binding::unbind(&Target::live(), &functions.devices, options)?, change.json)
        }
        Command::Restore { change } => {
            let report = binding::restore(&Target::live(), change.options(false, false))?;
            print(&report, change.json)?;
            Ok(report.check().map(|()| Outcome::Done)?)
        }
        Command::Sriov { device, count: None, change, .. } => {
            print(&sriov::show(&Target::live(), device)?, change.json)
        }
        Command::Sriov { device, count: Some(count), vf: ports, bind, change } => {
            let (force, dry_run) = (change.force, change.dry_run);
            let request = sriov::SriovRequest { count, ports, bind, force, dry_run };
            print(&sriov::set(&Target::live(), device, &request)?, change.json)
        }
    }
}

/// This host, or the one of the snapshot at `path`.
fn host_at(path: Option<&Path>) -> Result<Root, Error> {
    Ok(path.map_or_else(|| Ok(Root::live()), Root::open)?)
}

#[cfg(test)]
mod tests {
    use log::{Level, Record};

    use super::*;

    /// vfio-ioctls warns of each conventional device that it has no error interrupt.
    #[test]
    fn warnings_of_libraries_are_silent_and_berths_are_not() {
        let logger = env_logger::Builder::new().parse_filters(LOG_FILTER).build();
        let is_said =
            |target, level| logger.matches(&Record::builder().target(target).level(level).build());
        for (target, warning) in [
            ("vfio_ioctls::vfio_device", false),
            ("vm_superio::serial", false),
            ("berth", true),
            ("berth::machine::watch", true),
            ("berth_devices::vfio::reset", true),
            ("berth_arch::boot", true),
        ] {
            assert_eq!(is_said(target, Level::Warn), warning, "{target}");
            assert!(is_said(target, Level::Error) && !is_said(target, Level::Info), "{target}");
        }
    }
}
