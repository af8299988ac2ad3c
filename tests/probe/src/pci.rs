//! A PCI function through sysfs: configuration space and the memory of a BAR.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::memory::Mapping;

const COMMAND: u64 = 0x04;
const CAPABILITY_POINTER: u64 = 0x34;
/// Memory space and bus mastering.
const MEMORY_AND_MASTER: u16 = 1 << 1 | 1 << 2;

/// A function of this machine.
pub struct Function {
    sysfs: PathBuf,
    config: File,
}

impl Function {
    /// By its address, such as `0000:01:00.0`.
    pub fn open(address: &str) -> Result<Self> {
        let sysfs = PathBuf::from("/sys/bus/pci/devices").join(address);
        let config = OpenOptions::new().read(true).write(true).open(sysfs.join("config"));
        let config = config.with_context(|| format!("no configuration space of {address}"))?;
        Ok(Self { sysfs, config })
    }

    /// Reads configuration space.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.config.read_exact_at(data, offset).with_context(|| format!("reading {offset:#x}"))
    }

    /// Writes configuration space.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.config.write_all_at(data, offset).with_context(|| format!("writing {offset:#x}"))
    }

    /// Two bytes.
    pub fn half(&self, offset: u64) -> Result<u16> {
        let mut data = [0; 2];
        self.read(offset, &mut data)?;
        Ok(u16::from_le_bytes(data))
    }

    /// Four bytes.
    pub fn word(&self, offset: u64) -> Result<u32> {
        let mut data = [0; 4];
        self.read(offset, &mut data)?;
        Ok(u32::from_le_bytes(data))
    }

    /// Offset of a capability.
    pub fn capability(&self, id: u8) -> Result<Option<u64>> {
        let mut at = self.half(CAPABILITY_POINTER)? & 0xfc;
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            let [found, next] = self.half(at.into())?.to_le_bytes();
            if found == id {
                return Ok(Some(at.into()));
            }
            at = u16::from(next) & 0xfc;
        }
        Ok(None)
    }

    /// Lets it answer in memory space and do DMA.
    pub fn enable(&self) -> Result<()> {
        let command = self.half(COMMAND)? | MEMORY_AND_MASTER;
        self.write(COMMAND, &command.to_le_bytes())
    }

    /// The whole of a BAR.
    pub fn map(&self, bar: u8) -> Result<Mapping> {
        let path = self.sysfs.join(format!("resource{bar}"));
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let length = file.metadata()?.len() as usize;
        Mapping::of_file(&file, 0, length).with_context(|| format!("mapping {}", path.display()))
    }

    /// First address, last address and flags of its resources, as the kernel has them.
    pub fn resources(&self) -> Result<Vec<[u64; 3]>> {
        let text = std::fs::read_to_string(self.sysfs.join("resource"))?;
        let line = |line: &str| {
            let mut words = line
                .split(' ')
                .map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
            Some([words.next()??, words.next()??, words.next()??])
        };
        Ok(text.lines().filter_map(line).collect())
    }
}
