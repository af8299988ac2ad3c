//! The MADT: interrupt controllers and vCPUs (section 5.2.12).

use acpi_tables::sdt::Sdt;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::super::layout;
use super::table::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};

/// Largest APIC ID that 8-bit structures can carry: 255 means "all" there.
const LAST_XAPIC_ID: u8 = 254;

#[derive(IntoBytes, FromBytes, Immutable)]
#[repr(C, packed)]
struct LocalApic {
    kind: u8,
    length: u8,
    processor_uid: u8,
    apic_id: u8,
    flags: U32,
}

#[derive(IntoBytes, FromBytes, Immutable)]
#[repr(C, packed)]
struct LocalX2Apic {
    kind: u8,
    length: u8,
    reserved: U16,
    apic_id: U32,
    flags: U32,
    processor_uid: U32,
}

#[derive(IntoBytes, FromBytes, Immutable)]
#[repr(C, packed)]
struct IoApic {
    kind: u8,
    length: u8,
    id: u8,
    reserved: u8,
    address: U32,
    first_gsi: U32,
}

#[derive(IntoBytes, FromBytes, Immutable)]
#[repr(C, packed)]
struct SourceOverride {
    kind: u8,
    length: u8,
    bus: u8,
    irq: u8,
    gsi: U32,
    flags: U16,
}

#[derive(IntoBytes, FromBytes, Immutable)]
#[repr(C, packed)]
struct LocalApicNmi {
    kind: u8,
    length: u8,
    processor_uid: u8,
    flags: U16,
    lint: u8,
}

#[derive(IntoBytes, FromBytes, Immutable)]
#[repr(C, packed)]
struct LocalX2ApicNmi {
    kind: u8,
    length: u8,
    flags: U16,
    processor_uid: U32,
    lint: u8,
    reserved: [u8; 3],
}

/// Builds the table; the position of an APIC ID is its processor UID.
///
/// No override for IRQ 0: KVM's default routes, which the VMM keeps, connect every GSI to the I/O
/// APIC's pin of the same number (`arch/x86/kvm/irq_comm.c`). QEMU's override to GSI 2 goes with
/// QEMU's own routes.
pub(super) fn madt(apic_ids: &[u32]) -> Vec<u8> {
    const ENABLED: u32 = 1;
    const PCAT_COMPAT: u32 = 1;
    const EDGE_ACTIVE_HIGH: u16 = 0b01 << 2 | 0b01;

    let mut madt = Sdt::new(*b"APIC", 36, 5, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.append(U32::new(low(layout::LOCAL_APIC)));
    // KVM's in-kernel interrupt controllers include the two 8259s.
    madt.append(U32::new(PCAT_COMPAT));
    for (uid, &apic_id) in (0u32..).zip(apic_ids) {
        let xapic = |id: u32| u8::try_from(id).ok().filter(|id| *id <= LAST_XAPIC_ID);
        if let (Some(processor_uid), Some(apic_id)) = (xapic(uid), xapic(apic_id)) {
            let flags = ENABLED.into();
            madt.append(LocalApic { kind: 0, length: 8, processor_uid, apic_id, flags });
        } else {
            madt.append(LocalX2Apic {
                kind: 9,
                length: 16,
                reserved: 0.into(),
                apic_id: apic_id.into(),
                flags: ENABLED.into(),
                processor_uid: uid.into(),
            });
        }
    }
    madt.append(IoApic {
        kind: 1,
        length: 12,
        id: 0,
        reserved: 0,
        address: low(layout::IO_APIC).into(),
        first_gsi: 0.into(),
    });
    madt.append(SourceOverride {
        kind: 2,
        length: 10,
        bus: 0,
        irq: layout::SCI_IRQ,
        gsi: layout::SCI_GSI.into(),
        flags: EDGE_ACTIVE_HIGH.into(),
    });
    madt.append(LocalApicNmi { kind: 4, length: 6, processor_uid: 0xff, flags: 0.into(), lint: 1 });
    if apic_ids.iter().any(|&id| id > LAST_XAPIC_ID.into()) {
        madt.append(LocalX2ApicNmi {
            kind: 10,
            length: 12,
            flags: 0.into(),
            processor_uid: u32::MAX.into(),
            lint: 1,
            reserved: [0; 3],
        });
    }
    madt.as_slice().to_vec()
}

/// An address of an interrupt controller.
fn low(address: u64) -> u32 {
    u32::try_from(address).expect("interrupt controllers lie below 4 GiB")
}
