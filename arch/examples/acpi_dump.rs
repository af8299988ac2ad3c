//! Writes the ACPI tables of two machines to `FOLDER/MACHINE/SIGNATURE.aml`, for `iasl` to read.
//!
//! The tables are found as a guest finds them, from the RSDP on.

use std::error::Error;
use std::fs;
use std::path::Path;

use berth_arch::acpi::{AcpiConfig, AcpiTables, Numa, PciRoot};
use berth_arch::layout;
use vm_memory::GuestAddress;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: acpi_dump FOLDER")?;
    let window64 = 4 * layout::GIB..256 * layout::GIB;

    let usual = AcpiConfig {
        apic_ids: &[0, 1],
        roots: &[PciRoot::only(0, Some(window64.clone()))],
        numa: None,
    };
    write(&Path::new(&folder).join("usual"), &usual)?;

    // APIC IDs beyond 8 bits, two host bridges, two proximity domains.
    let apic_ids: Vec<u32> = (0..300).collect();
    let second = PciRoot {
        buses: 0x80..=0xff,
        io: None,
        window32: None,
        window64: Some(window64.end..2 * window64.end),
        proximity_domain: Some(1),
    };
    let large = AcpiConfig {
        apic_ids: &apic_ids,
        roots: &[PciRoot::only(0x7f, Some(window64)), second],
        numa: Some(&Numa {
            vcpus: apic_ids.iter().map(|id| id % 2).collect(),
            memory: vec![(0..layout::GIB, 0), (4 * layout::GIB..6 * layout::GIB, 1)],
            initiators: vec![(0x8000, 1)],
        }),
    };
    write(&Path::new(&folder).join("large"), &large)
}

fn write(folder: &Path, config: &AcpiConfig<'_>) -> Result<(), Box<dyn Error>> {
    let tables = AcpiTables::new(config, GuestAddress(layout::ACPI_TABLES.start));
    fs::create_dir_all(folder)?;
    // Offsets: ACPI 6.5, sections 5.2.5.3 (RSDP), 5.2.6 (header), 5.2.8 (XSDT), 5.2.9 (FADT).
    let xsdt = table(&tables, number(&tables.bytes[24..32]));
    let mut found = vec![xsdt];
    for entry in xsdt[36..].chunks(8) {
        let listed = table(&tables, number(entry));
        found.push(listed);
        if listed.starts_with(b"FACP") {
            found.push(table(&tables, number(&listed[36..40])));
            found.push(table(&tables, number(&listed[40..44])));
        }
    }
    for table in found {
        let name = format!("{}.aml", String::from_utf8_lossy(&table[..4]));
        fs::write(folder.join(name), table)?;
    }
    Ok(())
}

/// The table at a guest address, as long as its header says.
fn table(tables: &AcpiTables, address: u64) -> &[u8] {
    let bytes = &tables.bytes[(address - tables.start.0) as usize..];
    &bytes[..number(&bytes[4..8]) as usize]
}

/// Up to eight bytes, little-endian.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
