//! The memory map that boot protocols hand to the guest.

use std::ops::Range;

use super::super::acpi::AcpiTables;
use super::super::layout;

/// Kinds of memory, by their numbers in e820 and in PVH's map, which agree (ACPI 6.5, table 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ram = 1,
    Reserved = 2,
    Acpi = 3,
}

/// One entry; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) range: Range<u64>,
    pub(super) kind: Kind,
}

/// The map, in address order. ECAM must be in it: Linux believes the MCFG early only if e820
/// reserves the range (`pci_mmcfg_reserved`, `arch/x86/pci/mmconfig-shared.c`).
pub(super) fn memory_map(ram: &[Range<u64>], tables: &AcpiTables) -> Vec<Entry> {
    let mut map = Vec::new();
    let mut add = |range: Range<u64>, kind| {
        if !range.is_empty() {
            map.push(Entry { range, kind });
        }
    };
    for region in ram {
        add(region.start..region.end.min(layout::CONVENTIONAL_END), Kind::Ram);
        add(region.start.max(layout::HIGH_MEMORY)..region.end, Kind::Ram);
    }
    let tables = tables.range();
    add(tables.start..tables.end.next_multiple_of(super::PAGE), Kind::Acpi);
    add(layout::ECAM, Kind::Reserved);
    add(layout::KVM_RESERVED, Kind::Reserved);
    map.sort_by_key(|entry| entry.range.start);
    map
}
