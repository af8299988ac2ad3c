//! Puts a Linux kernel into guest memory and says how to enter it.
//!
//! | file | entry | handed over in |
//! |---|---|---|
//! | bzImage | 64-bit, load address + 0x200 | zero page (`boot_params`) |
//! | ELF vmlinux with a PVH note | 32-bit, address in the note | `hvm_start_info` |
//! | ELF vmlinux without one | 64-bit, the ELF entry | zero page |
//!
//! Sources: `Documentation/arch/x86/boot.rst` of the kernel; `xen/include/public/arch-x86/hvm/
//! start_info.h` and `docs/misc/pvh.pandoc` of Xen.

mod error;
mod handover;
mod image;
mod memory_map;

use std::fs::File;
use std::io::Seek;
use std::ops::Range;

use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::acpi::AcpiTables;
use super::layout;

pub use error::BootError;
pub use image::{Format, KernelImage, probe};

const PAGE: u64 = 4096;

/// How the boot vCPU enters the guest; [`regs::set_up_entry`](super::regs::set_up_entry) takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit mode with paging; RSI points to the zero page.
    Linux64 {
        /// First instruction.
        rip: GuestAddress,
    },
    /// 32-bit protected mode without paging; EBX points to `hvm_start_info`.
    Pvh {
        /// First instruction.
        eip: GuestAddress,
    },
}

/// A kernel and an initial RAM disk, and where in guest memory they go. Nothing is written yet.
pub struct Loading<'a> {
    kernel: &'a mut File,
    image: KernelImage,
    initrd: Option<(&'a mut File, Range<u64>)>,
    ram: &'a [Range<u64>],
}

impl<'a> Loading<'a> {
    /// Finds the places, in the RAM of a guest ([`ram_regions`](super::ram::ram_regions)).
    ///
    /// # Errors
    /// [`BootError`]: it is no kernel, or does not fit.
    pub fn new(
        kernel: &'a mut File,
        initrd: Option<&'a mut File>,
        ram: &'a [Range<u64>],
    ) -> Result<Self, BootError> {
        let image = probe(kernel)?;
        let initrd = match initrd {
            Some(file) => {
                let metadata = file.metadata().map_err(BootError::read("initial RAM disk"))?;
                Some((file, metadata.len()))
            }
            None => None,
        };
        let placed = place(&image, initrd.as_ref().map(|(_, size)| *size), ram)?;
        let initrd = initrd.zip(placed).map(|((file, _), range)| (file, range));
        Ok(Self { kernel, image, initrd, ram })
    }

    /// Guest physical addresses that [`load`](Self::load) and
    /// [`regs::set_up_entry`](super::regs::set_up_entry) write to, and the BSS of the kernel.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let initrd = self.initrd.iter().map(|(_, range)| range.clone());
        [0..layout::HIGH_MEMORY, self.image.memory.clone()].into_iter().chain(initrd).collect()
    }

    /// Loads all that the kernel needs to start, and says how to enter it.
    ///
    /// `mem` holds zeros and has the RAM that the places were found in; `cmdline` has no terminating
    /// zero. Writes the ACPI tables too, to the place they were built for, which must be within
    /// [`layout::ACPI_TABLES`].
    ///
    /// # Errors
    /// [`BootError`]; guest memory is then in no defined state.
    pub fn load(
        self,
        mem: &GuestMemoryMmap,
        cmdline: &str,
        tables: &AcpiTables,
    ) -> Result<Entry, BootError> {
        let Self { kernel, image, initrd, ram } = self;
        write_cmdline(mem, cmdline, image.cmdline_max)?;
        write_tables(mem, tables)?;
        let mut placed = None;
        if let Some((file, range)) = initrd {
            let size = usize::try_from(range.end - range.start).expect("usize has 64 bits");
            file.rewind().map_err(BootError::read("initial RAM disk"))?;
            mem.read_exact_volatile_from(GuestAddress(range.start), file, size)
                .map_err(BootError::write("initial RAM disk"))?;
            placed = Some(range);
        }
        let loaded = load_kernel(mem, kernel, &image)?;

        let map = memory_map::memory_map(ram, tables);
        let handover = handover::Handover { mem, map: &map, initrd: placed, rsdp: tables.rsdp };
        match image.format {
            Format::ElfPvh { entry } => {
                handover.pvh()?;
                Ok(Entry::Pvh { eip: GuestAddress(entry.into()) })
            }
            Format::Elf64 { entry } => {
                handover.linux64(None)?;
                Ok(Entry::Linux64 { rip: GuestAddress(entry) })
            }
            Format::BzImage => {
                handover.linux64(loaded.setup_header)?;
                // boot.rst, "64-bit boot protocol".
                Ok(Entry::Linux64 { rip: GuestAddress(image.memory.start + 0x200) })
            }
        }
    }
}

/// [`Loading`] in one step, into memory that is there.
///
/// # Errors
/// As [`Loading::new`] and [`Loading::load`].
pub fn load(
    mem: &GuestMemoryMmap,
    kernel: &mut File,
    initrd: Option<&mut File>,
    cmdline: &str,
    ram: &[Range<u64>],
    tables: &AcpiTables,
) -> Result<Entry, BootError> {
    Loading::new(kernel, initrd, ram)?.load(mem, cmdline, tables)
}

/// Least guest RAM, in bytes, with which [`load`] finds room for a kernel and an initial RAM disk
/// of `initrd_size` bytes (0 for none). What the guest needs in order to run comes on top.
///
/// True for RAM without holes below the end of both, which is what [`layout::RAM_LOW`] is; an
/// initial RAM disk that does not fit even [`layout::RAM_LOW`] is refused by [`load`].
#[must_use]
pub fn minimal_ram(image: &KernelImage, initrd_size: u64) -> u64 {
    // The disk may also fit below the kernel.
    let below = image.memory.start.saturating_sub(layout::HIGH_MEMORY);
    let end = image.memory.end.next_multiple_of(PAGE);
    if initrd_size.next_multiple_of(PAGE) <= below {
        end
    } else {
        end + initrd_size.next_multiple_of(PAGE)
    }
}

/// Checks that the kernel is in RAM and finds the place of the initial RAM disk.
///
/// The highest place, as boot loaders do: early allocations of the kernel come from below. A place in
/// the kernel's own GiB comes first, because what is loaded has to be there before the guest starts,
/// and a page of 1 GiB more takes as long as all the rest of a start.
fn place(
    image: &KernelImage,
    initrd_size: Option<u64>,
    ram: &[Range<u64>],
) -> Result<Option<Range<u64>>, BootError> {
    let kernel = &image.memory;
    if kernel.start < layout::HIGH_MEMORY {
        return Err(BootError::KernelTooLow { start: kernel.start });
    }
    let within = |region: &Range<u64>| region.start <= kernel.start && kernel.end <= region.end;
    if kernel.end > layout::RAM_LOW.end || !ram.iter().any(within) {
        return Err(BootError::KernelDoesNotFit {
            needed: kernel.clone(),
            ram: ram.iter().map(|region| region.end - region.start).sum(),
        });
    }

    let Some(size) = initrd_size else {
        return Ok(None);
    };
    if size == 0 {
        return Err(BootError::InitrdEmpty);
    }
    let ceiling = image.initrd_ceiling.min(layout::RAM_LOW.end);
    let near = kernel.end.next_multiple_of(layout::GIB).min(ceiling);
    place_initrd(kernel, size, ram, near)
        .or_else(|_| place_initrd(kernel, size, ram, ceiling))
        .map(Some)
        .map_err(|free| BootError::InitrdDoesNotFit { size, ceiling, free })
}

/// The highest place below `ceiling`, or the largest gap that there is.
fn place_initrd(
    kernel: &Range<u64>,
    size: u64,
    ram: &[Range<u64>],
    ceiling: u64,
) -> Result<Range<u64>, u64> {
    let mut free = 0;
    for region in ram.iter().rev() {
        let gaps = [
            kernel.end.max(region.start)..region.end.min(ceiling),
            layout::HIGH_MEMORY.max(region.start)..region.end.min(ceiling).min(kernel.start),
        ];
        for gap in gaps {
            let start = gap.end.saturating_sub(size) / PAGE * PAGE;
            if start >= gap.start {
                return Ok(start..start + size);
            }
            free = free.max(gap.end.saturating_sub(gap.start));
        }
    }
    Err(free)
}

fn write_cmdline(mem: &GuestMemoryMmap, cmdline: &str, kernel_max: usize) -> Result<(), BootError> {
    let room = usize::try_from(layout::CMDLINE.end - layout::CMDLINE.start - 1);
    let max = kernel_max.min(room.expect("usize has 64 bits"));
    if cmdline.len() > max {
        let length = cmdline.len();
        return Err(BootError::CmdlineTooLong { length, max });
    }
    if cmdline.contains('\0') {
        return Err(BootError::CmdlineHasNul);
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    mem.write_slice(&bytes, GuestAddress(layout::CMDLINE.start))
        .map_err(BootError::write("command line"))
}

fn write_tables(mem: &GuestMemoryMmap, tables: &AcpiTables) -> Result<(), BootError> {
    let (range, place) = (tables.range(), layout::ACPI_TABLES);
    if range.start < place.start || range.end > place.end {
        return Err(BootError::AcpiTablesMisplaced(range));
    }
    mem.write_slice(&tables.bytes, tables.start).map_err(BootError::write("ACPI tables"))
}

fn load_kernel(
    mem: &GuestMemoryMmap,
    kernel: &mut File,
    image: &KernelImage,
) -> Result<KernelLoaderResult, BootError> {
    let loaded = match image.format {
        Format::BzImage => {
            let at = GuestAddress(image.memory.start);
            BzImage::load(mem, Some(at), kernel, None)?
        }
        Format::ElfPvh { .. } | Format::Elf64 { .. } => Elf::load(mem, None, kernel, None)?,
    };
    Ok(loaded)
}

#[cfg(test)]
mod tests;
