//! PCI functions of the host, with what decides whether a guest may have them.

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::Bdf;
use serde::Serialize;

use super::acs::{self, Acs};
use super::iommu::IommuGroup;
use super::modules;
use super::pci::{DEVICES, VFIO_PCI, addresses};
use super::root::Root;
use super::usage::Usage;
use super::{HostError, HostUse, IOMMU_GROUPS, PciFunction};

/// PCI functions of the host.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inventory {
    /// By address.
    pub functions: BTreeMap<Bdf, HostFunction>,
    /// Their IOMMU groups.
    pub groups: BTreeMap<u32, IommuGroup>,
    /// Whether the vfio-pci driver is there to bind to.
    pub vfio_pci: bool,
}

/// One function, beyond what a plan needs of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostFunction {
    /// What a plan needs.
    #[serde(flatten)]
    pub function: PciFunction,
    /// Bridges between the root and it, the root port first.
    pub path: Vec<Bdf>,
    /// Its virtual functions, if it can have some.
    pub sriov: Option<Sriov>,
    /// The physical function that it is part of, and its index there.
    pub virtual_of: Option<(Bdf, u32)>,
    /// What the host does with it.
    pub uses: Vec<HostUse>,
    /// Access control services, of a bridge.
    pub acs: Acs,
    /// What drivers recognize it by.
    #[serde(skip)]
    pub modalias: String,
    /// Whether the driver that has it is part of the kernel, rather than a module.
    #[serde(skip)]
    pub is_driver_built_in: bool,
    /// The host's interrupts that it raises, by number.
    pub interrupts: Vec<u32>,
}

impl HostFunction {
    /// Virtual functions that vanish when its driver goes; VFIO's keep them.
    pub fn functions_to_lose(&self) -> usize {
        let sriov = self.sriov.as_ref().filter(|_| !self.function.is_bound_to_vfio());
        sriov.map_or(0, |sriov| sriov.functions.len())
    }
}

/// A physical function's virtual functions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sriov {
    /// Most that it can have.
    pub max: u32,
    /// Those that it has, by index.
    pub functions: Vec<Bdf>,
    /// Whether the host's drivers take new ones by themselves.
    pub autoprobe: bool,
    /// Its network interface, through which their ports are set.
    pub interface: Option<String>,
}

impl Inventory {
    /// Reads every function under `root`.
    ///
    /// # Errors
    /// A file of sysfs holds something else than the kernel writes.
    pub fn read(root: &Root) -> Result<Self, HostError> {
        let mut reader = Reader::new(root, Usage::read(root));
        for address in addresses(root)? {
            reader.add(address)?;
        }
        let mut inventory = reader.inventory;
        if !root.exists(IOMMU_GROUPS) {
            inventory.gather_groups();
        }
        Ok(inventory)
    }

    /// Makes groups of what the functions say of themselves: snapshots of topology have those links
    /// and not what they point at.
    fn gather_groups(&mut self) {
        for (address, listed) in &self.functions {
            if let Some(group) = listed.function.group {
                let members = &mut self.groups.entry(group).or_default().members;
                if !members.contains(address) {
                    members.push(*address);
                }
            }
        }
    }

    /// Reads those of `wanted` that exist, for changing their drivers: with their virtual
    /// functions and all members of their groups.
    ///
    /// # Errors
    /// A file of sysfs holds something else than the kernel writes.
    pub fn read_to_take(root: &Root, wanted: &[Bdf]) -> Result<Self, HostError> {
        let mut reader = Reader::new(root, Usage::read_to_take(root));
        for &address in wanted {
            reader.add(address)?;
            let found = reader.inventory.functions.get(&address);
            let below = found.and_then(|found| found.sriov.clone()).unwrap_or_default().functions;
            for function in below {
                reader.add(function)?;
            }
        }
        let groups = reader.inventory.groups.values();
        let members: Vec<Bdf> = groups.flat_map(|group| group.members.clone()).collect();
        for member in members {
            reader.add(member)?;
        }
        Ok(reader.inventory)
    }

    /// Virtual functions of `address`.
    pub fn virtual_functions(&self, address: Bdf) -> impl Iterator<Item = (Bdf, &HostFunction)> {
        let sriov = self.functions.get(&address).and_then(|found| found.sriov.as_ref());
        let all = sriov.into_iter().flat_map(|sriov| &sriov.functions);
        all.filter_map(|function| Some((*function, self.functions.get(function)?)))
    }
}

impl HostFunction {
    /// Modules of the kernel under `root` that would have it; vfio-pci is none of them.
    pub fn native_modules(&self, root: &Root) -> BTreeSet<String> {
        modules::drivers_of(root, &self.modalias)
    }
}

/// Adds functions one by one.
struct Reader<'a> {
    root: &'a Root,
    usage: Usage,
    inventory: Inventory,
    /// Virtual functions of physical ones: a card has hundreds, and each asks for its index.
    virtual_functions: BTreeMap<Bdf, Vec<Bdf>>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Root, usage: Usage) -> Self {
        let vfio_pci = root.exists(VFIO_PCI);
        let inventory = Inventory { vfio_pci, ..Inventory::default() };
        Self { root, usage, inventory, virtual_functions: BTreeMap::new() }
    }

    fn add(&mut self, address: Bdf) -> Result<(), HostError> {
        if self.inventory.functions.contains_key(&address) {
            return Ok(());
        }
        let Some(function) = PciFunction::read(self.root, address)? else {
            return Ok(());
        };
        if let Some(group) = function.group
            && !self.inventory.groups.contains_key(&group)
        {
            self.inventory.groups.insert(group, IommuGroup::read(self.root, group)?);
        }
        let listed = self.listed(address, function)?;
        self.inventory.functions.insert(address, listed);
        Ok(())
    }

    fn listed(&mut self, address: Bdf, function: PciFunction) -> Result<HostFunction, HostError> {
        let root = self.root;
        let folder = format!("{DEVICES}/{address}");
        let file = |name: &str| format!("{folder}/{name}");
        // "../../../devices/pci0000:20/0000:20:00.0/0000:21:00.0"
        let target = root.link(&folder).unwrap_or_default();
        let path = target.components().filter_map(|part| part.as_os_str().to_str()?.parse().ok());
        let path = path.filter(|bridge: &Bdf| *bridge != address).collect();
        let interrupts = root.names(file("msi_irqs")).unwrap_or_default();
        Ok(HostFunction {
            path,
            sriov: self.sriov(address)?,
            virtual_of: self.virtual_of(address),
            uses: self.usage.of(root, address, &function),
            acs: if function.is_bridge() { acs::read(root, &file("config")) } else { Acs::Unknown },
            modalias: root.glance(file("modalias")).unwrap_or_default(),
            is_driver_built_in: function.driver.is_some() && !root.exists(file("driver/module")),
            interrupts: interrupts.iter().filter_map(|number| number.parse().ok()).collect(),
            function,
        })
    }

    fn sriov(&mut self, address: Bdf) -> Result<Option<Sriov>, HostError> {
        let root = self.root;
        let file = |name: &str| format!("{DEVICES}/{address}/{name}");
        let Some(max) = root.value(file("sriov_totalvfs"), "a number of functions")? else {
            return Ok(None);
        };
        Ok(Some(Sriov {
            max,
            functions: self.functions_of(address).to_vec(),
            autoprobe: root.text(file("sriov_drivers_autoprobe"))?.as_deref() != Some("0"),
            interface: root.names(file("net"))?.into_iter().next(),
        }))
    }

    fn virtual_of(&mut self, address: Bdf) -> Option<(Bdf, u32)> {
        let physical = self.root.link_name(format!("{DEVICES}/{address}/physfn"))?.parse().ok()?;
        let all = self.functions_of(physical);
        let index = all.iter().position(|function| *function == address)?;
        Some((physical, index as u32))
    }

    fn functions_of(&mut self, physical: Bdf) -> &[Bdf] {
        let root = self.root;
        let all = self.virtual_functions.entry(physical);
        all.or_insert_with(|| virtual_functions(root, physical))
    }
}

/// The links `virtfn0`, `virtfn1`, ... in the order of the indexes.
pub(super) fn virtual_functions(root: &Root, physical: Bdf) -> Vec<Bdf> {
    let link =
        |index: u32| root.link_name(format!("{DEVICES}/{physical}/virtfn{index}"))?.parse().ok();
    (0..).map_while(link).collect()
}
