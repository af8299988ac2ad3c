//! Every PCI function of the host, with what decides whether a guest may have it.

use std::collections::BTreeMap;

use berth_devices::pci::Bdf;
use serde::Serialize;

use super::acs::{self, Acs};
use super::iommu::IommuGroup;
use super::pci::{DEVICES, addresses};
use super::root::Root;
use super::usage::Usage;
use super::{HostError, HostUse, PciFunction};

/// Every PCI function of the host.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inventory {
    /// By address.
    pub functions: BTreeMap<Bdf, Listed>,
    /// All IOMMU groups.
    pub groups: BTreeMap<u32, IommuGroup>,
}

/// One function, beyond what a plan needs of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// What a plan needs.
    #[serde(flatten)]
    pub function: PciFunction,
    /// Bridges between the root and it, the root port first.
    pub path: Vec<Bdf>,
    /// Single-root I/O virtualization, of a function that has it.
    pub sriov: Option<VfCount>,
    /// The function that it is a virtual function of.
    pub physical_function: Option<Bdf>,
    /// Its PCI Express link.
    pub link: Option<Link>,
    /// What the host does with it.
    pub uses: Vec<HostUse>,
    /// Access control services, of a bridge.
    pub acs: Acs,
    /// What drivers recognize it by.
    #[serde(skip)]
    pub modalias: String,
    /// The host's interrupts that it raises, by number.
    pub interrupts: Vec<u32>,
}

/// How many virtual functions a function with SR-IOV has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VfCount {
    /// Virtual functions that are there.
    pub now: u16,
    /// Virtual functions that there can be.
    pub max: u16,
}

/// A PCI Express link, as it is and as the function could have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

impl Link {
    /// Whether it is slower or narrower than the function could have it.
    pub fn is_reduced(&self) -> bool {
        let rate = |speed: &str| speed.split(' ').next().and_then(|gts| gts.parse::<f32>().ok());
        rate(&self.speed) < rate(&self.max_speed) || self.width < self.max_width
    }
}

impl Inventory {
    /// Reads every function under `root`.
    ///
    /// # Errors
    /// A file of sysfs holds something else than the kernel writes.
    pub fn read(root: &Root) -> Result<Self, HostError> {
        let usage = Usage::read(root);
        let mut inventory = Self::default();
        for address in addresses(root)? {
            let Some(function) = PciFunction::read(root, address)? else {
                continue;
            };
            if let Some(group) = function.group
                && !inventory.groups.contains_key(&group)
            {
                inventory.groups.insert(group, IommuGroup::read(root, group)?);
            }
            inventory.functions.insert(address, listed(root, &usage, address, function)?);
        }
        Ok(inventory)
    }

    /// Virtual functions of `address`.
    pub fn virtual_functions(&self, address: Bdf) -> impl Iterator<Item = (Bdf, &Listed)> {
        let all = self.functions.iter().map(|(address, listed)| (*address, listed));
        all.filter(move |(_, listed)| listed.physical_function == Some(address))
    }
}

fn listed(
    root: &Root,
    usage: &Usage,
    address: Bdf,
    function: PciFunction,
) -> Result<Listed, HostError> {
    let folder = format!("{DEVICES}/{address}");
    let file = |name: &str| format!("{folder}/{name}");
    let address_of = |name: &str| root.link_name(file(name)).and_then(|name| name.parse().ok());
    // "../../../devices/pci0000:20/0000:20:00.0/0000:21:00.0"
    let target = root.link(&folder).unwrap_or_default();
    let path = target.components().filter_map(|part| part.as_os_str().to_str()?.parse().ok());
    let path = path.filter(|bridge: &Bdf| *bridge != address).collect();
    let count = |name: &str| root.value(file(name), "a number of virtual functions");
    let interrupts = root.names(file("msi_irqs")).unwrap_or_default();
    Ok(Listed {
        path,
        sriov: match (count("sriov_numvfs")?, count("sriov_totalvfs")?) {
            (Some(now), Some(max)) => Some(VfCount { now, max }),
            _ => None,
        },
        physical_function: address_of("physfn"),
        link: link(root, &folder),
        uses: usage.of(root, address, &folder, function.group),
        acs: if function.is_bridge() { acs::read(root, &file("config")) } else { Acs::Unknown },
        modalias: root.glance(file("modalias")).unwrap_or_default(),
        interrupts: interrupts.iter().filter_map(|number| number.parse().ok()).collect(),
        function,
    })
}

fn link(root: &Root, folder: &str) -> Option<Link> {
    let speed = |name: &str| {
        // "8.0 GT/s PCIe"; "Unknown" where there is no link, as of virtual functions.
        let text = root.glance(format!("{folder}/{name}"))?;
        text.contains("GT/s").then(|| text.trim_end_matches(" PCIe").to_owned())
    };
    let width = |name: &str| {
        // 0 and 255 where there is no link.
        let lanes: u8 = root.glance(format!("{folder}/{name}"))?.parse().ok()?;
        (1..=32).contains(&lanes).then_some(lanes)
    };
    Some(Link {
        speed: speed("current_link_speed")?,
        width: width("current_link_width")?,
        max_speed: speed("max_link_speed")?,
        max_width: width("max_link_width")?,
    })
}
