//! The SRAT: proximity domains of memory, vCPUs and devices (section 5.2.16).

use acpi_tables::sdt::Sdt;
use acpi_tables::srat::{MemoryAffinity, SRAT};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::description::Numa;
use super::table::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, serialize};

#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
#[repr(C, packed)]
struct X2ApicAffinity {
    kind: u8,
    length: u8,
    reserved: U16,
    proximity_domain: U32,
    apic_id: U32,
    flags: U32,
    clock_domain: U32,
    reserved2: U32,
}

/// A PCI function that starts memory accesses (section 5.2.16.6).
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
#[repr(C, packed)]
struct GenericInitiatorAffinity {
    kind: u8,
    length: u8,
    reserved: u8,
    handle_kind: u8,
    proximity_domain: U32,
    pci_segment: U16,
    /// Bus in the first byte, device and function in the second.
    pci_bdf: [u8; 2],
    reserved2: [u8; 12],
    flags: U32,
    reserved3: U32,
}

/// Builds the table. Only the x2APIC form for vCPUs: it serves every APIC ID.
pub(super) fn srat(apic_ids: &[u32], numa: &Numa) -> Vec<u8> {
    const ENABLED: u32 = 1;

    let mut memory = SRAT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for (range, domain) in &numa.memory {
        let size = range.end - range.start;
        memory.add_memory_affinity(MemoryAffinity::new(*domain, range.start, size).enabled());
    }
    // The library's SRAT takes no APIC structures: append them to its bytes.
    let memory = serialize(&memory);
    let mut srat = Sdt::new(*b"SRAT", 36, 3, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    srat.append_slice(&memory[36..]);
    for (&apic_id, &domain) in apic_ids.iter().zip(&numa.vcpus) {
        srat.append(X2ApicAffinity {
            kind: 2,
            length: 24,
            reserved: 0.into(),
            proximity_domain: domain.into(),
            apic_id: apic_id.into(),
            flags: ENABLED.into(),
            clock_domain: 0.into(),
            reserved2: 0.into(),
        });
    }
    // Kernels forget a domain with neither memory nor CPUs, and then take its devices for being
    // anywhere (`acpi_parse_gi_affinity` in Linux's drivers/acpi/numa/srat.c).
    let known = |domain: u32| {
        numa.vcpus.contains(&domain) || numa.memory.iter().any(|(_, other)| *other == domain)
    };
    for &(bdf, domain) in numa.initiators.iter().filter(|(_, domain)| !known(*domain)) {
        srat.append(GenericInitiatorAffinity {
            kind: 5,
            length: 32,
            reserved: 0,
            handle_kind: 1,
            proximity_domain: domain.into(),
            pci_segment: 0.into(),
            pci_bdf: bdf.to_be_bytes(),
            reserved2: [0; 12],
            flags: ENABLED.into(),
            reserved3: 0.into(),
        });
    }
    srat.as_slice().to_vec()
}
