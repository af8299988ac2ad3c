//! ACPI tables: what the guest is told about its machine.
//!
//! The machine has fixed ACPI hardware (no "hardware-reduced" mode), because its power button then
//! needs nothing but the PM1a event block: no GPIO, no AML event method, no polling. Everything
//! else that old PCs have is declared absent, so that guests do not look for it.
//!
//! Section numbers are those of ACPI 6.5.

mod description;
mod dsdt;
mod madt;
mod srat;
mod table;

use std::ops::Range;

use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::GuestAddress;

pub use self::description::{AcpiConfig, Numa, PciRoot};
use self::table::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, serialize};
use super::layout;

/// All tables, ready to be written to guest memory as one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// Where the RSDP is; boot protocols pass this address on.
    pub rsdp: GuestAddress,
    /// Where [`bytes`](Self::bytes) belongs.
    pub start: GuestAddress,
    /// The tables with all checksums and pointers in place.
    pub bytes: Vec<u8>,
}

impl AcpiTables {
    /// Builds the tables for `start`, which is a multiple of 64 below 4 GiB; usually the start of
    /// [`layout::ACPI_TABLES`].
    ///
    /// # Panics
    /// If `numa` does not have one domain per vCPU, or if `start` is out of its range: both are
    /// mistakes in the program.
    #[must_use]
    pub fn new(config: &AcpiConfig<'_>, start: GuestAddress) -> Self {
        if let Some(numa) = config.numa {
            let vcpus = config.apic_ids.len();
            assert_eq!(numa.vcpus.len(), vcpus, "one proximity domain per vCPU");
        }
        assert_eq!(start.0 % 64, 0, "the FACS needs 64-byte alignment");
        assert!(start.0 < 1 << 31, "the FADT has 32-bit pointers");

        // The RSDP comes first, but its pointer is known last.
        let mut blob = Blob::new(start.0, Rsdp::len());
        let facs = blob.push(&facs());
        let dsdt = blob.push(&dsdt(config));
        let mut tables = vec![
            blob.push(&fadt(facs, dsdt)),
            blob.push(&madt::madt(config.apic_ids)),
            blob.push(&mcfg(config.roots)),
        ];
        if let Some(numa) = config.numa {
            tables.push(blob.push(&srat::srat(config.apic_ids, numa)));
        }
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        for table in tables {
            xsdt.add_entry(table);
        }
        let xsdt = blob.push(&serialize(&xsdt));
        let rsdp = serialize(&Rsdp::new(OEM_ID, xsdt));
        blob.bytes[..rsdp.len()].copy_from_slice(&rsdp);

        Self { rsdp: start, start, bytes: blob.bytes }
    }

    /// Guest physical addresses that the tables take.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start.0..self.start.0 + self.bytes.len() as u64
    }
}

/// Tables one behind the other. 64-byte steps: the FACS needs them (section 5.2.10).
struct Blob {
    start: u64,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(start: u64, reserved: usize) -> Self {
        let bytes = vec![0; reserved];
        Self { start, bytes }
    }

    /// Appends a table; returns its guest address.
    fn push(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let address = self.start + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }
}

/// Nothing sleeps and there is no firmware to share a lock with; still, fixed hardware has a FACS
/// (section 5.2.10).
fn facs() -> Vec<u8> {
    let mut facs = FACS::new();
    facs.version = 2;
    serialize(&facs)
}

fn dsdt(config: &AcpiConfig<'_>) -> Vec<u8> {
    // Revision 2: integers have 64 bits.
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&dsdt::definition_block(config));
    table.as_slice().to_vec()
}

/// Fixed hardware (section 5.2.9).
fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    /// IA-PC boot architecture (section 5.2.9.3). Legacy devices and an 8042 are absent because
    /// their bits, 0 and 1, are clear; COM1 is found in the DSDT.
    const VGA_NOT_PRESENT: u16 = 1 << 2;
    /// Links belong to the host: a guest must not put them to sleep.
    const NO_ASPM_CONTROL: u16 = 1 << 4;
    /// Otherwise guests poll ports 0x70 and 0x71 for a clock that never ticks.
    const NO_CMOS_RTC: u16 = 1 << 5;
    /// More than 100 us says that there is no C2, more than 1,000 us that there is no C3.
    const NO_SUCH_C_STATE: u16 = 0xffff;

    let io = |port: u16, bits: u8, access| {
        GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(port))
    };

    // PWR_BUTTON stays clear: there is a fixed power button. SMI_CMD stays 0: the machine is in
    // ACPI mode from the start (section 4.8.2.5).
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    let pointer = |table: u64| u32::try_from(table).expect("tables lie below 4 GiB");
    // A 32-bit and a 64-bit FACS pointer exclude each other; the DSDT may have both.
    fadt.firmware_ctrl = pointer(facs).into();
    fadt.dsdt = pointer(dsdt).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(layout::SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(layout::PM1A_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = io(layout::PM1A_EVENT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(layout::PM1A_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = io(layout::PM1A_CONTROL, 16, AccessSize::WordAccess);
    fadt.p_lvl2_lat = NO_SUCH_C_STATE.into();
    fadt.p_lvl3_lat = NO_SUCH_C_STATE.into();
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | NO_ASPM_CONTROL | NO_CMOS_RTC).into();
    fadt.reset_reg = io(layout::RESET_PORT, 8, AccessSize::ByteAccess);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"BERTH\0\0\0").into();
    serialize(&fadt.finalize())
}

/// Configuration space of segment 0, for the buses that the roots have (PCI firmware
/// specification 3.3, section 4.1.2).
fn mcfg(roots: &[PciRoot]) -> Vec<u8> {
    let last_bus = roots.iter().map(|root| *root.buses.end()).max().unwrap_or(0);
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM.start, 0, 0, last_bus);
    serialize(&mcfg)
}

#[cfg(test)]
mod tests;
