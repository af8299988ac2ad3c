//! The config's field types: each refuses a bad value while its position is known.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

use super::visit::{bounded, parsed};
use super::{ConsoleConfig, ConsoleFile, MemoryConfig, MemoryFill};
use crate::units::PageSize;

/// Longest name: the kernel cuts a thread's name after 15 bytes (TASK_COMM_LEN).
const NAME_MAX: usize = 15;
/// vCPU indexes are xAPIC IDs: 8 bits, of which 255 addresses all CPUs.
const VCPUS: RangeInclusive<u64> = 1..=255;
/// A distribution's kernel with its initrd does not start in less than 64 MiB; 16 TiB fit the
/// narrowest address width (46 bits) of servers that hold so much.
const MEMORY_MIB: RangeInclusive<u64> = 64..=16 << 20;
const SHUTDOWN_S: RangeInclusive<u64> = 0..=86_400;
/// Up to 1 TiB: more than that is no log of a console.
const CONSOLE_MIB: RangeInclusive<u64> = 1..=1 << 20;
const UNPLUG_S: RangeInclusive<u64> = 0..=86_400;

/// A machine's name: 1 to 15 of `A-Z a-z 0-9 . _ -`, beginning with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says what a `Name` is.
const NAME: &str = "1 to 15 letters, digits, `.`, `_` or `-`, beginning with a letter or a digit";

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let good = text.len() <= NAME_MAX
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(allowed);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("`{text}` is not a name; expected {NAME}"))
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, NAME)
    }
}

/// A kernel command line: printable text on one line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct CommandLine(String);

impl CommandLine {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CommandLine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.chars().find(|c| c.is_control()) {
            Some(c) => Err(format!("{c:?} has no place in a kernel command line")),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "a kernel command line")
    }
}

/// Number of vCPUs, 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct VcpuCount(u8);

impl VcpuCount {
    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl<'de> Deserialize<'de> for VcpuCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = bounded(deserializer, VCPUS, "a number of vCPUs from 1 to 255")?;
        Ok(Self(count as u8))
    }
}

/// Size of guest RAM, 64 MiB to 16 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct MemorySize(u64);

impl MemorySize {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0 << 20
    }

    /// In MiB.
    pub fn mib(self) -> u64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bounded(deserializer, MEMORY_MIB, "a size in MiB from 64 to 16777216").map(Self)
    }
}

/// Seconds between the power button and the end, 0 to 86,400; 30 when absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ShutdownTimeout(u64);

impl ShutdownTimeout {
    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl Default for ShutdownTimeout {
    fn default() -> Self {
        Self(30)
    }
}

impl<'de> Deserialize<'de> for ShutdownTimeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bounded(deserializer, SHUTDOWN_S, "a number of seconds from 0 to 86400").map(Self)
    }
}

/// Seconds that the guest has to let go of a device, 0 to 86,400; 30 when absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct UnplugTimeout(u64);

impl UnplugTimeout {
    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl Default for UnplugTimeout {
    fn default() -> Self {
        Self(30)
    }
}

impl<'de> Deserialize<'de> for UnplugTimeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bounded(deserializer, UNPLUG_S, "a number of seconds from 0 to 86400").map(Self)
    }
}

/// Most of a guest's console that is kept, 1 MiB to 1 TiB; 64 MiB when absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ConsoleLimit(u64);

impl ConsoleLimit {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0 << 20
    }
}

impl Default for ConsoleLimit {
    fn default() -> Self {
        Self(64)
    }
}

impl<'de> Deserialize<'de> for ConsoleLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bounded(deserializer, CONSOLE_MIB, "a size in MiB from 1 to 1048576").map(Self)
    }
}

/// `MemoryConfig` before its two fields are held against each other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    size_mib: MemorySize,
    #[serde(default = "default_page_size", deserialize_with = "page_size")]
    page_size: PageSize,
    #[serde(default)]
    fill: MemoryFill,
}

fn default_page_size() -> PageSize {
    PageSize::Size1G
}

impl TryFrom<Memory> for MemoryConfig {
    type Error = String;

    fn try_from(memory: Memory) -> Result<Self, String> {
        let Memory { size_mib, page_size, fill } = memory;
        if !size_mib.bytes().is_multiple_of(page_size.bytes()) {
            let page_mib = page_size.bytes() >> 20;
            let below = size_mib.mib() / page_mib * page_mib;
            let above = below + page_mib;
            let near = if below == 0 { format!("{above}") } else { format!("{below} or {above}") };
            return Err(format!(
                "size_mib {} is not a multiple of the page size {page_size} ({page_mib} MiB); \
                 expected {near}, or a smaller page_size",
                size_mib.mib()
            ));
        }
        Ok(Self { size_mib, page_size, fill })
    }
}

/// A console that is neither standard input and output nor nothing: one of three kinds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsoleObject {
    #[serde(default, deserialize_with = "optional_path")]
    file: Option<PathBuf>,
    limit_mib: Option<ConsoleLimit>,
    #[serde(default, deserialize_with = "optional_path")]
    fifo: Option<PathBuf>,
    #[serde(default, deserialize_with = "optional_path")]
    socket: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for ConsoleConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ConsoleVisitor;

        impl<'de> Visitor<'de> for ConsoleVisitor {
            type Value = ConsoleConfig;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(
                    "`stdio`, `off`, {\"file\": PATH}, {\"fifo\": PATH} or {\"socket\": PATH}",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ConsoleConfig, E> {
                match text {
                    "stdio" => Ok(ConsoleConfig::Stdio),
                    "off" => Ok(ConsoleConfig::Off),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ConsoleConfig, A::Error> {
                let map = de::value::MapAccessDeserializer::new(map);
                match ConsoleObject::deserialize(map)? {
                    ConsoleObject { file: Some(file), limit_mib, fifo: None, socket: None } => {
                        let limit_mib = limit_mib.unwrap_or_default();
                        Ok(ConsoleConfig::File(ConsoleFile { file, limit_mib }))
                    }
                    ConsoleObject { limit_mib: Some(_), .. } => {
                        Err(de::Error::custom("`limit_mib` is of a `file`, and of nothing else"))
                    }
                    ConsoleObject { fifo: Some(path), file: None, socket: None, .. } => {
                        Ok(ConsoleConfig::Fifo(path))
                    }
                    ConsoleObject { socket: Some(path), file: None, fifo: None, .. } => {
                        Ok(ConsoleConfig::Socket(path))
                    }
                    _ => Err(de::Error::custom("expected one of `file`, `fifo` and `socket`")),
                }
            }
        }

        deserializer.deserialize_any(ConsoleVisitor)
    }
}

pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    struct NonEmpty(PathBuf);

    impl FromStr for NonEmpty {
        type Err = &'static str;

        fn from_str(text: &str) -> Result<Self, Self::Err> {
            if text.is_empty() || text.contains('\0') {
                return Err("expected the path of a file");
            }
            Ok(Self(PathBuf::from(text)))
        }
    }

    parsed::<_, NonEmpty>(deserializer, "the path of a file").map(|NonEmpty(path)| path)
}

pub(super) fn optional_path<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    path(deserializer).map(Some)
}

fn page_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PageSize, D::Error> {
    parsed(deserializer, "a page size: \"1G\", \"2M\" or \"4K\"")
}
