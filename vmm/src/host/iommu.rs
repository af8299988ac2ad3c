//! The IOMMU: whether there is one, whether it is on, and how it groups functions.

use std::ops::RangeInclusive;

use berth_devices::pci::HostBdf;
use serde::Serialize;

use super::root::Root;
use super::{CpuVendor, HostError};

const UNITS: &str = "/sys/class/iommu";
const GROUPS: &str = "/sys/kernel/iommu_groups";

/// The host's IOMMUs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Iommu {
    /// Units that the kernel runs, such as `dmar0` or `ivhd0`.
    pub units: Vec<String>,
    /// Whether the firmware describes any (ACPI table DMAR or IVRS); `None` when that cannot be
    /// seen.
    pub in_firmware: Option<bool>,
    /// Whose IOMMU the firmware describes: a virtual machine has either maker's beside any CPU.
    pub vendor: Option<CpuVendor>,
    /// Width of the addresses that the units in front of the config's devices translate, in bits,
    /// where known.
    pub address_bits: Option<u8>,
    /// Whether interrupts are remapped; `None` when /proc/interrupts cannot be seen.
    pub interrupt_remapping: Option<bool>,
    /// Whether vfio_iommu_type1 was told to do without interrupt remapping.
    pub unsafe_interrupts: bool,
    /// Whether iommufd was told to do without interrupt remapping.
    pub unsafe_interrupts_iommufd: bool,
}

/// Functions that the IOMMU cannot tell apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IommuGroup {
    /// PCI functions of the group.
    pub members: Vec<HostBdf>,
    /// Addresses the group's functions cannot use for DMA, in address order.
    pub reserved: Vec<ReservedRegion>,
}

/// Bus addresses that DMA cannot use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReservedRegion {
    /// First and last address.
    pub range: RangeInclusive<u64>,
    /// The kernel's word for it: `reserved`, `msi`, `direct` or `direct-relaxable`.
    pub kind: String,
}

impl ReservedRegion {
    /// Whether guest RAM must stay away. VFIO lets go of `direct-relaxable`, which is what
    /// firmware sets up for USB keyboards and graphics before an OS drives them.
    pub fn excludes_ram(&self) -> bool {
        self.kind != "direct-relaxable"
    }
}

impl IommuGroup {
    /// Whether its reserved regions were seen: the window of the interrupts is among them on every
    /// x86-64 host (`intel_iommu_get_resv_regions`, `amd_iommu_get_resv_regions`).
    pub fn is_seen(&self) -> bool {
        !self.reserved.is_empty()
    }
}

impl Iommu {
    pub(super) fn read(root: &Root) -> Result<Self, HostError> {
        let units = root.names(UNITS)?;
        // Some hosts show the tables to root only; not to know is no error.
        let tables = root.names("/sys/firmware/acpi/tables").unwrap_or_default();
        let vendor = if tables.iter().any(|name| name == "DMAR") {
            Some(CpuVendor::Intel)
        } else {
            tables.iter().any(|name| name == "IVRS").then_some(CpuVendor::Amd)
        };
        let allowed = |module: &str| {
            let file = format!("/sys/module/{module}/parameters/allow_unsafe_interrupts");
            root.text(file).map(|value| value.is_some_and(|value| value == "Y"))
        };
        Ok(Self {
            address_bits: None,
            in_firmware: (!tables.is_empty()).then_some(vendor.is_some()),
            vendor,
            interrupt_remapping: interrupt_remapping(root)?,
            unsafe_interrupts: allowed("vfio_iommu_type1")?,
            unsafe_interrupts_iommufd: allowed("iommufd")?,
            units,
        })
    }
}

impl IommuGroup {
    pub(super) fn read(root: &Root, group: u32) -> Result<Self, HostError> {
        let folder = format!("{GROUPS}/{group}");
        let members = root.names(format!("{folder}/devices"))?;
        let path = format!("{folder}/reserved_regions");
        let mut reserved = Vec::new();
        for line in root.text(&path)?.unwrap_or_default().lines() {
            // "0x00000000fee00000 0x00000000feefffff msi"
            let mut words = line.split_whitespace();
            let mut address = || {
                let digits = words.next()?.strip_prefix("0x")?;
                u64::from_str_radix(digits, 16).ok()
            };
            match (address(), address(), words.next()) {
                (Some(first), Some(last), Some(kind)) => {
                    reserved.push(ReservedRegion { range: first..=last, kind: kind.to_owned() })
                }
                _ => {
                    return Err(HostError::Malformed {
                        path: root.path(path),
                        text: line.to_owned(),
                        expected: "first address, last address and kind",
                    });
                }
            }
        }
        reserved.sort_by_key(|region| *region.range.start());
        Ok(Self {
            // What is no PCI function (a platform device) does no DMA behind a PCI IOMMU group.
            members: members.iter().filter_map(|name| name.parse().ok()).collect(),
            reserved,
        })
    }
}

/// What the narrowest of `units` translates. Of the rest no width is known: AMD's page tables have
/// four levels at least, 48 bits, which is more than guests use.
///
/// The kernel takes Intel's for as wide as the deepest page tables that they walk, and no wider than
/// they say (`paging_domain_alloc` in drivers/iommu/intel/iommu.c): VFIO then tells the same range.
pub(super) fn address_bits<'a>(
    root: &Root,
    units: impl Iterator<Item = &'a str>,
) -> Result<Option<u8>, HostError> {
    let mut narrowest = None;
    for unit in units {
        if let Some(capability) = root.hex(format!("{UNITS}/{unit}/intel-iommu/cap"))? {
            let bits = vtd_address_bits(capability);
            narrowest = Some(narrowest.map_or(bits, |other: u8| other.min(bits)));
        }
    }
    Ok(narrowest)
}

/// Width from the capability register (VT-d specification, section 11.4.2): MGAW, bits 21:16, is
/// the width less one; SAGAW, bits 12:8, has a bit for tables of 3, 4 and 5 levels.
fn vtd_address_bits(capability: u64) -> u8 {
    let mgaw = (capability >> 16 & 0x3f) as u8 + 1;
    let tables = [(1 << 11, 57), (1 << 10, 48), (1 << 9, 39)];
    let deepest = tables.into_iter().find(|(bit, _)| capability & bit != 0);
    deepest.map_or(mgaw, |(_, bits)| mgaw.min(bits))
}

/// What the kernel calls interrupt chips behind a remapping unit (arch/x86/kernel/apic/io_apic.c
/// and msi.c, drivers/iommu). Names of devices, which may begin alike, stand in the same lines.
const REMAPPED: [&str; 3] = ["IR-IO-APIC", "IR-PCI-MSI", "IR-HPET-MSI"];

fn interrupt_remapping(root: &Root) -> Result<Option<bool>, HostError> {
    // The first lines are the IO-APIC's, and a large host has thousands, wide as its CPUs.
    let Some(head) = root.head("/proc/interrupts", 256 << 10)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&head);
    let is_remapped = |word: &str| REMAPPED.iter().any(|chip| word.starts_with(chip));
    Ok(Some(text.split_ascii_whitespace().any(is_remapped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_as_wide_as_its_page_tables() {
        // A server's, 4 levels; QEMU's with aw-bits=39, then 48; one that could pass on 48 bits and
        // walks 3 levels.
        for (capability, bits) in [
            (0x08d2_078c_106f_0466, 48),
            (0x00d2_008c_2226_0286, 39),
            (0x00d2_008c_222f_0686, 48),
            (0x00d2_008c_222f_0286, 39),
        ] {
            assert_eq!(vtd_address_bits(capability), bits, "{capability:#x}");
        }
    }

    #[test]
    fn relaxable_regions_leave_ram_alone() {
        let region = |kind: &str| ReservedRegion { range: 0..=0xfff, kind: kind.to_owned() };
        assert!(!region("direct-relaxable").excludes_ram());
        for kind in ["direct", "msi", "reserved"] {
            assert!(region(kind).excludes_ram(), "{kind}");
        }
    }
}
