//! `berth run`: a machine from its config to its end.

use std::path::Path;

use berth::binding::{self, Lease, RunDevice};
use berth::config::{BindMode, Config};
use berth::error::Error;
use berth::exit::{Exit, Outcome};
use berth::host::{HostProfile, Query, Root};
use berth::machine;
use berth::placement_lock::PlacementLock;
use berth::plan::Plan;
use berth::sandbox::Mode;
use berth_devices::pci::Bdf;

/// Runs the machine of the config file at `path` to its end.
pub fn run(path: &Path, seccomp: Mode) -> Result<Outcome, Error> {
    let placement_lock = PlacementLock::take();
    let (plan, lease) = prepare(path)?;
    let name = plan.name.clone();
    let result = machine::run(plan, seccomp, placement_lock);
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

/// A plan whose devices are bound, for as long as the lease lasts.
fn prepare(path: &Path) -> Result<(Plan, Option<Lease>), Error> {
    let config = Config::load(path)?;
    binding::recover();
    let root = Root::live();
    let plan = make(&config, &root)?;
    let addresses: Vec<Bdf> = plan.pci.functions.iter().map(|function| function.host).collect();
    let devices = config.devices.iter().zip(&addresses);
    let wanted: Vec<RunDevice> = devices
        .map(|(device, &address)| RunDevice {
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
    match make(&config, &root) {
        Ok(plan) => Ok((plan, Some(lease))),
        Err(error) => {
            lease.end();
            Err(error)
        }
    }
}

/// The plan for this host as it is now. What only a refusal asks for is read only then.
fn make(config: &Config, root: &Root) -> Result<Plan, Error> {
    let mut host = HostProfile::read(root, &Query::from(config))?;
    Plan::new(config, &host).map_err(|error| {
        host.look_around(root);
        error.explained(&host).into()
    })
}
