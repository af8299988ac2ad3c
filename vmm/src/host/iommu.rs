//! The IOMMU: whether there is one, whether it is on, and how it groups functions.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use berth_devices::pci::Bdf;
use serde::Serialize;

use super::HostError;
use super::root::Root;

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
    /// Width of the addresses that all units translate, in bits, where known.
    pub address_bits: Option<u8>,
    /// Whether interrupts are remapped; `None` when /proc/interrupts cannot be seen.
    pub interrupt_remapping: Option<bool>,
    /// Whether vfio_iommu_type1 was told to do without interrupt remapping.
    pub unsafe_interrupts: bool,
    /// The kernel's command line.
    pub kernel_cmdline: String,
    /// Groups of the functions that the profile covers.
    pub groups: BTreeMap<u32, IommuGroup>,
}

/// Functions that the IOMMU cannot tell apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IommuGroup {
    /// PCI functions of the group.
    pub members: Vec<Bdf>,
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

impl Iommu {
    pub(super) fn read(root: &Root) -> Result<Self, HostError> {
        let units = root.names(UNITS)?;
        // Some hosts show the tables to root only; not to know is no error.
        let tables = root.names("/sys/firmware/acpi/tables").unwrap_or_default();
        let described = tables.iter().any(|name| name == "DMAR" || name == "IVRS");
        Ok(Self {
            address_bits: address_bits(root, &units)?,
            in_firmware: (!tables.is_empty()).then_some(described),
            interrupt_remapping: interrupt_remapping(root)?,
            unsafe_interrupts: root
                .text("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts")?
                .is_some_and(|value| value == "Y"),
            kernel_cmdline: root.text("/proc/cmdline")?.unwrap_or_default(),
            groups: BTreeMap::new(),
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

/// The narrowest of Intel's units: MGAW, bits 21:16 of the capability register, is the width less
/// one (VT-d specification, section 11.4.2). AMD's units are as wide as its CPUs.
fn address_bits(root: &Root, units: &[String]) -> Result<Option<u8>, HostError> {
    let mut narrowest = None;
    for unit in units {
        if let Some(capability) = root.hex(format!("{UNITS}/{unit}/intel-iommu/cap"))? {
            let bits = (capability >> 16 & 0x3f) as u8 + 1;
            narrowest = Some(narrowest.map_or(bits, |other: u8| other.min(bits)));
        }
    }
    Ok(narrowest)
}

/// The kernel puts `IR-` before the names of interrupt chips behind a remapping unit, as in
/// `IR-PCI-MSI` and `IR-IO-APIC`.
fn interrupt_remapping(root: &Root) -> Result<Option<bool>, HostError> {
    // The first lines are the IO-APIC's, and a large host has thousands, wide as its CPUs.
    let Some(head) = root.head("/proc/interrupts", 256 << 10)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&head);
    Ok(Some(text.split_ascii_whitespace().any(|word| word.starts_with("IR-"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relaxable_regions_leave_ram_alone() {
        let region = |kind: &str| ReservedRegion { range: 0..=0xfff, kind: kind.to_owned() };
        assert!(!region("direct-relaxable").excludes_ram());
        for kind in ["direct", "msi", "reserved"] {
            assert!(region(kind).excludes_ram(), "{kind}");
        }
    }
}
