//! What a kernel file is and what it needs, read from its headers only.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::super::layout;
use super::BootError;

/// Linux's own limit for initial RAM disks on x86-64 (`initrd_addr_max`, `arch/x86/boot/header.S`),
/// for kernels that carry no header.
const INITRD_CEILING: u64 = 0x8000_0000;
/// `COMMAND_LINE_SIZE` of x86 without the terminating zero, for kernels that carry no header.
const CMDLINE_MAX: usize = 2047;

/// A kernel, as far as its headers tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Kind of file and entry.
    pub format: Format,
    /// Guest physical addresses that must be RAM and hold nothing else: the image with its BSS,
    /// or the buffer that a bzImage decompresses itself in.
    pub memory: Range<u64>,
    /// First address that an initial RAM disk must not reach.
    pub initrd_ceiling: u64,
    /// Longest command line in bytes, without the terminating zero.
    pub cmdline_max: usize,
}

/// Kinds of kernel files that boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Compressed kernel with setup header.
    BzImage,
    /// ELF vmlinux with a PVH note.
    ElfPvh {
        /// Entry in 32-bit mode, a physical address.
        entry: u32,
    },
    /// ELF vmlinux without a PVH note.
    Elf64 {
        /// Entry in 64-bit mode, a physical address.
        entry: u64,
    },
}

/// Tells what a kernel file is, from its first page and, for ELF, from its notes.
///
/// # Errors
/// [`BootError::NotAKernel`] says what the file is instead; [`BootError::NoEntry64`] and
/// [`BootError::Damaged`] refuse kernels that cannot boot; [`BootError::Read`].
pub fn probe(file: &File) -> Result<KernelImage, BootError> {
    let size = file.metadata().map_err(BootError::read("kernel"))?.len();
    let head = read_at(file, 0, size.min(4096) as usize)?;
    if head.starts_with(b"\x7FELF") {
        elf(file, &head)
    } else if head.get(0x202..0x206) == Some(b"HdrS".as_slice()) {
        bz_image(&head, size)
    } else {
        Err(stranger(&head))
    }
}

fn read_at(file: &File, offset: u64, size: usize) -> Result<Vec<u8>, BootError> {
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, offset).map_err(BootError::read("kernel"))?;
    Ok(bytes)
}

fn not_a_kernel(found: impl Into<String>, hint: &'static str) -> BootError {
    let found = found.into();
    BootError::NotAKernel { found, hint }
}

/// Names a file that is neither ELF nor bzImage.
fn stranger(head: &[u8]) -> BootError {
    const UNPACK: &str = "; decompress it first";
    const COMPRESSED: [(&[u8], &str); 7] = [
        (b"\x1F\x8B", "a gzip file"),
        (b"\x28\xB5\x2F\xFD", "a zstd file"),
        (b"\xFD7zXZ\0", "an xz file"),
        (b"BZh", "a bzip2 file"),
        (b"\x02\x21\x4C\x18", "an lz4 file"),
        (b"\x04\x22\x4D\x18", "an lz4 file"),
        (b"\x5D\0\0", "an lzma file"),
    ];
    if head.is_empty() {
        return not_a_kernel("an empty file", "");
    }
    if let Some((_, name)) = COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic)) {
        return not_a_kernel(*name, UNPACK);
    }
    // Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst.
    match head.get(56..60) {
        Some(b"ARM\x64") => return not_a_kernel("an arm64 Image", ""),
        Some(b"RSC\x05") => return not_a_kernel("a RISC-V Image", ""),
        _ => {}
    }
    if head.starts_with(b"070701") || head.starts_with(b"070702") {
        return not_a_kernel("a cpio archive", "; is it the initial RAM disk?");
    }
    if head.starts_with(b"MZ") {
        return not_a_kernel("an EFI program", "");
    }
    not_a_kernel("a file of unknown kind", "")
}

/// The part of the setup header that matters here; offsets of boot.rst from 0x1f1 on.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
struct SetupHeader {
    setup_sects: u8,
    _1f2: [u8; 0x206 - 0x1f2],
    version: U16,
    _208: [u8; 0x22c - 0x208],
    initrd_addr_max: U32,
    _230: [u8; 0x236 - 0x230],
    xloadflags: U16,
    cmdline_size: U32,
    _23c: [u8; 0x258 - 0x23c],
    pref_address: U64,
    init_size: U32,
}

fn bz_image(head: &[u8], file_size: u64) -> Result<KernelImage, BootError> {
    /// `XLF_KERNEL_64`: there is an entry at 0x200.
    const KERNEL_64: u16 = 1 << 0;

    let (header, _) = SetupHeader::ref_from_prefix(head.get(0x1f1..).unwrap_or_default())
        .map_err(|_| BootError::Damaged("file ends within its setup header"))?;
    let version = header.version.get();
    if version < 0x20c || header.xloadflags.get() & KERNEL_64 == 0 {
        return Err(BootError::NoEntry64 { version });
    }
    // boot.rst: 0 stands for 4, and the boot sector comes on top.
    let setup_sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let image_size = file_size
        .checked_sub((setup_sectors + 1) * 512)
        .filter(|size| *size > 0x200)
        .ok_or(BootError::Damaged("file ends within its setup code"))?;

    // At its preferred address a kernel need not move, and init_size counts from there.
    let start = header.pref_address.get();
    let end = start
        .checked_add(image_size.max(header.init_size.get().into()))
        .ok_or(BootError::Damaged("preferred address is out of range"))?;
    Ok(KernelImage {
        format: Format::BzImage,
        memory: start..end,
        initrd_ceiling: u64::from(header.initrd_addr_max.get()) + 1,
        cmdline_max: header.cmdline_size.get() as usize,
    })
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
struct ElfHeader {
    magic: [u8; 4],
    class: u8,
    data: u8,
    ident: [u8; 10],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    phoff: U64,
    shoff: U64,
    flags: U32,
    ehsize: U16,
    phentsize: U16,
    phnum: U16,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
struct ProgramHeader {
    kind: U32,
    flags: U32,
    offset: U64,
    vaddr: U64,
    paddr: U64,
    filesz: U64,
    memsz: U64,
    align: U64,
}

fn elf(file: &File, head: &[u8]) -> Result<KernelImage, BootError> {
    const CLASS_64: u8 = 2;
    const LITTLE_ENDIAN: u8 = 1;
    const EXECUTABLE: u16 = 2;
    const X86_64: u16 = 62;
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;

    let (header, _) = ElfHeader::ref_from_prefix(head)
        .map_err(|_| BootError::Damaged("file ends within its ELF header"))?;
    match (header.class, header.data, header.machine.get()) {
        (CLASS_64, LITTLE_ENDIAN, X86_64) => {}
        (CLASS_64, _, 183) => return Err(not_a_kernel("an arm64 ELF file", "")),
        (_, _, 3) => return Err(not_a_kernel("a 32-bit x86 ELF file", "")),
        (_, _, machine) => {
            let found = format!("an ELF file for machine {machine}");
            return Err(not_a_kernel(found, ""));
        }
    }
    if header.kind.get() != EXECUTABLE {
        let found = "an ELF object, library or position-independent program";
        return Err(not_a_kernel(found, ""));
    }
    if usize::from(header.phentsize.get()) != size_of::<ProgramHeader>() {
        return Err(BootError::Damaged("program headers of unknown size"));
    }

    let table_size = usize::from(header.phnum.get()) * size_of::<ProgramHeader>();
    let table = read_at(file, header.phoff.get(), table_size)?;
    let segments = <[ProgramHeader]>::ref_from_bytes(&table)
        .map_err(|_| BootError::Damaged("program headers"))?;

    let mut memory: Option<Range<u64>> = None;
    let mut pvh = None;
    for segment in segments {
        let (start, size) = (segment.paddr.get(), segment.memsz.get());
        if segment.kind == LOAD && size > 0 {
            let end = start
                .checked_add(size.max(segment.filesz.get()))
                .ok_or(BootError::Damaged("segment is out of range"))?;
            let seen = memory.unwrap_or(start..end);
            memory = Some(seen.start.min(start)..seen.end.max(end));
        } else if segment.kind == NOTE {
            pvh = pvh.or(pvh_entry(file, segment)?);
        }
    }
    let memory = memory.ok_or(BootError::Damaged("ELF file without segments to load"))?;
    let format = match pvh {
        Some(entry) => Format::ElfPvh { entry },
        None => Format::Elf64 { entry: header.entry.get() },
    };
    let entry = match format {
        Format::ElfPvh { entry } => entry.into(),
        _ => header.entry.get(),
    };
    if !memory.contains(&entry) {
        return Err(BootError::Damaged("entry is outside the kernel"));
    }
    Ok(KernelImage {
        format,
        memory,
        initrd_ceiling: INITRD_CEILING.min(layout::RAM_LOW.end),
        cmdline_max: CMDLINE_MAX,
    })
}

/// Finds `XEN_ELFNOTE_PHYS32_ENTRY` in a note segment.
fn pvh_entry(file: &File, segment: &ProgramHeader) -> Result<Option<u32>, BootError> {
    const PHYS32_ENTRY: u32 = 18;
    /// Linux's notes are below 1 KiB; a larger segment is no reason to read it all.
    const MAX_NOTES: u64 = 64 * 1024;

    let size = segment.filesz.get().min(MAX_NOTES) as usize;
    let notes = read_at(file, segment.offset.get(), size)?;
    let step = if segment.align == 8 { 8 } else { 4 };
    let mut rest = notes.as_slice();
    while let Some((header, after)) = rest.split_first_chunk::<12>() {
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let (name_size, desc_size) = (word(0) as usize, word(4) as usize);
        // Offsets of name and descriptor are aligned within the note, header included.
        let desc_at = (12 + name_size).next_multiple_of(step) - 12;
        let (Some(name), Some(desc)) =
            (after.get(..name_size), after.get(desc_at..desc_at + desc_size))
        else {
            break;
        };
        if word(8) == PHYS32_ENTRY && name == b"Xen\0" {
            return match desc.first_chunk::<4>() {
                Some(bytes) => Ok(Some(u32::from_le_bytes(*bytes))),
                None => Err(BootError::Damaged("PVH note without an address")),
            };
        }
        let next = (12 + desc_at + desc_size).next_multiple_of(step) - 12;
        rest = after.get(next..).unwrap_or_default();
    }
    Ok(None)
}
