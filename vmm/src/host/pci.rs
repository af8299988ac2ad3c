//! PCI functions as sysfs shows them.

use std::ops::Range;

use berth_devices::pci::capability::{capabilities, read_u16};
use berth_devices::pci::regs::{CAP_MSIX, INTERRUPT_PIN, STATUS, STATUS_CAPABILITY_LIST};
use berth_devices::pci::{HostBdf, Link};
use berth_devices::vfio::ResetMethod;
use serde::Serialize;

use super::root::Root;
use super::{HostError, IOMMU_GROUPS, Unfit, link, pci_node};
use berth_devices::pci::BarKind;

pub(super) const DEVICES: &str = "/sys/bus/pci/devices";
pub(super) const VFIO_PCI: &str = "/sys/bus/pci/drivers/vfio-pci";

/// Bytes of configuration space with everything that is read here.
const CONFIG_SIZE: usize = 256;

/// One PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PciFunction {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code: base class, subclass, programming interface, 8 bits each.
    pub class: u32,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// The only driver that may bind to it, when one was set.
    pub driver_override: Option<String>,
    /// NUMA node: its own, or where that is -1, that of the bridges and the bus above it.
    pub node: Option<u32>,
    /// IOMMU group; `None` when no IOMMU is in front of it.
    pub group: Option<u32>,
    /// The IOMMU in front of it, such as `dmar0`.
    pub iommu_unit: Option<String>,
    /// Its file in /dev/vfio/devices, such as `vfio3`, while a VFIO driver has it and where the
    /// kernel makes such files (CONFIG_VFIO_DEVICE_CDEV).
    pub device_file: Option<String>,
    /// Whether it is a virtual function (SR-IOV).
    pub is_virtual: bool,
    /// Its PCI Express link; `None` when it has none, being conventional PCI or part of the root
    /// complex.
    pub link: Option<Link>,
    /// Interrupt pin: 1..=4 for INTA..INTD, 0 for none.
    pub interrupt_pin: u8,
    /// Implemented BARs.
    pub bars: Vec<HostBar>,
    /// Bytes of its expansion ROM, 0 when it has none.
    pub rom_size: u64,
    /// Vectors in its MSI-X table, 0 when it has none; `None` when its capabilities cannot be seen,
    /// as by users other than root.
    pub msix_vectors: Option<u16>,
    /// Ways the kernel knows to reset it, in the order it would try them.
    pub reset_methods: Vec<ResetMethod>,
    /// What keeps it from working in a guest, whoever has it.
    pub unfit: Vec<Unfit>,
}

/// A BAR as the host's kernel found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostBar {
    /// Register, 0..=5.
    pub index: u8,
    /// Kind of the register.
    pub kind: BarKind,
    /// Bytes, a power of two.
    pub size: u64,
}

/// Whether a driver is VFIO's own or a vendor's variant of it.
fn is_vfio(driver: &str) -> bool {
    driver.replace('_', "-").ends_with("vfio-pci")
}

impl PciFunction {
    /// Whether it is part of the host's own fabric: a host bridge, an ISA bridge, a PCI-to-PCI
    /// bridge or a port (class 06h, subclasses 00h, 01h, 04h and 09h). Other bridges, such as
    /// non-transparent ones, are endpoints.
    pub fn is_bridge(&self) -> bool {
        matches!(self.class >> 8, 0x0600 | 0x0601 | 0x0604 | 0x0609)
    }

    /// Whether it is a network card, Ethernet or wireless (class 02h, subclasses 00h and 80h): its
    /// driver makes an interface of it.
    pub fn is_network(&self) -> bool {
        matches!(self.class >> 8, 0x0200 | 0x0280)
    }

    /// Whether a VFIO driver has it: vfio-pci or a vendor's variant, such as `mlx5_vfio_pci`.
    pub fn is_bound_to_vfio(&self) -> bool {
        self.driver.as_deref().is_some_and(is_vfio)
    }

    /// Whether its driver lets the other functions of its group be passed through. Without a
    /// driver it is idle; pci-stub holds it idle; port drivers do no DMA of their own (kernel,
    /// `driver_managed_dma`).
    pub fn allows_passthrough_of_its_group(&self) -> bool {
        match self.driver.as_deref() {
            None | Some("pci-stub" | "pcieport") => true,
            Some(_) => self.is_bound_to_vfio(),
        }
    }

    /// The function at `address`; `None` when there is none.
    pub(super) fn read(root: &Root, address: HostBdf) -> Result<Option<Self>, HostError> {
        let file = |name: &str| format!("{DEVICES}/{address}/{name}");
        let Some(vendor) = root.hex(file("vendor"))? else {
            return Ok(None);
        };
        // "(null)" is what the kernel prints when no override is set.
        let driver_override =
            root.text(file("driver_override"))?.filter(|name| !name.is_empty() && name != "(null)");
        let node: i64 = root.value(file("numa_node"), "the number of a node, or -1")?.unwrap_or(-1);
        let group = group(root, &file("iommu_group"));
        let resets = root.text(file("reset_method"))?;
        let config = root.head(file("config"), CONFIG_SIZE)?;
        let resources = resources(root, &file("resource"), ROM + 1)?;
        let unfit = unfit(root, address, config.as_deref().unwrap_or_default(), &resources);
        let pin = config.as_ref().and_then(|config| config.get(usize::from(INTERRUPT_PIN)));
        Ok(Some(Self {
            vendor: vendor as u16,
            device: root.hex(file("device"))?.unwrap_or(0) as u16,
            class: root.hex(file("class"))?.unwrap_or(0) as u32,
            driver: root.link_name(file("driver")),
            driver_override,
            node: u32::try_from(node).ok().or_else(|| pci_node::inherited(root, address)),
            group,
            iommu_unit: root.link_name(file("iommu")),
            device_file: device_file(root, &file("vfio-dev"))?,
            is_virtual: root.exists(file("physfn")),
            link: link::read(
                root,
                &format!("{DEVICES}/{address}"),
                config.as_deref().unwrap_or_default(),
            ),
            unfit,
            interrupt_pin: pin.copied().filter(|pin| *pin <= 4).unwrap_or(0),
            bars: bars(&resources),
            rom_size: resources.get(ROM).map_or(0, Resource::size),
            reset_methods: match resets {
                Some(names) => names.split_whitespace().filter_map(ResetMethod::parse).collect(),
                // The file is there since Linux 5.15.
                None => ResetMethod::from_config(config.as_deref().unwrap_or_default()),
            },
            msix_vectors: config.and_then(|config| msix_vectors(&config)),
        }))
    }
}

/// The group that `link` leads to; `None` also for one that VFIO made itself, for a device without
/// an IOMMU (`vfio_noiommu_group_alloc` in drivers/vfio/group.c): nothing guards it.
fn group(root: &Root, link: &str) -> Option<u32> {
    let number = root.link_name(link)?.parse().ok()?;
    let name = root.glance(format!("{IOMMU_GROUPS}/{number}/name"));
    (name.as_deref() != Some("vfio-noiommu")).then_some(number)
}

/// The links `virtfn0`, `virtfn1`, ... in the order of the indexes.
pub(super) fn virtual_functions(root: &Root, physical: HostBdf) -> Vec<HostBdf> {
    let link =
        |index: u32| root.link_name(format!("{DEVICES}/{physical}/virtfn{index}"))?.parse().ok();
    (0..).map_while(link).collect()
}

/// What keeps a function from working.
fn unfit(root: &Root, address: HostBdf, config: &[u8], resources: &[Resource]) -> Vec<Unfit> {
    /// Bytes of the header, which every user may read.
    const HEADER: usize = 64;
    let mut found = Vec::new();
    // Vendor and device alone tell nothing: both read ones in every virtual function (PCI Express
    // Base, section 9.3.4.1). A read that nobody answers is ones throughout.
    if config.get(..HEADER).is_some_and(|header| header.iter().all(|byte| *byte == 0xff)) {
        found.push(Unfit::Unreachable);
    }
    let bars = (0..).zip(resources).take(ROM);
    let unassigned = bars.filter(|(_, resource)| {
        resource.flags & UNSET != 0 && resource.flags & MEMORY != 0 && resource.size() > 0
    });
    found.extend(
        unassigned.map(|(bar, resource)| Unfit::BarUnassigned { bar, size: resource.size() }),
    );
    let physfn = format!("{DEVICES}/{address}/physfn");
    let physical = root.link_name(&physfn).and_then(|name| name.parse().ok());
    let driver = root.link_name(format!("{physfn}/driver"));
    if let (Some(physical), Some(driver)) = (physical, driver)
        && is_vfio(&driver)
    {
        found.push(Unfit::TokenNeeded { physical });
    }
    found
}

/// The one entry of `folder` that has a device number: kernels without device files make the
/// entry too (`vfio_device_add` in drivers/vfio/vfio.h).
fn device_file(root: &Root, folder: &str) -> Result<Option<String>, HostError> {
    let names = root.names(folder)?;
    Ok(names.into_iter().find(|name| root.exists(format!("{folder}/{name}/dev"))))
}

/// Addresses of all PCI functions, in order.
pub(super) fn addresses(root: &Root) -> Result<Vec<HostBdf>, HostError> {
    let names = root.names(DEVICES)?;
    let mut all: Vec<HostBdf> = names.iter().filter_map(|name| name.parse().ok()).collect();
    all.sort_unstable();
    Ok(all)
}

/// A line of `resource`: first and last address, then flags (kernel, `include/linux/ioport.h`).
struct Resource {
    first: u64,
    last: u64,
    flags: u64,
}

/// Resource of the expansion ROM, behind those of the six BARs (kernel, `include/linux/pci.h`).
const ROM: usize = 6;
/// Resources of virtual functions, behind that one.
const OF_VIRTUAL_FUNCTIONS: Range<usize> = 7..13;

const IO: u64 = 0x100;
const MEMORY: u64 = 0x200;
/// No address was found for it (IORESOURCE_UNSET).
const UNSET: u64 = 0x2000_0000;

impl Resource {
    /// Enhanced Allocation allows sizes that are no power of two; the register we emulate does
    /// not. 0 when nothing is there.
    fn size(&self) -> u64 {
        if self.flags & (IO | MEMORY) == 0 {
            return 0;
        }
        let bytes = self.last.wrapping_sub(self.first).wrapping_add(1);
        bytes.checked_next_power_of_two().unwrap_or(1 << 63)
    }
}

/// Whether the memory of a card's virtual functions has addresses; `None` where no line tells. One
/// without reads as zeros or is marked: the kernel gives such resources up before others
/// (`reset_resource` in drivers/pci/setup-bus.c), and then refuses every number of functions
/// (`sriov_enable` in drivers/pci/iov.c).
pub(super) fn has_room_for_virtual_functions(
    root: &Root,
    address: HostBdf,
) -> Result<Option<bool>, HostError> {
    let all = resources(root, &format!("{DEVICES}/{address}/resource"), OF_VIRTUAL_FUNCTIONS.end)?;
    let Some(theirs) = all.get(OF_VIRTUAL_FUNCTIONS) else { return Ok(None) };
    let has_address = |one: &&Resource| one.size() > 0 && one.flags & UNSET == 0;
    let is_without = theirs.iter().any(|one| one.flags & UNSET != 0);
    Ok(Some(!is_without && theirs.iter().any(|one| has_address(&one))))
}

/// The first `count` lines.
fn resources(root: &Root, path: &str, count: usize) -> Result<Vec<Resource>, HostError> {
    let text = root.text(path)?.unwrap_or_default();
    let lines = text.lines().take(count).map(|line| {
        let numbers: Option<Vec<u64>> = line
            .split_whitespace()
            .map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
            .collect();
        match numbers.as_deref() {
            Some(&[first, last, flags]) => Ok(Resource { first, last, flags }),
            _ => Err(HostError::Malformed {
                path: root.path(path),
                text: line.to_owned(),
                expected: "first address, last address and flags",
            }),
        }
    });
    lines.collect()
}

fn bars(resources: &[Resource]) -> Vec<HostBar> {
    const PREFETCH: u64 = 0x2000;
    const MEMORY_64: u64 = 0x10_0000;

    let present = (0..).zip(resources).take(ROM).filter(|(_, resource)| resource.size() > 0);
    present
        .map(|(index, resource)| {
            let prefetchable = resource.flags & PREFETCH != 0;
            let kind = if resource.flags & IO != 0 {
                BarKind::Io
            } else if resource.flags & MEMORY_64 != 0 {
                BarKind::Memory64 { prefetchable }
            } else {
                BarKind::Memory32 { prefetchable }
            };
            HostBar { index, kind, size: resource.size() }
        })
        .collect()
}

/// Size of the MSI-X table in `config` (PCI Local Bus 3.0, section 6.8.2.3); `None` when the bytes
/// end before the capabilities do, as for users other than root.
fn msix_vectors(config: &[u8]) -> Option<u16> {
    /// Every function has a header of as many bytes, and everybody may read it.
    const HEADER: usize = 0x40;
    const CONTROL: u16 = 2;

    if config.len() <= HEADER && read_u16(config, STATUS) & STATUS_CAPABILITY_LIST != 0 {
        return None;
    }
    let table = capabilities(config).into_iter().find(|found| found.id == CAP_MSIX);
    Some(table.map_or(0, |table| (read_u16(config, table.offset + CONTROL) & 0x7ff) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header whose list holds PM at 0x40 and MSI-X at 0x70.
    fn config() -> Vec<u8> {
        let mut config = vec![0; 256];
        config[0x06] = 0x10;
        config[0x34] = 0x40;
        config[0x40..0x42].copy_from_slice(&[0x01, 0x70]);
        config[0x70..0x74].copy_from_slice(&[0x11, 0x00, 0x09, 0x80]);
        config
    }

    #[test]
    fn a_virtual_function_needs_a_token_only_while_vfio_has_its_physical_one() {
        use crate::host::tree::{Entry, Tree};

        let vf: HostBdf = "0000:41:10.0".parse().expect("an address");
        let with = |driver: &str| {
            let mut tree = Tree::default();
            let link = |to: String| Entry::Link(to.into());
            let folder = "sys/bus/pci/devices";
            tree.insert(
                format!("{folder}/{vf}/physfn").as_ref(),
                link("../0000:41:00.0".to_owned()),
            );
            let of_physical = format!("{folder}/0000:41:00.0/driver");
            tree.insert(of_physical.as_ref(), link(format!("../../drivers/{driver}")));
            tree.insert(
                format!("sys/bus/pci/drivers/{driver}/x").as_ref(),
                Entry::File(Vec::new()),
            );
            unfit(&Root::of(tree), vf, &[], &[])
        };
        let physical = "0000:41:00.0".parse().expect("an address");
        assert_eq!(with("vfio-pci"), [Unfit::TokenNeeded { physical }]);
        assert_eq!(with("pci-pf-stub"), []);
        assert_eq!(with("igb"), []);
    }

    #[test]
    fn what_keeps_a_function_from_working_is_told() {
        let root = Root::of(crate::host::tree::Tree::default());
        let nic = "0000:41:00.0".parse().expect("an address");
        let of = |config: &[u8], resources: &[Resource]| unfit(&root, nic, config, resources);
        let bar = |flags| Resource { first: 0, last: 0xfff, flags };
        assert_eq!(of(&config(), &[bar(MEMORY)]), []);
        let resources = [bar(MEMORY), bar(MEMORY | UNSET)];
        assert_eq!(of(&config(), &resources), [Unfit::BarUnassigned { bar: 1, size: 4096 }]);
        // A BAR that is not there needs no address.
        assert_eq!(of(&config(), &[bar(UNSET)]), []);
        assert_eq!(of(&[0xff; 64], &[]), [Unfit::Unreachable]);
        // A virtual function's vendor and device read ones.
        let mut virtual_function = config();
        virtual_function[..4].fill(0xff);
        assert_eq!(of(&virtual_function, &[]), []);
        assert_eq!(of(&[], &[]), []);
    }

    #[test]
    fn finds_the_msix_table() {
        assert_eq!(msix_vectors(&config()), Some(10));
    }

    #[test]
    fn what_users_other_than_root_see_leaves_the_table_unknown() {
        assert_eq!(msix_vectors(&config()[..64]), None);
    }

    #[test]
    fn a_cyclic_list_ends() {
        let mut config = config();
        config[0x41] = 0x40;
        assert_eq!(msix_vectors(&config), Some(0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked(config in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(vectors) = msix_vectors(&config) {
                prop_assert!(vectors <= 2048);
            }
        }
    }
}
