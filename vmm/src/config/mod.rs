//! What the user wishes: the JSON file that describes one machine.
//!
//! Only what the text alone can tell is checked here; whether the host can give it is decided by
//! the plan. Each field that has limits is a type of its own, so that whatever is wrong with a
//! value is found while its line and column are still known.

mod device;
mod error;
mod fields;
mod placement;
mod sandbox;
mod visit;

use std::fs::File;
use std::io::{self, Read};
use std::path::{self, Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use device::{BindMode, DeviceAddress, DeviceConfig, DeviceReset, OnError, OnRemoval};
pub use error::ConfigError;
pub use fields::{
    CommandLine, ConsoleLimit, MemorySize, Name, ShutdownTimeout, UnplugTimeout, VcpuCount,
};
pub use placement::{CpuChoice, InterruptCpus, PlacementConfig, SeveralNodes, Smt};
pub use sandbox::SandboxConfig;

use crate::units::{ConsoleKind, PageSize};
use visit::Object;

/// One machine, as its user describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The machine's name.
    pub name: Name,
    /// bzImage or ELF vmlinux.
    #[serde(deserialize_with = "fields::path")]
    pub kernel: PathBuf,
    /// Initial RAM disk.
    #[serde(
        default,
        deserialize_with = "fields::optional_path",
        skip_serializing_if = "Option::is_none"
    )]
    pub initrd: Option<PathBuf>,
    /// Kernel command line; empty when absent.
    #[serde(default)]
    pub cmdline: CommandLine,
    /// Number of vCPUs.
    pub vcpus: VcpuCount,
    /// Guest RAM.
    #[serde(deserialize_with = "visit::object")]
    pub memory: MemoryConfig,
    /// PCI functions of the host that the guest gets; may be empty.
    #[serde(default, deserialize_with = "device::devices")]
    pub devices: Vec<DeviceConfig>,
    /// What maps the devices' DMA.
    #[serde(default)]
    pub iommu_backend: IommuBackendConfig,
    /// Whether the devices reach each other's BARs by DMA.
    #[serde(default)]
    pub peer_to_peer: PeerToPeer,
    /// Where the guest's serial console goes.
    #[serde(default)]
    pub console: ConsoleConfig,
    /// Where on the host the machine lives.
    #[serde(default, deserialize_with = "visit::object")]
    pub placement: PlacementConfig,
    /// How vCPUs use their host CPUs.
    #[serde(default, deserialize_with = "visit::object")]
    pub cpu: CpuConfig,
    /// What keeps berth in, beside the filters of system calls.
    #[serde(default, deserialize_with = "visit::object")]
    pub sandbox: SandboxConfig,
    /// Seconds between the power button and the end.
    #[serde(default)]
    pub shutdown_timeout_s: ShutdownTimeout,
    /// Seconds that the guest has to let go of a device.
    #[serde(default)]
    pub unplug_timeout_s: UnplugTimeout,
    /// The file that it was read from, if any.
    #[serde(skip)]
    pub origin: Option<PathBuf>,
}

/// How vCPUs use their host CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CpuConfig {
    /// A vCPU keeps its CPU while it idles: it wakes without the host, and the host's CPU is as busy as
    /// one that works.
    pub dedicated: bool,
}

/// Guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "fields::Memory")]
pub struct MemoryConfig {
    /// Size in MiB; a multiple of the page size.
    pub size_mib: MemorySize,
    /// Size of the pages that back it.
    pub page_size: PageSize,
    /// When it is filled.
    pub fill: MemoryFill,
}

/// When guest memory is filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryFill {
    /// Behind the guest's start, where nothing speaks against it.
    #[default]
    Auto,
    /// Before the guest starts.
    Before,
}

/// What maps the devices' DMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IommuBackendConfig {
    /// What the host has; of two the one that can do more.
    #[default]
    Auto,
    /// VFIO's groups in a container.
    Container,
    /// VFIO's device files on an iommufd.
    Iommufd,
}

/// Whether the devices reach each other's BARs by DMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerToPeer {
    /// All BARs that the host's kernel is quick to map.
    #[default]
    Auto,
    /// All BARs.
    On,
    /// None.
    Off,
}

/// Where the guest's serial console goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleConfig {
    /// berth's own standard input and output.
    #[default]
    Stdio,
    /// Nowhere.
    Off,
    /// A pipe with a name, which somebody reads.
    Fifo(PathBuf),
    /// A Unix socket, at which somebody listens.
    Socket(PathBuf),
    /// A file.
    #[serde(untagged)]
    File(ConsoleFile),
}

impl ConsoleConfig {
    /// What it is outside of berth, and where.
    pub fn place(&self) -> Option<(ConsoleKind, &Path)> {
        match self {
            Self::Stdio | Self::Off => None,
            Self::File(console) => Some((ConsoleKind::File, &console.file)),
            Self::Fifo(path) => Some((ConsoleKind::Fifo, path)),
            Self::Socket(path) => Some((ConsoleKind::Socket, path)),
        }
    }
}

/// The file of a guest's serial console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsoleFile {
    /// Its path.
    pub file: PathBuf,
    /// Most that is written to it.
    pub limit_mib: ConsoleLimit,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// Relative paths in it start at the file's own folder, wherever berth was started.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON, or describes no machine.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let text = read(path).map_err(failed)?;
        let mut config = Self::parse(path, &text)?;
        // Absolute, so that the paths hold whatever folder berth is in later.
        let path = path::absolute(path).map_err(failed)?;
        config.resolve(path.parent().unwrap_or(Path::new("/")));
        config.origin = Some(path);
        Ok(config)
    }

    /// Reads `text`; errors name `path` as its origin.
    fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let read = serde_path_to_error::deserialize(&mut json);
        let Object(config) = read.map_err(|error| {
            let field = error.path().to_string();
            ConfigError::invalid(path, &field, &error.into_inner())
        })?;
        json.end().map_err(|error| ConfigError::invalid(path, ".", &error))?;
        Ok(config)
    }

    fn resolve(&mut self, folder: &Path) {
        let console = match &mut self.console {
            ConsoleConfig::File(console) => Some(&mut console.file),
            ConsoleConfig::Fifo(path) | ConsoleConfig::Socket(path) => Some(path),
            ConsoleConfig::Stdio | ConsoleConfig::Off => None,
        };
        for path in [Some(&mut self.kernel), self.initrd.as_mut(), console].into_iter().flatten() {
            // `join` leaves an absolute path as it is.
            *path = folder.join(&*path);
        }
    }
}

/// A machine's config has some 20 lines for each device, and at most a few dozen of those.
const LARGEST: u64 = 1 << 20;

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
