//! `berth devices`: the functions that a guest could get, and whether they may be taken.

use std::path::Path;

use berth::device_list::{DeviceList, Names};
use berth::error::Error;
use berth::exit::Outcome;
use berth::host::Functions;

use super::host_at;
use super::print::print;

/// Lists this host's functions, or those of the snapshot at `host`.
pub fn run(host: Option<&Path>, json: bool) -> Result<Outcome, Error> {
    let root = host_at(host)?;
    let inventory = Functions::read_all(&root)?;
    let list = DeviceList::new(&inventory, &Names::of_this_system(), root.lacks());
    print(&list.on(root.foreign()), json)
}
