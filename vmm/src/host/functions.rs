//! PCI functions of the host, with what decides whether a guest may have them.
//!
//! There is one such list, whoever asks. What differs is how far it goes: a host has hundreds of
//! functions, and every file read is time before a guest's first instruction. So a start reads the
//! functions that its config names, and a command that looks at the host reads all.

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::HostBdf;
use serde::Serialize;

use super::acs::{self, Acs};
use super::depth::Depth;
use super::iommu::IommuGroup;
use super::modules;
use super::pci::{self, DEVICES, VFIO_PCI, virtual_functions};
use super::query::Candidates;
use super::root::Root;
use super::switchdev;
use super::usage::Usage;
use super::{HostError, HostUse, IOMMU_GROUPS, PciFunction, Taking, Unseen};

/// PCI functions of the host, as far as somebody asked for them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Functions {
    /// Addresses of all functions, in order; of those that were asked for, where only they were.
    pub addresses: Vec<HostBdf>,
    /// What was read, by address: what was asked for, and all members of its groups.
    pub read: BTreeMap<HostBdf, HostFunction>,
    /// The IOMMU groups of what was read.
    pub groups: BTreeMap<u32, IommuGroup>,
    /// Whether the vfio-pci driver is there to bind to.
    pub vfio_pci: bool,
}

/// One function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostFunction {
    /// What VFIO and a guest need to know of it.
    #[serde(flatten)]
    pub function: PciFunction,
    /// The physical function that it is part of, and its index there.
    pub virtual_of: Option<(HostBdf, u32)>,
    /// Bridges between the root and it, the root port first.
    pub path: Vec<HostBdf>,
    /// How far it was looked at; what follows is empty of one that was read for a guest only.
    #[serde(skip)]
    pub depth: Depth,
    /// Its virtual functions, if it can have some.
    pub sriov: Option<Sriov>,
    /// What the host does with it.
    pub uses: Vec<HostUse>,
    /// What would tell more of that, and could not be seen.
    pub unseen: Vec<Unseen>,
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

/// A physical function's virtual functions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sriov {
    /// Most that it can have.
    pub max: u32,
    /// Those that it has, by index.
    pub functions: Vec<HostBdf>,
    /// Whether the host's drivers take new ones by themselves.
    pub autoprobe: bool,
    /// Its network interface, through which their ports are set.
    pub interface: Option<String>,
    /// Whether their memory has addresses; `None` where that was not seen.
    pub has_room: Option<bool>,
    /// Whether the card's switch is the host's to program: each of their ports is then an
    /// interface of the host (switchdev mode).
    pub is_switchdev: bool,
}

impl HostFunction {
    /// One of which nothing but `function` is known.
    pub fn of(function: PciFunction) -> Self {
        Self {
            function,
            virtual_of: None,
            depth: Depth::Guest,
            path: Vec::new(),
            sriov: None,
            uses: Vec::new(),
            unseen: Vec::new(),
            acs: Acs::Unknown,
            modalias: String::new(),
            is_driver_built_in: false,
            interrupts: Vec::new(),
        }
    }

    /// Virtual functions that vanish when its driver goes; VFIO's keep them.
    pub fn functions_to_lose(&self) -> usize {
        let sriov = self.sriov.as_ref().filter(|_| !self.function.is_bound_to_vfio());
        sriov.map_or(0, |sriov| sriov.functions.len())
    }

    /// Modules of the kernel under `root` that would have it; vfio-pci is none of them.
    pub fn native_modules(&self, root: &Root) -> BTreeSet<String> {
        modules::drivers_of(root, &self.modalias)
    }
}

impl Functions {
    /// Reads every function under `root`, as a look at the whole host.
    ///
    /// # Errors
    /// A file of sysfs holds something else than the kernel writes.
    pub fn read_all(root: &Root) -> Result<Self, HostError> {
        Self::survey(root, &Candidates::default())
    }

    /// The same, with `candidates` looked at as they are asked for.
    pub(super) fn survey(root: &Root, candidates: &Candidates) -> Result<Self, HostError> {
        let mut reader = Reader::new(root, candidates.virtual_functions.clone());
        let addresses = pci::addresses(root)?;
        for &address in &addresses {
            let depth = match candidates.functions.get(&address) {
                Some(Taking::Yes) => Depth::Take,
                Some(Taking::No) | None => Depth::Host,
            };
            reader.add(address, depth)?;
        }
        let mut functions = Self { addresses, ..reader.functions };
        if !root.exists(IOMMU_GROUPS) {
            functions.gather_groups();
        }
        Ok(functions)
    }

    /// Reads what a machine would have of the host: those that are to be taken with all that could
    /// stand in the way, the others as the guest gets them.
    pub(super) fn read_for_guest(root: &Root, candidates: &Candidates) -> Result<Self, HostError> {
        let mut reader = Reader::new(root, candidates.virtual_functions.clone());
        for &physical in candidates.virtual_functions.keys() {
            reader.add(physical, Depth::Host)?;
        }
        let taking = |taking| candidates.functions.iter().filter(move |(_, is)| **is == taking);
        for (&address, _) in taking(Taking::Yes) {
            reader.add_with_company(address, Depth::Take)?;
        }
        for (&address, _) in taking(Taking::No) {
            reader.add_with_company(address, Depth::Guest)?;
        }
        Ok(Self { addresses: pci::addresses(root)?, ..reader.functions })
    }

    /// Reads those of `wanted` that exist, for changing their drivers: with their virtual
    /// functions and all members of their groups.
    ///
    /// # Errors
    /// A file of sysfs holds something else than the kernel writes.
    pub fn read_to_take(root: &Root, wanted: &[HostBdf]) -> Result<Self, HostError> {
        let mut reader = Reader::new(root, BTreeMap::new());
        for &address in wanted {
            reader.add_with_company(address, Depth::Take)?;
        }
        let addresses = reader.functions.read.keys().copied().collect();
        Ok(Self { addresses, ..reader.functions })
    }

    /// Makes groups of what the functions say of themselves: snapshots of topology have those links
    /// and not what they point at.
    fn gather_groups(&mut self) {
        for (address, found) in &self.read {
            if let Some(group) = found.function.group {
                let members = &mut self.groups.entry(group).or_default().members;
                if !members.contains(address) {
                    members.push(*address);
                }
            }
        }
    }

    /// The function at `address`, where it was read.
    pub fn get(&self, address: HostBdf) -> Option<&HostFunction> {
        self.read.get(&address)
    }

    /// What a guest would get of the function at `address`.
    pub fn pci(&self, address: HostBdf) -> Option<&PciFunction> {
        Some(&self.get(address)?.function)
    }

    /// The members of `group` that were read.
    pub fn members(&self, group: Option<u32>) -> impl Iterator<Item = (HostBdf, &HostFunction)> {
        let group = group.and_then(|group| self.groups.get(&group));
        let members = group.into_iter().flat_map(|group| &group.members);
        members.filter_map(|member| Some((*member, self.get(*member)?)))
    }

    /// The others of the group of `address`, bridges left out.
    pub fn neighbours(&self, address: HostBdf) -> impl Iterator<Item = (HostBdf, &HostFunction)> {
        let group = self.pci(address).and_then(|function| function.group);
        let members = self.members(group);
        members.filter(move |(other, found)| *other != address && !found.function.is_bridge())
    }

    /// Virtual functions of `address`.
    pub fn virtual_functions(
        &self,
        address: HostBdf,
    ) -> impl Iterator<Item = (HostBdf, &HostFunction)> {
        let sriov = self.get(address).and_then(|found| found.sriov.as_ref());
        let all = sriov.into_iter().flat_map(|sriov| &sriov.functions);
        all.filter_map(|function| Some((*function, self.get(*function)?)))
    }
}

/// Adds functions one by one.
struct Reader<'a> {
    root: &'a Root,
    usage: Usage,
    functions: Functions,
    /// Virtual functions of physical ones: a card has hundreds, and each asks for its index.
    virtual_functions: BTreeMap<HostBdf, Vec<HostBdf>>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Root, virtual_functions: BTreeMap<HostBdf, Vec<HostBdf>>) -> Self {
        let functions = Functions { vfio_pci: root.exists(VFIO_PCI), ..Functions::default() };
        Self { root, usage: Usage::default(), functions, virtual_functions }
    }

    /// Adds a function with all that decides whether it may be taken: its virtual functions and
    /// the other members of its group.
    fn add_with_company(&mut self, address: HostBdf, depth: Depth) -> Result<(), HostError> {
        self.add(address, depth)?;
        let Some(found) = self.functions.get(address) else { return Ok(()) };
        let mut company = found.sriov.clone().unwrap_or_default().functions;
        let group = found.function.group.and_then(|group| self.functions.groups.get(&group));
        company.extend(group.into_iter().flat_map(|group| &group.members));
        let physical = found.virtual_of.map(|(physical, _)| physical);
        for member in company {
            self.add(member, depth)?;
        }
        // Whose driver decides whether its virtual functions can be opened.
        if let Some(physical) = physical {
            self.add(physical, Depth::Guest)?;
        }
        Ok(())
    }

    /// Adds a function, unless it was looked at as far already.
    fn add(&mut self, address: HostBdf, depth: Depth) -> Result<(), HostError> {
        if self.functions.get(address).is_some_and(|found| found.depth >= depth) {
            return Ok(());
        }
        let Some(function) = PciFunction::read(self.root, address)? else {
            return Ok(());
        };
        if let Some(group) = function.group
            && !self.functions.groups.contains_key(&group)
        {
            self.functions.groups.insert(group, IommuGroup::read(self.root, group)?);
        }
        let virtual_of = if function.is_virtual { self.virtual_of(address) } else { None };
        // "../../../devices/pci0000:20/0000:20:00.0/0000:21:00.0"
        let target = self.root.link(format!("{DEVICES}/{address}")).unwrap_or_default();
        let path = target.components().filter_map(|part| part.as_os_str().to_str()?.parse().ok());
        let path = path.filter(|bridge: &HostBdf| *bridge != address).collect();
        let mut found = HostFunction { virtual_of, path, ..HostFunction::of(function) };
        if depth > Depth::Guest {
            self.look(address, &mut found, depth)?;
        }
        self.functions.read.insert(address, found);
        Ok(())
    }

    /// Reads what concerns the host.
    fn look(
        &mut self,
        address: HostBdf,
        found: &mut HostFunction,
        depth: Depth,
    ) -> Result<(), HostError> {
        let root = self.root;
        let folder = format!("{DEVICES}/{address}");
        let file = |name: &str| format!("{folder}/{name}");
        found.sriov = self.sriov(address)?;
        let seen = self.usage.of(root, address, &found.function, depth);
        (found.uses, found.unseen) = (seen.uses, seen.unseen);
        if found.function.is_bridge() {
            found.acs = acs::read(root, &file("config"));
        }
        found.modalias = root.glance(file("modalias")).unwrap_or_default();
        found.is_driver_built_in =
            found.function.driver.is_some() && !root.exists(file("driver/module"));
        let interrupts = root.names(file("msi_irqs")).unwrap_or_default();
        found.interrupts = interrupts.iter().filter_map(|number| number.parse().ok()).collect();
        found.depth = depth;
        Ok(())
    }

    fn sriov(&mut self, address: HostBdf) -> Result<Option<Sriov>, HostError> {
        let root = self.root;
        let file = |name: &str| format!("{DEVICES}/{address}/{name}");
        let Some(max) = root.value(file("sriov_totalvfs"), "a number of functions")? else {
            return Ok(None);
        };
        let interfaces = root.names(file("net"))?;
        let is_port = |name: &&String| switchdev::is_port(root, &file(&format!("net/{name}")));
        // In switchdev mode the ports of virtual functions are below the same folder.
        let own = interfaces.iter().find(|name| !is_port(name));
        Ok(Some(Sriov {
            max,
            functions: self.functions_of(address).to_vec(),
            autoprobe: root.text(file("sriov_drivers_autoprobe"))?.as_deref() != Some("0"),
            interface: own.or(interfaces.first()).cloned(),
            has_room: pci::has_room_for_virtual_functions(root, address)?,
            is_switchdev: own.is_some_and(|own| switchdev::has_ports(root, own)),
        }))
    }

    fn virtual_of(&mut self, address: HostBdf) -> Option<(HostBdf, u32)> {
        let physical = self.root.link_name(format!("{DEVICES}/{address}/physfn"))?.parse().ok()?;
        let all = self.functions_of(physical);
        let index = all.iter().position(|function| *function == address)?;
        Some((physical, index as u32))
    }

    fn functions_of(&mut self, physical: HostBdf) -> &[HostBdf] {
        let root = self.root;
        let all = self.virtual_functions.entry(physical);
        all.or_insert_with(|| virtual_functions(root, physical))
    }
}
