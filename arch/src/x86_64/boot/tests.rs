//! Boots nothing: builds small kernels, loads them, reads back what a kernel would read.

#![expect(clippy::single_range_in_vec_init, reason = "lists of one range are what is meant")]

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::elf::start_info::{hvm_modlist_entry, hvm_start_info};
use proptest::prelude::*;

use super::super::acpi::{AcpiConfig, PciRoot};
use super::super::layout::{GIB, MIB};
use super::*;

/// A file with these bytes and no name.
fn file(bytes: &[u8]) -> File {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("berth-arch-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("temporary file");
    std::fs::remove_file(&path).expect("own file");
    file.write_all(bytes).expect("room for a small file");
    file
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A bzImage of two setup sectors and 64 KiB, which needs 32 MiB from 16 MiB on.
fn bz_image() -> Vec<u8> {
    let mut bytes = vec![0xcc; 3 * 512 + 65536];
    bytes[..3 * 512].fill(0);
    bytes[0x1f1] = 2;
    put(&mut bytes, 0x1fe, &0xAA55u16.to_le_bytes());
    put(&mut bytes, 0x200, &[0xeb, 0x6a]);
    put(&mut bytes, 0x202, b"HdrS");
    put(&mut bytes, 0x206, &0x20Fu16.to_le_bytes());
    bytes[0x211] = 1; // loaded high
    put(&mut bytes, 0x22c, &0x7FFF_FFFFu32.to_le_bytes());
    put(&mut bytes, 0x236, &3u16.to_le_bytes());
    put(&mut bytes, 0x238, &2047u32.to_le_bytes());
    put(&mut bytes, 0x258, &(16 * MIB).to_le_bytes());
    put(&mut bytes, 0x260, &(32 * MIB as u32).to_le_bytes());
    bytes
}

/// A vmlinux of one segment, 4 KiB of file and 1 MiB of memory from 16 MiB on.
fn vmlinux(pvh: bool) -> Vec<u8> {
    let mut bytes = vec![0; 0x2000];
    put(&mut bytes, 0, b"\x7FELF\x02\x01\x01");
    put(&mut bytes, 16, &2u16.to_le_bytes());
    put(&mut bytes, 18, &62u16.to_le_bytes());
    put(&mut bytes, 24, &(16 * MIB).to_le_bytes());
    put(&mut bytes, 32, &64u64.to_le_bytes());
    put(&mut bytes, 54, &56u16.to_le_bytes());
    put(&mut bytes, 56, &[1 + u8::from(pvh), 0]);
    let header = |kind: u32, offset: u64, filesz: u64, memsz: u64| {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        for value in [offset, 0, 16 * MIB, filesz, memsz, 4] {
            header.extend(value.to_le_bytes());
        }
        header
    };
    put(&mut bytes, 64, &header(1, 0x1000, 0x1000, MIB));
    if pvh {
        let mut notes = Vec::new();
        for (name, kind, desc) in
            [(b"GNU\0", 3u32, &[7u8; 5][..]), (b"Xen\0", 18, &0x100_0040u64.to_le_bytes()[..])]
        {
            notes.extend(4u32.to_le_bytes());
            notes.extend((desc.len() as u32).to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(name);
            notes.extend(desc);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        put(&mut bytes, 120, &header(4, 0x800, notes.len() as u64, 0));
        put(&mut bytes, 0x800, &notes);
    }
    bytes[0x1000..].fill(0xcc);
    bytes
}

fn tables() -> AcpiTables {
    let config = AcpiConfig { apic_ids: &[0], roots: &[PciRoot::only(0, None)], numa: None };
    AcpiTables::new(&config, GuestAddress(layout::ACPI_TABLES.start))
}

fn memory(size: u64) -> (GuestMemoryMmap, Vec<Range<u64>>) {
    let ranges = [(GuestAddress(0), size as usize)];
    let ram = vec![0..size];
    (GuestMemoryMmap::from_ranges(&ranges).expect("address space"), ram)
}

fn boot(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    cmdline: &str,
    size: u64,
) -> Result<Entry, BootError> {
    let (mem, ram) = memory(size);
    let mut initrd = initrd.map(file);
    let kernel = &mut file(kernel);
    load(&mem, kernel, initrd.as_mut(), cmdline, &ram, &tables())
}

#[test]
fn bz_image_finds_its_zero_page() {
    let (mem, ram) = memory(64 * MIB);
    let mut initrd = file(&[0x77; 5000]);
    let kernel = &mut file(&bz_image());
    let entry = load(&mem, kernel, Some(&mut initrd), "quiet", &ram, &tables());
    let rip = GuestAddress(16 * MIB + 0x200);
    assert_eq!(entry.expect("loads"), Entry::Linux64 { rip });
    assert_eq!(mem.read_obj::<u8>(rip).expect("RAM"), 0xcc);

    let page = GuestAddress(layout::ZERO_PAGE);
    let params: boot_params = mem.read_obj(page).expect("RAM");
    let (loader, cmdline) = (params.hdr.type_of_loader, params.hdr.cmd_line_ptr);
    assert_eq!((loader, cmdline), (0xff, layout::CMDLINE.start as u32));
    assert_eq!({ params.acpi_rsdp_addr }, layout::ACPI_TABLES.start);
    let (image, size) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
    assert_eq!((u64::from(image), size), (64 * MIB - 8192, 5000));
    let last: u8 = mem.read_obj(GuestAddress(u64::from(image) + 4999)).expect("RAM");
    assert_eq!(last, 0x77);

    let map: Vec<(u64, u64, u32)> = params.e820_table[..params.e820_entries.into()]
        .iter()
        .map(|entry| (entry.addr, entry.size, entry.r#type))
        .collect();
    let acpi = tables().bytes.len().next_multiple_of(4096) as u64;
    assert_eq!(
        map,
        [
            (0, 0xa_0000, 1),
            (0xe_0000, acpi, 3),
            (MIB, 63 * MIB, 1),
            (0xe000_0000, 256 * MIB, 2),
            (0xfffb_c000, 0x4000, 2),
        ]
    );
    let mut text = [0; 6];
    mem.read_slice(&mut text, GuestAddress(layout::CMDLINE.start)).expect("RAM");
    assert_eq!(&text, b"quiet\0");
}

#[test]
fn vmlinux_with_note_enters_by_pvh() {
    let (mem, ram) = memory(32 * MIB);
    let mut initrd = file(&[1; 4096]);
    let kernel = &mut file(&vmlinux(true));
    let entry = load(&mem, kernel, Some(&mut initrd), "", &ram, &tables());
    let eip = GuestAddress(16 * MIB + 0x40);
    assert_eq!(entry.expect("loads"), Entry::Pvh { eip });

    let at = GuestAddress(layout::PVH_START_INFO);
    let info: hvm_start_info = mem.read_obj(at).expect("RAM");
    assert_eq!((info.magic, info.version), (0x336e_c578, 1));
    assert_eq!((info.nr_modules, info.memmap_entries), (1, 5));
    assert_eq!(info.rsdp_paddr, layout::ACPI_TABLES.start);
    let at = GuestAddress(info.modlist_paddr);
    let module: hvm_modlist_entry = mem.read_obj(at).expect("RAM");
    assert_eq!((module.paddr, module.size), (32 * MIB - 4096, 4096));
}

#[test]
fn vmlinux_without_note_enters_in_64_bit_mode() {
    let rip = GuestAddress(16 * MIB);
    let entry = boot(&vmlinux(false), None, "", 32 * MIB).expect("loads");
    assert_eq!(entry, Entry::Linux64 { rip });
}

#[test]
fn strangers_are_named() {
    let mut arm64 = vec![0; 64];
    put(&mut arm64, 56, b"ARM\x64");
    let mut elf32 = vmlinux(false);
    put(&mut elf32, 4, &[1]);
    put(&mut elf32, 18, &3u16.to_le_bytes());
    let mut library = vmlinux(false);
    library[16] = 3;
    let mut old = bz_image();
    put(&mut old, 0x206, &0x20Au16.to_le_bytes());
    let mut short = bz_image();
    short.truncate(3 * 512);
    for (bytes, text) in [
        (vec![], "an empty file"),
        (vec![0x1f, 0x8b, 8, 0], "a gzip file"),
        (vec![0x28, 0xb5, 0x2f, 0xfd], "decompress it first"),
        (arm64, "an arm64 Image"),
        (elf32, "a 32-bit x86 ELF file"),
        (library, "position-independent"),
        (b"070701".to_vec(), "is it the initial RAM disk?"),
        (b"#!/bin/sh\n".to_vec(), "unknown kind"),
        (old, "boot protocol 2.10"),
        (short, "within its setup code"),
        (vmlinux(true)[..40].to_vec(), "within its ELF header"),
    ] {
        let error = probe(&file(&bytes)).expect_err(text).to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_size() {
    let disk = vec![0; 20 * MIB as usize];
    let text = |result: Result<Entry, BootError>| result.expect_err("too small").to_string();
    let error = text(boot(&bz_image(), None, "", 40 * MIB));
    assert_eq!(
        error,
        "kernel needs 0x1000000..0x3000000, which is not within the guest's RAM of 40 MiB"
    );
    let error = text(boot(&bz_image(), Some(&disk), "", 64 * MIB));
    assert_eq!(
        error,
        "initial RAM disk of 20 MiB does not fit in RAM below 2048 MiB: beside the kernel, \
         at most 16 MiB are free"
    );
    assert!(text(boot(&bz_image(), Some(&[]), "", 64 * MIB)).contains("empty"));
    let long = "x".repeat(2048);
    let error = text(boot(&bz_image(), None, &long, 64 * MIB));
    assert_eq!(error, "command line of 2048 bytes is longer than the 2047 bytes this kernel takes");
    assert!(text(boot(&bz_image(), None, "a\0b", 64 * MIB)).contains("zero byte"));
}

#[test]
fn initrd_goes_below_the_kernel_if_only_there_is_room() {
    let image = probe(&file(&bz_image())).expect("kernel");
    let ram = vec![0..50 * MIB];
    let range = place(&image, Some(8 * MIB), &ram).expect("room");
    assert_eq!(range, Some(8 * MIB..16 * MIB));
}

proptest! {
    #[test]
    fn probing_survives_any_header(noise in prop::collection::vec(any::<u8>(), 0..300), pvh: bool) {
        for mut bytes in [vmlinux(pvh), bz_image()] {
            let at = if bytes.starts_with(b"\x7FELF") { 16 } else { 0x206 };
            put(&mut bytes, at, &noise);
            let _ = probe(&file(&bytes));
        }
    }

    #[test]
    fn notes_survive_any_bytes(noise in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = vmlinux(true);
        put(&mut bytes, 0x800, &noise);
        let _ = probe(&file(&bytes));
    }

    #[test]
    fn minimal_ram_is_enough_and_less_is_not(size in 0..256 * MIB) {
        let image = probe(&file(&bz_image())).expect("kernel");
        let initrd = (size > 0).then_some(size);
        let need = minimal_ram(&image, size);
        prop_assert!(place(&image, initrd, &[0..need]).is_ok());
        prop_assert!(place(&image, initrd, &[0..need - 4096]).is_err());
    }

    #[test]
    fn initrd_is_in_ram_and_beside_the_kernel(
        size in 1..3 * GIB,
        pages in 12288..1024 * 1024u64,
    ) {
        let image = probe(&file(&bz_image())).expect("kernel");
        let ram = super::super::ram::ram_regions(pages * 4096, &[]);
        if let Ok(Some(range)) = place(&image, Some(size), &ram) {
            prop_assert_eq!(range.end - range.start, size);
            prop_assert!(ram.iter().any(|r| r.start <= range.start && range.end <= r.end));
            prop_assert!(range.start >= MIB && range.end <= 2 * GIB);
            prop_assert!(range.end <= image.memory.start || range.start >= image.memory.end);
        }
    }
}
