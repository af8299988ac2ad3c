//! Walks the tables as a guest does: by pointers, lengths and checksums.

use super::*;

const START: GuestAddress = GuestAddress(layout::ACPI_TABLES.start);

fn roots() -> Vec<PciRoot> {
    vec![
        PciRoot { buses: 0..=0x7f, ..PciRoot::only(255, Some(0x10_0000_0000..0x20_0000_0000)) },
        PciRoot {
            buses: 0x80..=0xff,
            io: None,
            window32: None,
            window64: Some(0x20_0000_0000..0x30_0000_0000),
            proximity_domain: Some(1),
        },
    ]
}

fn tables(vcpus: u32, numa: Option<&Numa>) -> AcpiTables {
    let apic_ids: Vec<u32> = (0..vcpus).collect();
    let config = AcpiConfig { apic_ids: &apic_ids, roots: &roots(), numa };
    AcpiTables::new(&config, START)
}

fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    let bytes = &bytes[offset..offset + size];
    bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

impl AcpiTables {
    /// The table at a guest address, with its length and checksum verified.
    fn at(&self, address: u64) -> &[u8] {
        let offset = (address - self.start.0) as usize;
        let length = number(&self.bytes, offset + 4, 4) as usize;
        let table = &self.bytes[offset..offset + length];
        let name = String::from_utf8_lossy(&table[..4]).into_owned();
        // The FACS has no checksum.
        assert!(name == "FACS" || sum(table) == 0, "checksum of {name}");
        table
    }

    fn find(&self, signature: &[u8; 4]) -> Option<&[u8]> {
        assert_eq!(&self.bytes[..8], b"RSD PTR ");
        assert_eq!((sum(&self.bytes[..20]), sum(&self.bytes[..36])), (0, 0));
        let xsdt = self.at(number(&self.bytes, 24, 8));
        assert_eq!(&xsdt[..4], b"XSDT");
        let mut tables = xsdt[36..].chunks(8).map(|entry| self.at(number(entry, 0, 8)));
        tables.find(|table| &table[..4] == signature)
    }
}

/// Structures of a table: type and bytes.
fn structures(table: &[u8], offset: usize) -> Vec<(u8, &[u8])> {
    let mut rest = &table[offset..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (structure, after) = rest.split_at(rest[1].into());
        found.push((structure[0], structure));
        rest = after;
    }
    found
}

#[test]
fn fadt_points_to_facs_and_dsdt() {
    let tables = tables(2, None);
    let fadt = tables.find(b"FACP").expect("FADT");
    assert_eq!(fadt.len(), 276);
    let facs = number(fadt, 36, 4);
    assert_eq!(facs % 64, 0);
    assert_eq!(&tables.at(facs)[..4], b"FACS");
    assert_eq!(number(fadt, 40, 4), number(fadt, 140, 8));
    assert_eq!(&tables.at(number(fadt, 140, 8))[..4], b"DSDT");
    assert_eq!(number(fadt, 46, 2), 9);
    assert_eq!(number(fadt, 48, 4), 0, "no SMI command port");
    // Fixed power button, no sleep button, reset register, not hardware-reduced.
    let flags = number(fadt, 112, 4);
    assert_eq!((flags >> 4 & 1, flags >> 5 & 1), (0, 1));
    assert_eq!((flags >> 10 & 1, flags >> 20 & 1), (1, 0));
    assert_eq!(number(fadt, 109, 2), 0b11_0100);
    assert_eq!((fadt[116], number(fadt, 120, 8), fadt[128]), (1, 0xcf9, 6));
}

#[test]
fn madt_lists_every_vcpu_once() {
    let tables = tables(300, None);
    let madt = tables.find(b"APIC").expect("MADT");
    let mut seen = Vec::new();
    for (kind, bytes) in structures(madt, 44) {
        match kind {
            0 => seen.push((u64::from(bytes[2]), u64::from(bytes[3]))),
            9 => seen.push((number(bytes, 12, 4), number(bytes, 4, 4))),
            1 => assert_eq!(number(bytes, 4, 4), layout::IO_APIC),
            2 => assert_eq!((bytes[3], number(bytes, 4, 4), bytes[8]), (9, 9, 5)),
            4 | 10 => assert!(bytes.contains(&1)),
            other => panic!("structure of type {other}"),
        }
    }
    let expected: Vec<(u64, u64)> = (0..300).map(|id| (id, id)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn mcfg_covers_segment_0() {
    let tables = tables(1, None);
    let mcfg = tables.find(b"MCFG").expect("MCFG");
    assert_eq!(number(mcfg, 44, 8), layout::ECAM.start);
    assert_eq!((number(mcfg, 52, 2), mcfg[54], mcfg[55]), (0, 0, 255));
}

#[test]
fn srat_only_with_domains() {
    assert!(tables(2, None).find(b"SRAT").is_none());
    let numa = Numa {
        vcpus: vec![0, 1],
        memory: vec![(0..layout::GIB, 0), (4 * layout::GIB..6 * layout::GIB, 1)],
        initiators: vec![(0x0100, 1), (0x8100, 2)],
    };
    let tables = tables(2, Some(&numa));
    let srat = tables.find(b"SRAT").expect("SRAT");
    let structures = structures(srat, 48);
    let (kind, memory) = structures[1];
    assert_eq!((kind, number(memory, 2, 4), number(memory, 28, 4)), (1, 1, 1));
    assert_eq!(number(memory, 8, 8), 4 * layout::GIB);
    assert_eq!(number(memory, 16, 8), 2 * layout::GIB);
    let (kind, vcpu) = structures[3];
    assert_eq!((kind, number(vcpu, 4, 4), number(vcpu, 8, 4)), (2, 1, 1));
    // The domain that nothing else speaks of.
    let (kind, initiator) = structures[4];
    assert_eq!(
        (kind, initiator[3], number(initiator, 4, 4), number(initiator, 24, 4)),
        (5, 1, 2, 1)
    );
    assert_eq!((structures.len(), initiator[10], initiator[11]), (5, 0x81, 0));
}

#[test]
fn dsdt_names_every_device() {
    let tables = tables(3, None);
    let fadt = tables.find(b"FACP").expect("FADT");
    let dsdt = tables.at(number(fadt, 40, 4));
    let has = |name: &[u8]| dsdt.windows(name.len()).any(|window| window == name);
    for name in ["MBRD", "COM1", "PCI0", "PC01", "_OSC", "_PRT", "_PXM", "_S5_", "C002"] {
        assert!(has(name.as_bytes()), "{name}");
    }
    assert!(!has(b"C003"));
}

#[test]
fn largest_machine_fits_its_place() {
    let room = layout::ACPI_TABLES.end - layout::ACPI_TABLES.start;
    assert!(tables(1024, None).bytes.len() as u64 <= room);
}
