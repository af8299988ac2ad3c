//! `berth run`: a machine from its config to its end.
//!
//! The host is read, devices are chosen and the machine is planned, and only then are its devices
//! bound: none is taken from the host for a machine that the plan refuses. Binding makes nothing
//! visible but VFIO's files, so those alone are read again and held against the plan; when they
//! cannot be opened, the devices go back.

use std::path::Path;

use berth::binding::{self, Lease, RunDevice, Target};
use berth::config::Config;
use berth::error::Error;
use berth::exit::{Exit, Outcome};
use berth::host::{Among, HostProfile, Query, Root, RunningMachine};
use berth::machine::{self, BuildError, ChildEnd, Parent, Process, RunOptions, WaitError};
use berth::placement_lock::PlacementLock;
use berth::plan::{Plan, PlanError};
use berth::sandbox::{Mode, Restrictions, Role};
use berth_devices::pci::HostBdf;

/// Runs the machine of the config file at `path` to its end. The machine has a process of its own,
/// whose exit code this one's is; in that process this returns, too.
pub fn run(path: &Path, options: RunOptions) -> Result<Outcome, Error> {
    if options.seccomp != Mode::Kill {
        log::warn!("--seccomp takes the filters away that keep a hostile guest from the host");
    }
    let placement_lock = PlacementLock::take()?;
    let (plan, lease) = prepare(path, options)?;
    let name = plan.name.clone();
    match machine::split(plan, options, placement_lock) {
        Ok(Process::Machine(machine)) => {
            // It has no way to what gives its devices back.
            drop(lease);
            let exit = machine.run()?;
            if exit != Exit::PowerOff {
                log::warn!("{name}: {}", Outcome::Ended(exit).meaning());
            }
            Ok(Outcome::Ended(exit))
        }
        Ok(Process::Parent(parent)) => {
            let end = wait(*parent, lease.as_ref());
            // The machine has let go of its devices by now.
            if let Some(lease) = lease {
                lease.end();
            }
            let end = end?;
            if let ChildEnd::Signal(signal) = end {
                log::error!("{name}: the machine's process was ended by signal {signal}");
            }
            std::process::exit(end.code().into())
        }
        Err(error) => {
            if let Some(lease) = lease {
                lease.end();
            }
            Err(machine::Error::from(error).into())
        }
    }
}

/// Waits for the machine's process.
fn wait(parent: Parent, lease: Option<&Lease>) -> Result<ChildEnd, Error> {
    let mut kept = Vec::new();
    if let Some(lease) = lease {
        lease.watch(parent.machine());
        kept.extend(lease.fds());
    }
    let failed = |error: BuildError| Error::from(machine::Error::from(error));
    parent.confine(&kept).map_err(|error| failed(error.into()))?;
    parent.wait().map_err(|error| {
        failed(match error {
            WaitError::System(source) => {
                BuildError::System { doing: "wait for the machine's process", source }
            }
            WaitError::Sandbox(error) => error.into(),
        })
    })
}

/// A plan whose devices are bound, for as long as the lease lasts.
fn prepare(path: &Path, options: RunOptions) -> Result<(Plan, Option<Lease>), Error> {
    let config = Config::load(path)?;
    let target = Target::live();
    binding::recover(&target);
    let root = Root::live();
    RunningMachine::wait_for_orphans(Among::Machines);
    let (mut host, mut plan) = match make_plan(&config, &root) {
        // One that has lost its virtual machine is looked for where something is missing, and may
        // have gone since.
        Err(_) => {
            RunningMachine::wait_for_orphans(Among::Processes);
            make_plan(&config, &root)?
        }
        Ok(plan) => plan,
    };
    let functions = plan.pci.functions.iter();
    let devices: Vec<RunDevice> = functions
        .map(|function| RunDevice {
            address: function.host,
            bind: function.take,
            port: function.port,
        })
        .collect();
    let guard = Restrictions::new(options.seccomp, &plan.sandbox).of(Role::Guard);
    let Some(lease) = binding::for_run(&target, &plan.name, &devices, guard)? else {
        return Ok((plan, None));
    };
    let addresses: Vec<HostBdf> = devices.iter().map(|device| device.address).collect();
    let mut see_bound = || -> Result<(), Error> {
        host.read_bound(&root, &addresses)?;
        plan.see_bound(&config, &host).map_err(|error| explained(error, &mut host, &root))
    };
    match see_bound() {
        Ok(()) => Ok((plan, Some(lease))),
        Err(error) => {
            lease.end();
            Err(error)
        }
    }
}

fn make_plan(config: &Config, root: &Root) -> Result<(HostProfile, Plan), Error> {
    let mut host = HostProfile::read(root, &Query::from(config))?;
    match Plan::new(config, &host) {
        Ok(plan) => Ok((host, plan)),
        Err(error) => Err(explained(error, &mut host, root)),
    }
}

/// What only a refusal asks for is read only then.
fn explained(error: PlanError, host: &mut HostProfile, root: &Root) -> Error {
    host.look_around(root);
    error.explained(host).into()
}
