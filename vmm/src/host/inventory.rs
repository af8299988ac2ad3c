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
        uses: usage.of(root, address, &folder, function.group),
        acs: if function.is_bridge() { acs::read(root, &file("config")) } else { Acs::Unknown },
        modalias: root.glance(file("modalias")).unwrap_or_default(),
        interrupts: interrupts.iter().filter_map(|number| number.parse().ok()).collect(),
        function,
    })
}
