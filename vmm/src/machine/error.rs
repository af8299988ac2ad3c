//! Why a machine could not be built, or did not end in order.

use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use berth_arch::boot::BootError;
use berth_arch::regs::RegsError;
use berth_devices::pci::HostBdf;
use berth_devices::vfio::{FunctionError, IommuBackend, OpenError};
use vfio_ioctls::VfioError;

use crate::advice::Code;
use crate::machine::console::ConsoleError;
use crate::machine::kvm::KvmError;
use crate::machine::memory::MemoryError;
use crate::machine::vcpu::VcpuError;
use crate::sandbox::SandboxError;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory is not to be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A file of the config cannot be opened any more.
    #[error("cannot open {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot be loaded.
    #[error("cannot boot {}", .kernel.display())]
    Boot {
        /// The kernel.
        kernel: PathBuf,
        /// Cause.
        #[source]
        source: BootError,
    },
    /// A vCPU cannot be set up.
    #[error("cannot set up a vCPU")]
    Vcpu(#[from] RegsError),
    /// The container or the iommufd cannot be opened.
    #[error("cannot open VFIO's {backend}")]
    AddressSpace {
        /// Which of them.
        backend: IommuBackend,
        /// Cause.
        #[source]
        source: VfioError,
    },
    /// A device cannot be opened.
    #[error("cannot open {bdf} for passthrough ({file})")]
    Open {
        /// The device.
        bdf: HostBdf,
        /// VFIO's file for it: its group's, or its own.
        file: String,
        /// Cause.
        #[source]
        source: OpenError,
    },
    /// The kernel contradicts what sysfs said when the plan was made.
    #[error(
        "the IOMMU cannot map guest memory at {:#x}..{:#x}: it takes {} only",
        .range.start,
        .range.end,
        ranges(usable)
    )]
    Unusable {
        /// Guest physical addresses.
        range: Range<u64>,
        /// First and last address of what can be mapped.
        usable: Vec<RangeInclusive<u64>>,
    },
    /// Guest memory cannot be mapped for DMA.
    #[error("the IOMMU cannot map guest memory at {:#x}..{:#x}", .range.start, .range.end)]
    MapDma {
        /// Guest physical addresses.
        range: Range<u64>,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A device that has to be reset was not; a warning has said what the kernel says.
    #[error("{bdf} was not reset, and \"reset\": \"required\" asks for it")]
    NotReset {
        /// The device.
        bdf: HostBdf,
    },
    /// A device cannot be put into the machine.
    #[error("cannot put {bdf} into the machine")]
    Function {
        /// The device.
        bdf: HostBdf,
        /// Cause.
        #[source]
        source: FunctionError,
    },
    /// The host cannot report on the device.
    #[error("cannot watch {bdf} for errors and removal")]
    Notify {
        /// The device.
        bdf: HostBdf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The console cannot be used.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A layer of the sandbox cannot be had.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The host refused something else.
    #[error("berth cannot {doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }

    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Kvm(_) => Code::KvmRefused,
            Self::Memory(_) => Code::MemoryRefused,
            Self::File { .. } => Code::FileUnusable,
            Self::Boot { .. } => Code::BootFailed,
            Self::Vcpu(_) => Code::VcpuFailed,
            Self::AddressSpace { .. } | Self::Open { .. } => Code::VfioRefused,
            Self::Unusable { .. } | Self::MapDma { .. } => Code::DmaRefused,
            Self::NotReset { .. } => Code::ResetNone,
            Self::Function { .. } | Self::Notify { .. } => Code::DeviceRefused,
            Self::Console(_) => Code::ConsoleFailed,
            Self::Sandbox(_) => Code::SandboxFailed,
            Self::System { .. } => Code::SystemRefused,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            // The plan looks at all of these; what is left changed between plan and build.
            Self::Open { file, .. } => Some(format!(
                "`ls -l {file}` and `fuser -v {file}` show who may open it and who has it"
            )),
            Self::NotReset { bdf } => Some(format!(
                "look for {bdf} in the host's kernel log; the next power cycle of the host resets it"
            )),
            Self::Unusable { .. } => Some(
                "lower memory.size_mib so that it fits; the kernel's files in /sys/class/iommu and \
                 /sys/kernel/iommu_groups told berth of more"
                    .to_owned(),
            ),
            Self::Memory(MemoryError::Thread { .. }) => Some(
                "raise what limits its threads (`ulimit -u`, TasksMax= of its unit, pids.max of its \
                 cgroup), or its address space (`ulimit -v`)"
                    .to_owned(),
            ),
            Self::Memory(MemoryError::Map { .. }) => Some(
                "raise what limits its address space (`ulimit -v`, LimitAS= of its unit)".to_owned(),
            ),
            Self::Memory(MemoryError::Populate { .. }) => Some(
                "another process took the pages after berth had counted them; `berth plan` counts again".to_owned(),
            ),
            Self::Sandbox(error) => error.help(),
            _ => None,
        }
    }
}

/// Ranges as 0xFIRST-0xLAST.
fn ranges(ranges: &[RangeInclusive<u64>]) -> String {
    let text = ranges.iter().map(|range| format!("{:#x}-{:#x}", range.start(), range.end()));
    text.collect::<Vec<_>>().join(", ")
}

/// Why a running machine did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A vCPU cannot go on.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// What was still to be built cannot be had.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A layer of the sandbox cannot be had.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The host refused something.
    #[error("berth cannot {doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl RunError {
    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Vcpu(_) => Code::VcpuFailed,
            Self::Build(error) => error.code(),
            Self::Sandbox(_) => Code::SandboxFailed,
            Self::System { .. } => Code::SystemRefused,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Build(error) => error.help(),
            Self::Sandbox(error) => error.help(),
            Self::Vcpu(_) | Self::System { .. } => None,
        }
    }
}
