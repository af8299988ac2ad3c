//! `berth devices`: every function that a guest could get, and whether it may be taken.

mod display;
mod names;

use berth_devices::pci::{self, HostBdf};
use berth_devices::vfio::ResetMethod;
use serde::Serialize;

pub use names::Names;

use crate::host::{Availability, Functions, HostFunction, HostUse, Sriov};

/// Every function that a guest could get: all but the host's own fabric.
///
/// Serialized field names are for scripts; they stay.
#[derive(Debug, Serialize)]
pub struct DeviceList {
    /// In the order of their addresses.
    pub devices: Vec<Device>,
    /// What kind of machine the host is, where that is known to be none that berth runs on. Nothing
    /// is ready there.
    pub foreign: Option<String>,
    /// What a snapshot lacks of what berth reads.
    pub lacks: Vec<&'static str>,
}

/// One function.
#[derive(Debug, Serialize)]
pub struct Device {
    /// Its address.
    pub address: HostBdf,
    /// Vendor ID, four hexadecimal digits.
    pub vendor: String,
    /// The vendor's name, where pci.ids has it.
    pub vendor_name: Option<String>,
    /// Device ID, four hexadecimal digits.
    pub device: String,
    /// The device's name.
    pub device_name: Option<String>,
    /// Class code, six hexadecimal digits.
    pub class: String,
    /// The class's name.
    pub class_name: Option<String>,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// Others of its group that are not bridges.
    pub shares_group_with: Vec<HostBdf>,
    /// Its NUMA node.
    pub numa_node: Option<u32>,
    /// Its virtual functions.
    pub sriov: Option<VfCount>,
    /// The function that it is a virtual function of.
    pub physical_function: Option<HostBdf>,
    /// Ways to reset it, best first, for a guest that has its whole group.
    pub reset_methods: Vec<ResetMethod>,
    /// Its link.
    pub link: Option<Link>,
    /// What the host does with it.
    pub uses: Vec<HostUse>,
    /// Whether a guest may have it.
    pub state: State,
    /// What stands against that, in words.
    pub obstacles: Vec<String>,
}

/// How many virtual functions a function with SR-IOV has.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct VfCount {
    /// Virtual functions that are there.
    pub now: usize,
    /// Virtual functions that there can be.
    pub max: u32,
}

impl From<&Sriov> for VfCount {
    fn from(sriov: &Sriov) -> Self {
        Self { now: sriov.functions.len(), max: sriov.max }
    }
}

/// A PCI Express link, as it is and as the function could have it.
#[derive(Debug, Serialize)]
pub struct Link {
    /// Such as `8.0 GT/s`.
    pub speed: String,
    /// Lanes.
    pub width: u8,
    /// Such as `16.0 GT/s`.
    pub max_speed: String,
    /// Lanes.
    pub max_width: u8,
}

impl From<&pci::Link> for Link {
    fn from(link: &pci::Link) -> Self {
        Self {
            speed: link.negotiated.speed.to_string(),
            width: link.negotiated.lanes,
            max_speed: link.capable.speed.to_string(),
            max_width: link.capable.lanes,
        }
    }
}

impl Link {
    /// Whether it is as fast and as wide as the function could have it.
    fn is_full(&self) -> bool {
        (&self.speed, self.width) == (&self.max_speed, self.max_width)
    }
}

/// Whether a guest may have a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is bound to a VFIO driver, and nobody has it.
    Ready,
    /// The host does not use it: it may be bound.
    Free,
    /// The host or another process uses it.
    InUse,
    /// The host uses another function of its group.
    GroupInUse,
    /// It has virtual functions, which would go with its driver.
    HasVfs,
    /// No IOMMU is in front of it.
    NoIommu,
    /// What would tell could not be seen.
    Unknown,
}

impl DeviceList {
    /// What `functions` hold for guests.
    pub fn new(functions: &Functions, names: &Names, lacks: Vec<&'static str>) -> Self {
        let all = functions.read.iter();
        let endpoints = all.filter(|(_, listed)| !listed.function.is_bridge());
        let devices = endpoints.map(|(address, listed)| device(*address, listed, functions, names));
        Self { devices: devices.collect(), foreign: None, lacks }
    }

    /// The same, of a host that berth does not run on where `foreign` says what it is.
    #[must_use]
    pub fn on(mut self, foreign: Option<String>) -> Self {
        let takeable = |device: &&mut Device| matches!(device.state, State::Ready | State::Free);
        if foreign.is_some() {
            for device in self.devices.iter_mut().filter(takeable) {
                device.state = State::Unknown;
            }
        }
        Self { foreign, ..self }
    }
}

fn device(address: HostBdf, listed: &HostFunction, functions: &Functions, names: &Names) -> Device {
    let function = &listed.function;
    let verdict = functions.availability(address);
    let (state, obstacles) = judge(&verdict);
    let uses = if let Availability::InUse(uses) = verdict { uses } else { listed.uses.clone() };
    let owned = |name: Option<&str>| name.map(str::to_owned);
    Device {
        address,
        vendor: format!("{:04x}", function.vendor),
        vendor_name: owned(names.vendor(function.vendor)),
        device: format!("{:04x}", function.device),
        device_name: owned(names.device(function.vendor, function.device)),
        class: format!("{:06x}", function.class),
        class_name: owned(names.class(function.class)),
        driver: function.driver.clone(),
        iommu_group: function.group,
        shares_group_with: functions.neighbours(address).map(|(other, _)| other).collect(),
        numa_node: function.node,
        sriov: listed.sriov.as_ref().map(VfCount::from),
        physical_function: listed.virtual_of.map(|(physical, _)| physical),
        reset_methods: functions.resets_with_group(address).ways,
        link: function.link.as_ref().map(Link::from),
        uses,
        state,
        obstacles,
    }
}

/// The verdict as a word, and what stands against a guest, a line for each obstacle.
fn judge(verdict: &Availability) -> (State, Vec<String>) {
    match verdict {
        Availability::InUse(uses) => (State::InUse, uses.iter().map(HostUse::to_string).collect()),
        Availability::GroupInUse(others) => {
            let others = others.iter();
            let say = |(other, usage): &(HostBdf, HostUse)| {
                format!("shares its group with {other}, which {usage}")
            };
            (State::GroupInUse, others.map(say).collect())
        }
        Availability::HasVirtualFunctions(_) => (State::HasVfs, vec![verdict.to_string()]),
        Availability::NoIommu => (State::NoIommu, vec![verdict.to_string()]),
        Availability::Absent | Availability::Bridge | Availability::Unknown(_) => {
            (State::Unknown, vec![verdict.to_string()])
        }
        Availability::Ready => (State::Ready, Vec::new()),
        Availability::Free => (State::Free, Vec::new()),
    }
}

#[cfg(test)]
mod tests;
