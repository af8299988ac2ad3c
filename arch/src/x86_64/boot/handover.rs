//! The structures that a kernel finds at its entry.

use std::ops::Range;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::layout;
use super::memory_map::Entry;
use super::{BootError, PAGE};

/// `type_of_loader`: a loader without a number of its own (boot.rst).
const LOADER_UNDEFINED: u8 = 0xff;
/// `boot_flag` and `header` of a valid setup header.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// Protocol 2.12: the first with a 64-bit entry.
const PROTOCOL: u16 = 0x20c;

/// What there is to hand over.
pub(super) struct Handover<'a> {
    pub(super) mem: &'a GuestMemoryMmap,
    pub(super) map: &'a [Entry],
    pub(super) initrd: Option<Range<u64>>,
    pub(super) rsdp: GuestAddress,
}

impl Handover<'_> {
    /// Writes the zero page. `header` is a bzImage's; an ELF file has none.
    pub(super) fn linux64(&self, header: Option<setup_header>) -> Result<(), BootError> {
        let mut hdr = header.unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: PROTOCOL,
            ..Default::default()
        });
        hdr.type_of_loader = LOADER_UNDEFINED;
        hdr.cmd_line_ptr = halves(layout::CMDLINE.start).0;

        let mut params = boot_params::default();
        if let Some(initrd) = &self.initrd {
            (hdr.ramdisk_image, params.ext_ramdisk_image) = halves(initrd.start);
            (hdr.ramdisk_size, params.ext_ramdisk_size) = halves(initrd.end - initrd.start);
        }
        params.hdr = hdr;
        params.acpi_rsdp_addr = self.rsdp.0;

        let max = params.e820_table.len();
        self.check_map(max)?;
        params.e820_entries = u8::try_from(self.map.len()).expect("the table has 128 entries");
        for (index, entry) in self.map.iter().enumerate() {
            params.e820_table[index] = boot_e820_entry {
                addr: entry.range.start,
                size: entry.range.end - entry.range.start,
                r#type: entry.kind as u32,
            };
        }
        self.mem
            .write_obj(params, GuestAddress(layout::ZERO_PAGE))
            .map_err(BootError::write("zero page"))
    }

    /// Writes `hvm_start_info`, its module list and its memory map.
    pub(super) fn pvh(&self) -> Result<(), BootError> {
        let modules = layout::PVH_START_INFO + size_of::<hvm_start_info>() as u64;
        let mut info = hvm_start_info {
            magic: XEN_HVM_START_MAGIC_VALUE,
            // The first version with a memory map.
            version: 1,
            cmdline_paddr: layout::CMDLINE.start,
            rsdp_paddr: self.rsdp.0,
            memmap_paddr: layout::PVH_MEMORY_MAP,
            memmap_entries: u32::try_from(self.map.len()).expect("a page of entries"),
            ..Default::default()
        };
        if let Some(initrd) = &self.initrd {
            info.nr_modules = 1;
            info.modlist_paddr = modules;
            let module = hvm_modlist_entry {
                paddr: initrd.start,
                size: initrd.end - initrd.start,
                ..Default::default()
            };
            self.mem
                .write_obj(module, GuestAddress(modules))
                .map_err(BootError::write("PVH module list"))?;
        }
        self.mem
            .write_obj(info, GuestAddress(layout::PVH_START_INFO))
            .map_err(BootError::write("PVH start info"))?;

        self.check_map(
            usize::try_from(PAGE).expect("4,096") / size_of::<hvm_memmap_table_entry>(),
        )?;
        for (index, entry) in (0u64..).zip(self.map) {
            let at = index * size_of::<hvm_memmap_table_entry>() as u64;
            let entry = hvm_memmap_table_entry {
                addr: entry.range.start,
                size: entry.range.end - entry.range.start,
                type_: entry.kind as u32,
                reserved: 0,
            };
            self.mem
                .write_obj(entry, GuestAddress(layout::PVH_MEMORY_MAP + at))
                .map_err(BootError::write("PVH memory map"))?;
        }
        Ok(())
    }

    fn check_map(&self, max: usize) -> Result<(), BootError> {
        let entries = self.map.len();
        if entries > max {
            return Err(BootError::MemoryMapTooLong { entries, max });
        }
        Ok(())
    }
}

/// The lower and the upper 32 bits, for fields that later versions of the protocol have added.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}
