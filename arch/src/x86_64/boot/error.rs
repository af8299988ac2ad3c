//! Why a guest cannot boot, with the sizes and addresses that do not fit.

use std::ops::Range;

use linux_loader::loader;
use vm_memory::GuestMemoryError;

use super::super::layout;

/// Why a guest cannot boot. Texts name sizes and addresses, not the file: the caller knows it.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The host could not read a file.
    #[error("cannot read the {file}")]
    Read {
        /// "kernel" or "initial RAM disk".
        file: &'static str,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel is something else; says what.
    #[error("this is {found}, not an x86-64 bzImage or vmlinux{hint}")]
    NotAKernel {
        /// What the file is.
        found: String,
        /// What to do about it, with a leading separator, or nothing.
        hint: &'static str,
    },
    /// A bzImage older than the 64-bit boot protocol, 2.12 (Linux 3.8), or of a 32-bit kernel.
    #[error(
        "bzImage without 64-bit entry (boot protocol {}.{:02}): a 64-bit kernel, 3.8 or later, \
         is needed", .version >> 8, .version & 0xff
    )]
    NoEntry64 {
        /// Boot protocol, major version in the upper byte.
        version: u16,
    },
    /// A header contradicts itself or the file.
    #[error("damaged kernel: {0}")]
    Damaged(&'static str),
    /// The kernel wants memory below 1 MiB, where the boot structures are.
    #[error("kernel starts at {start:#x}, below 1 MiB")]
    KernelTooLow {
        /// Lowest address of the kernel.
        start: u64,
    },
    /// The kernel's addresses are not RAM.
    #[error(
        "kernel needs {:#x}..{:#x}, which is not within the guest's RAM of {}",
        .needed.start, .needed.end, Size(*.ram)
    )]
    KernelDoesNotFit {
        /// Guest physical addresses that it needs, with its decompression buffer.
        needed: Range<u64>,
        /// Bytes of RAM of the guest.
        ram: u64,
    },
    /// No gap is large enough for the initial RAM disk.
    #[error(
        "initial RAM disk of {} does not fit in RAM below {}: beside the kernel, at most {} are free",
        Size(*.size), Size(*.ceiling), Size(*.free)
    )]
    InitrdDoesNotFit {
        /// Bytes of the initial RAM disk.
        size: u64,
        /// First address that it must not reach.
        ceiling: u64,
        /// Bytes of the largest gap.
        free: u64,
    },
    /// The initial RAM disk has no bytes.
    #[error("initial RAM disk is empty")]
    InitrdEmpty,
    /// The kernel would cut the command line.
    #[error("command line of {length} bytes is longer than the {max} bytes this kernel takes")]
    CmdlineTooLong {
        /// Bytes of the command line.
        length: usize,
        /// Bytes that the kernel takes, without the terminating zero.
        max: usize,
    },
    /// The kernel would see only the part before it.
    #[error("command line has a zero byte")]
    CmdlineHasNul,
    /// Tables are larger than their place, or not in it.
    #[error("ACPI tables at {:#x}..{:#x} are not within {:#x}..{:#x}",
        .0.start, .0.end, layout::ACPI_TABLES.start, layout::ACPI_TABLES.end)]
    AcpiTablesMisplaced(Range<u64>),
    /// More RAM regions than boot protocols can carry.
    #[error("memory map of {entries} entries is longer than the {max} that fit the boot protocol")]
    MemoryMapTooLong {
        /// Entries that the machine needs.
        entries: usize,
        /// Entries that fit.
        max: usize,
    },
    /// Copying the kernel failed.
    #[error("cannot load the kernel")]
    Load(#[from] loader::Error),
    /// Guest memory refused a write.
    #[error("cannot write {what} to guest memory")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// What guest memory said.
        #[source]
        source: GuestMemoryError,
    },
}

impl BootError {
    pub(super) fn write(what: &'static str) -> impl FnOnce(GuestMemoryError) -> Self {
        move |source| Self::Write { what, source }
    }

    pub(super) fn read(file: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Read { file, source }
    }
}

/// A number of bytes, printed in the largest unit that leaves it readable.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            n if n >= layout::MIB => write!(f, "{} MiB", n.div_ceil(layout::MIB)),
            n => write!(f, "{} KiB", n.div_ceil(1024)),
        }
    }
}
