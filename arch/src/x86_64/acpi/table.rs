//! What every table carries, and how the library's tables become bytes.

use acpi_tables::Aml;

pub(super) const OEM_ID: [u8; 6] = *b"BERTH ";
pub(super) const OEM_TABLE_ID: [u8; 8] = *b"BERTHVM ";
pub(super) const OEM_REVISION: u32 = 1;

/// The bytes of a table, its checksum in place.
pub(super) fn serialize(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}
