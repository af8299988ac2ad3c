//! Files that a guest boots: what is there, and what kind of kernel.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::root::{Kind, Root};

/// A file that a guest boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileFacts {
    /// Its path, absolute.
    pub path: PathBuf,
    /// What is there.
    pub state: FileState,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// A snapshot of a host lacks it, which says nothing about the host.
    Unknown,
    /// Nothing.
    Missing,
    /// Something that is no file, by what it is instead.
    NotAFile(&'static str),
    /// A file that this process cannot read, with the system's reason.
    Unreadable(String),
    /// A file.
    File {
        /// Bytes.
        size: u64,
    },
}

/// A guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelFacts {
    /// The file.
    pub file: FileFacts,
    /// What its first bytes say it is; `None` when it cannot be read.
    pub format: Option<KernelFormat>,
}

/// What a file's first bytes say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelFormat {
    /// An x86 boot image (kernel, `Documentation/arch/x86/boot.rst`).
    BzImage {
        /// Whether it has the 64-bit entry point (XLF_KERNEL_64).
        entry64: bool,
        /// Longest command line it takes, in bytes without the terminator.
        cmdline_max: u32,
        /// Bytes it needs while it unpacks itself.
        init_size: u32,
    },
    /// A 64-bit x86 ELF file, such as vmlinux.
    Elf64X86,
    /// Anything that berth does not boot, by what it is.
    Other(&'static str),
}

/// As the rest of a sentence that begins with the path.
impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("is not in the snapshot"),
            Self::Missing => f.write_str("does not exist"),
            Self::NotAFile(what) => write!(f, "is {what}, not a file"),
            Self::Unreadable(reason) => write!(f, "cannot be read: {reason}"),
            Self::File { size } => write!(f, "is a file of {size} bytes"),
        }
    }
}

impl FileFacts {
    pub(super) fn read(root: &Root, path: &Path) -> Self {
        let (state, _) = inspect(root, path, 0);
        Self { path: path.to_owned(), state }
    }
}

impl KernelFacts {
    pub(super) fn read(root: &Root, path: &Path) -> Self {
        let (state, head) = inspect(root, path, 1024);
        Self {
            format: matches!(state, FileState::File { .. }).then(|| KernelFormat::of(&head)),
            file: FileFacts { path: path.to_owned(), state },
        }
    }
}

fn inspect(root: &Root, path: &Path, head: usize) -> (FileState, Vec<u8>) {
    let mut bytes = Vec::new();
    // Its kind first: opening a FIFO would wait for its writer.
    let mut read = || -> io::Result<FileState> {
        match root.kind(path)? {
            Kind::Folder => Ok(FileState::NotAFile("a directory")),
            Kind::Special => Ok(FileState::NotAFile("a device, a pipe or a socket")),
            Kind::File(size) => {
                bytes = root.read(path, head)?;
                Ok(FileState::File { size })
            }
        }
    };
    let state = match read() {
        Ok(state) => state,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if root.is_live() {
                FileState::Missing
            } else {
                FileState::Unknown
            }
        }
        Err(error) => FileState::Unreadable(error.to_string()),
    };
    (state, bytes)
}

impl KernelFormat {
    /// What a file that begins with `head` is.
    fn of(head: &[u8]) -> Self {
        let at =
            |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
        if head.is_empty() {
            Self::Other("an empty file")
        } else if at(0x202, b"HdrS") {
            Self::boot_image(head)
        } else if at(0, b"\x7fELF") {
            Self::elf(head)
        } else if at(0x38, b"ARM\x64") {
            Self::Other("an arm64 kernel image")
        } else if at(0x24, &0x016f_2818_u32.to_le_bytes()) {
            Self::Other("a 32-bit ARM kernel image")
        } else if at(0x38, b"RSC\x05") {
            Self::Other("a RISC-V kernel image")
        } else if at(0, b"\x1f\x8b") {
            Self::Other("gzip-compressed data")
        } else if at(0, b"\x28\xb5\x2f\xfd") {
            Self::Other("zstd-compressed data")
        } else if at(0, b"\xfd7zXZ\0") {
            Self::Other("xz-compressed data")
        } else if at(0, b"\x02\x21\x4c\x18") || at(0, b"\x04\x22\x4d\x18") {
            Self::Other("lz4-compressed data")
        } else if at(0, b"070701") || at(0, b"070702") {
            Self::Other("a cpio archive, such as an initrd")
        } else if at(0, b"QFI\xfb") {
            Self::Other("a qcow2 disk image")
        } else if at(0, b"MZ") {
            Self::Other("an EFI program")
        } else if at(0x1fe, b"\x55\xaa") {
            Self::Other("a disk image")
        } else if head.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
            Self::Other("a text file")
        } else {
            Self::Other("of an unknown format")
        }
    }

    /// Fields of the setup header, by their offsets in boot.rst.
    fn boot_image(head: &[u8]) -> Self {
        fn le<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
            head.get(at..at + N)?.try_into().ok()
        }
        let version = le(head, 0x206).map_or(0, u16::from_le_bytes);
        let since = |protocol: u16, value: Option<u32>| {
            if version >= protocol { value.unwrap_or(0) } else { 0 }
        };
        let xloadflags = le(head, 0x236).map(u16::from_le_bytes);
        let cmdline_max = since(0x206, le(head, 0x238).map(u32::from_le_bytes));
        Self::BzImage {
            entry64: since(0x20c, xloadflags.map(u32::from)) & 1 == 1,
            // 255 before protocol 2.06.
            cmdline_max: if cmdline_max == 0 { 255 } else { cmdline_max },
            init_size: since(0x20a, le(head, 0x260).map(u32::from_le_bytes)),
        }
    }

    /// Class, type and machine of the ELF header.
    fn elf(head: &[u8]) -> Self {
        let byte = |at: usize| head.get(at).copied().unwrap_or(0);
        match (byte(0x04), byte(0x10), byte(0x12)) {
            (2, 2, 62) => Self::Elf64X86,
            // A kernel knows its addresses; what does not is made to run under one.
            (2, _, 62) => Self::Other("an ELF file without fixed addresses, such as a program"),
            (_, _, 183) => Self::Other("an ELF file for arm64"),
            (_, _, 40) => Self::Other("an ELF file for 32-bit ARM"),
            (_, _, 243) => Self::Other("an ELF file for RISC-V"),
            (_, _, 3) => Self::Other("an ELF file for 32-bit x86"),
            _ => Self::Other("an ELF file for another machine"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; 1024];
        for (at, bytes) in parts {
            head[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn a_boot_image_says_what_it_needs() {
        let image = head(&[
            (0x1fe, b"\x55\xaa"),
            (0x202, b"HdrS\x0f\x02"),
            (0x236, b"\x3f\0"),
            (0x238, &2047_u32.to_le_bytes()),
            (0x260, &0x400_0000_u32.to_le_bytes()),
        ]);
        assert_eq!(
            KernelFormat::of(&image),
            KernelFormat::BzImage { entry64: true, cmdline_max: 2047, init_size: 0x400_0000 }
        );
    }

    #[test]
    fn an_old_boot_image_has_old_limits() {
        let image = head(&[(0x202, b"HdrS\x05\x02"), (0x236, b"\xff\xff\xff\xff")]);
        assert_eq!(
            KernelFormat::of(&image),
            KernelFormat::BzImage { entry64: false, cmdline_max: 255, init_size: 0 }
        );
    }

    #[test]
    fn what_is_no_kernel_is_called_by_its_name() {
        let elf =
            |kind: u8, machine: u8| head(&[(0, b"\x7fELF\x02\x01"), (0x10, &[kind, 0, machine])]);
        assert_eq!(KernelFormat::of(&elf(2, 62)), KernelFormat::Elf64X86);
        for (head, name) in [
            (elf(2, 183), "an ELF file for arm64"),
            (elf(3, 62), "an ELF file without fixed addresses, such as a program"),
            (head(&[(0x38, b"ARM\x64")]), "an arm64 kernel image"),
            (b"\x1f\x8b\x08".to_vec(), "gzip-compressed data"),
            (b"\x28\xb5\x2f\xfd".to_vec(), "zstd-compressed data"),
            (b"07070100".to_vec(), "a cpio archive, such as an initrd"),
            (b"#!/bin/sh\n".to_vec(), "a text file"),
            (Vec::new(), "an empty file"),
            (vec![0; 1024], "of an unknown format"),
        ] {
            assert_eq!(KernelFormat::of(&head), KernelFormat::Other(name));
        }
    }
}
