//! Where everything is: guest physical addresses, I/O ports and interrupt numbers.
//!
//! ```text
//! guest physical
//! 0x0000_0000  +----------------------------+
//!              | RAM                        |  0x0500 GDT    0x6000 PVH start info
//!              |                            |  0x7000 zero page    0x8000 PVH memory map
//!              |                            |  0x9000 page tables, 24 KiB
//!              |                            |  0x2_0000 command line, 64 KiB
//! 0x000a_0000  | no RAM for the guest's     |
//! 0x000e_0000  | kernel; ACPI tables here   |
//! 0x0010_0000  | RAM: kernel, initrd        |
//! 0xc000_0000  +----------------------------+ 3 GiB
//!              | PCI, 32-bit BARs           |
//! 0xe000_0000  +----------------------------+
//!              | ECAM, segment 0            |
//! 0xf000_0000  +----------------------------+
//! 0xfec0_0000  | I/O APIC                   |
//! 0xfee0_0000  | local APIC, MSI doorbell   |
//! 0xfffb_c000  | KVM's own 4 pages (Intel)  |
//! 0x1_0000_0000 +---------------------------+ 4 GiB
//!              | RAM, what is left of it    |
//!              +----------------------------+
//!              | PCI, 64-bit BARs           |
//!              +----------------------------+ guest's address width
//!
//! I/O ports
//! 0x03f8..0x0400   COM1
//! 0x0505           pvpanic
//! 0x0600..0x0604   ACPI PM1a event block
//! 0x0604..0x0606   ACPI PM1a control block
//! 0x0cf9           the reset register
//! 0x1000..0x10000  PCI, I/O BARs
//!
//! GSI = I/O APIC pin
//! 4 COM1    9 SCI    16..=19 PCI INTA..INTD
//! ```

use std::ops::Range;

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;

/// One gibibyte, in bytes: the largest leaf of the second-level page tables.
pub const GIB: u64 = 1 << 30;

/// Guest RAM below 4 GiB. Ends on a 1 GiB boundary so that KVM and the IOMMU can map all of it
/// with 1 GiB leaves, and leaves 1 GiB below 4 GiB for devices.
pub const RAM_LOW: Range<u64> = 0..3 * GIB;

/// Guest RAM that does not fit [`RAM_LOW`] goes on here: the first address past the 32-bit hole.
pub const RAM_HIGH_START: u64 = 4 * GIB;

/// Window for 32-bit BARs: the lower half of the hole, 512 MiB.
pub const PCI_WINDOW32: Range<u64> = 0xc000_0000..0xe000_0000;

/// Memory-mapped configuration space of segment 0: 256 buses of 1 MiB each (PCI Express base
/// specification, section 7.2.2). Aligned to its size, as the specification asks.
pub const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;

/// Window for I/O BARs. Starts above every port that the chipset answers.
pub const PCI_IO_WINDOW: Range<u32> = 0x1000..0x1_0000;

/// I/O APIC, 4 KiB. KVM's in-kernel model has no other address.
pub const IO_APIC: u64 = 0xfec0_0000;

/// Local APIC, 4 KiB, and the target of MSI writes. The address every CPU has at reset.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// Page for `KVM_SET_IDENTITY_MAP_ADDR`, also the kernel's default: a call is not needed.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// Three pages for `KVM_SET_TSS_ADDR`, which Intel hosts require (KVM API, section 4.36). Below
/// 4 GiB, outside RAM and outside every PCI window.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// The pages that KVM takes for itself on Intel hosts; the guest's memory map reserves them.
pub const KVM_RESERVED: Range<u64> = KVM_IDENTITY_MAP..KVM_TSS + 0x3000;

/// Global descriptor table at entry. Above the interrupt vectors and the BIOS data area, whose
/// bytes kernels read (`arch/x86/kernel/ebda.c`) and must find zero.
pub const GDT: u64 = 0x500;

/// `hvm_start_info` of the PVH protocol, its module list right behind it in the same page.
pub const PVH_START_INFO: u64 = 0x6000;

/// `boot_params` of the Linux protocol, one page.
pub const ZERO_PAGE: u64 = 0x7000;

/// Memory map of the PVH protocol, one page.
pub const PVH_MEMORY_MAP: u64 = 0x8000;

/// Page tables at entry, [`PAGE_TABLES_PAGES`] pages.
pub const PAGE_TABLES: u64 = 0x9000;

/// One top level, one directory pointer table and four directories: 2 MiB pages for the first
/// 4 GiB. 1 GiB pages would save four of them but not every CPU has them.
pub const PAGE_TABLES_PAGES: u64 = 6;

/// Kernel command line with its terminating zero. 64 KiB: far above the 2,048 bytes of today's
/// kernels (`COMMAND_LINE_SIZE`), which a kernel may raise.
pub const CMDLINE: Range<u64> = 0x2_0000..0x3_0000;

/// End of conventional memory; what follows up to 1 MiB is not RAM on any PC.
pub const CONVENTIONAL_END: u64 = 0xa_0000;

/// ACPI tables, at most 128 KiB. The BIOS area, where also a guest without a pointer from its
/// boot protocol looks for the RSDP (ACPI 6.5, section 5.2.5.1).
pub const ACPI_TABLES: Range<u64> = 0xe_0000..0x10_0000;

/// First address for kernels and initial RAM disks.
pub const HIGH_MEMORY: u64 = MIB;

/// Port of pvpanic, where QEMU's machines have it (QEMU `docs/specs/pvpanic.rst`).
pub const PANIC_PORT: u16 = 0x505;

/// First port of the 16550 known as COM1, eight ports.
pub const COM1: u16 = 0x3f8;

/// GSI of COM1, edge-triggered as on the ISA bus.
pub const COM1_GSI: u32 = 4;

/// PM1a event block: status in the first two ports, enable in the next two (ACPI 6.5, section
/// 4.8.3.1). The ports that QEMU's machines use, free of legacy devices.
pub const PM1A_EVENT: u16 = 0x600;

/// PM1a control block, two ports (ACPI 6.5, section 4.8.3.2).
pub const PM1A_CONTROL: u16 = 0x604;

/// Reset register, where Intel's chipsets have it. The ports around it, which were PCI's configuration
/// mechanism #1 (PCI Local Bus 3.0, section 3.2.2.3.2), are not there: Linux asks them first for all
/// that lies in the first 256 bytes, 1,218 of 1,483 exits to user space until a guest's init
/// (measured). What cannot do without them finds no PCI bus: Linux without `CONFIG_PCI_MMCONFIG`, and
/// systems older than PCI Express.
pub const RESET_PORT: u16 = 0xcf9;

/// Value that resets the machine when written to [`RESET_PORT`] (ICH9 datasheet, RST_CNT:
/// SYS_RST | RST_CPU).
pub const RESET_VALUE: u8 = 0x06;

/// Sleep type that turns the machine off, as `\_S5` tells it to the guest; in bits 12..=10 of
/// PM1a control (ACPI 6.5, section 4.8.3.2.1). Not zero, so that a stray write is no power-off.
pub const S5_SLEEP_TYPE: u8 = 5;

/// System control interrupt. Edge-triggered, active high (the MADT says so): a pulse from an
/// irqfd is enough, no resample is needed.
pub const SCI_GSI: u32 = SCI_IRQ as u32;

/// The ISA interrupt that it is, which the FADT and the MADT name it by.
pub const SCI_IRQ: u8 = 9;

/// First of the four GSIs that PCI's INTA..INTD share; above the ISA interrupts.
pub const INTX_GSI: u32 = 16;

/// Pins of the I/O APIC, and so the first GSI that is free for MSI routes.
pub const IO_APIC_PINS: u32 = 24;

/// GSI of an interrupt pin of a slot on a root bus, as `_PRT` tells it to the guest.
///
/// `slot` is 0..=31; `pin` is 0 for INTA to 3 for INTD. Rotates as bridges do (PCI-to-PCI bridge
/// specification 1.2, section 9.1), so that one INTA of every slot does not end on one line. For a
/// function behind a bridge, apply the bridge's own rotation first.
#[must_use]
pub const fn intx_gsi(slot: u8, pin: u8) -> u32 {
    INTX_GSI + (slot as u32 + pin as u32) % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_memory_does_not_overlap() {
        let areas = [
            GDT..GDT + 0x100,
            PVH_START_INFO..PVH_START_INFO + 0x1000,
            ZERO_PAGE..ZERO_PAGE + 0x1000,
            PVH_MEMORY_MAP..PVH_MEMORY_MAP + 0x1000,
            PAGE_TABLES..PAGE_TABLES + PAGE_TABLES_PAGES * 0x1000,
            CMDLINE,
            CONVENTIONAL_END..CONVENTIONAL_END,
            ACPI_TABLES,
            HIGH_MEMORY..RAM_LOW.end,
            PCI_WINDOW32,
            ECAM,
            IO_APIC..IO_APIC + 0x1000,
            LOCAL_APIC..LOCAL_APIC + 0x1000,
            KVM_RESERVED,
            RAM_HIGH_START..u64::MAX,
        ];
        assert!(areas.windows(2).all(|w| w[0].end <= w[1].start));
        assert_eq!(ECAM.end - ECAM.start, 256 * MIB);
        assert_eq!(ECAM.start % (256 * MIB), 0);
    }

    #[test]
    fn interrupt_pins_rotate_over_slots() {
        assert_eq!(intx_gsi(0, 0), 16);
        assert_eq!(intx_gsi(1, 0), 17);
        assert_eq!(intx_gsi(31, 3), 18);
    }
}
