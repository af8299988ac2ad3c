//! The SRAT: proximity domains of memory and vCPUs (section 5.2.16).

use acpi_tables::sdt::Sdt;
use acpi_tables::srat::{MemoryAffinity, SRAT};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Numa, OEM_ID, OEM_REVISION, OEM_TABLE_ID, serialize};

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
    srat.as_slice().to_vec()
}
