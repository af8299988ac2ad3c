//! Any file is a kernel that is loaded as it says, within the guest's memory, or an error; with an
//! initial RAM disk of any size.

#![no_main]

use std::fs::File;
use std::io::{Seek, Write};
use std::ops::Range;
use std::sync::LazyLock;

use berth_arch::acpi::{AcpiConfig, AcpiTables};
use berth_arch::{boot, layout};
use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryMmap};

const MEMORY: u64 = 64 << 20;
const RAM: [Range<u64>; 1] = [0..MEMORY];

static GUEST: LazyLock<(GuestMemoryMmap, AcpiTables)> = LazyLock::new(|| {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]);
    let config = AcpiConfig { apic_ids: &[0], roots: &[], numa: None };
    let tables = AcpiTables::new(&config, GuestAddress(layout::ACPI_TABLES.start));
    (memory.expect("memory takes all"), tables)
});

fuzz_target!(|bytes: &[u8]| {
    let [size, kernel @ ..] = bytes else { return };
    let file = || tempfile::tempfile_in("/dev/shm").expect("memory takes all");
    let (mut image, mut initrd): (File, File) = (file(), file());
    image.write_all(kernel).and_then(|()| image.rewind()).expect("memory takes all");
    // Files with holes: up to a terabyte.
    let size = 1_u64 << (size % 41);
    initrd.set_len(size).expect("memory takes all");
    let (memory, tables) = &*GUEST;
    let loaded = boot::load(memory, &mut image, Some(&mut initrd), "quiet", &RAM, tables);
    if let Err(error) = loaded {
        assert!(!error.to_string().is_empty());
    }
});
