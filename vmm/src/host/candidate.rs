//! Functions that might change hands, with what speaks against it.

use std::collections::BTreeMap;
use std::path::Path;

use berth_devices::pci::Bdf;
use serde::Serialize;

use super::in_use::{self, Use};
use super::root::Root;
use super::{HostError, PciFunction, pci};

/// A function that might change hands.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// What sysfs says of it.
    pub function: PciFunction,
    /// What it is used for right now.
    pub uses: Vec<Use>,
    /// Its virtual functions, if it can have some.
    pub sriov: Option<Sriov>,
    /// The physical function that it is part of, and its index there.
    pub virtual_of: Option<(Bdf, u32)>,
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

/// What decides whether functions may change hands.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Candidates {
    /// The functions asked for that exist, the members of their groups, and their virtual
    /// functions.
    pub functions: BTreeMap<Bdf, Candidate>,
    /// Members of their groups.
    pub groups: BTreeMap<u32, Vec<Bdf>>,
    /// Whether the vfio-pci driver is there.
    pub vfio_pci: bool,
    /// Addresses of all functions of the host.
    pub addresses: Vec<Bdf>,
}

impl Candidates {
    /// Reads what there is to know about `wanted` on the host whose `/` is `root`.
    ///
    /// # Errors
    /// A file of sysfs or procfs cannot be read or holds something else than the kernel writes.
    pub fn read(root: &Path, wanted: &[Bdf]) -> Result<Self, HostError> {
        let root = Root::new(root);
        let mut all = Self {
            vfio_pci: root.exists("/sys/bus/pci/drivers/vfio-pci"),
            addresses: pci::addresses(&root)?,
            ..Self::default()
        };
        for &address in wanted {
            all.add(&root, address)?;
            let functions = all.functions.get(&address).and_then(|found| found.sriov.clone());
            for virtual_function in functions.unwrap_or_default().functions {
                all.add(&root, virtual_function)?;
            }
        }
        let groups: Vec<u32> =
            all.functions.values().filter_map(|found| found.function.group).collect();
        for group in groups {
            if !all.groups.contains_key(&group) {
                let names = root.names(format!("/sys/kernel/iommu_groups/{group}/devices"))?;
                let members: Vec<Bdf> = names.iter().filter_map(|name| name.parse().ok()).collect();
                for &member in &members {
                    all.add(&root, member)?;
                }
                all.groups.insert(group, members);
            }
        }
        Ok(all)
    }

    fn add(&mut self, root: &Root, address: Bdf) -> Result<(), HostError> {
        if self.functions.contains_key(&address) {
            return Ok(());
        }
        let Some(function) = PciFunction::read(root, address)? else {
            return Ok(());
        };
        let candidate = Candidate {
            uses: in_use::uses(root, address, &function)?,
            sriov: sriov(root, address)?,
            virtual_of: virtual_of(root, address)?,
            function,
        };
        self.functions.insert(address, candidate);
        Ok(())
    }
}

fn sriov(root: &Root, address: Bdf) -> Result<Option<Sriov>, HostError> {
    let file = |name: &str| format!("{}/{address}/{name}", pci::DEVICES);
    let Some(max) = root.value(file("sriov_totalvfs"), "a number of functions")? else {
        return Ok(None);
    };
    Ok(Some(Sriov {
        max,
        functions: virtual_functions(root, address),
        autoprobe: root.text(file("sriov_drivers_autoprobe"))?.as_deref() != Some("0"),
        interface: root.names(file("net"))?.into_iter().next(),
    }))
}

/// The links `virtfn0`, `virtfn1`, ... in the order of the indexes.
pub(super) fn virtual_functions(root: &Root, physical: Bdf) -> Vec<Bdf> {
    let link = |index: u32| {
        root.link_name(format!("{}/{physical}/virtfn{index}", pci::DEVICES))?.parse().ok()
    };
    (0..).map_while(link).collect()
}

fn virtual_of(root: &Root, address: Bdf) -> Result<Option<(Bdf, u32)>, HostError> {
    let physical = root.link_name(format!("{}/{address}/physfn", pci::DEVICES));
    let Some(physical) = physical.and_then(|name| name.parse().ok()) else {
        return Ok(None);
    };
    let all = virtual_functions(root, physical);
    let index = all.iter().position(|function| *function == address);
    Ok(index.map(|index| (physical, index as u32)))
}
