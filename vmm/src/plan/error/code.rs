//! The code of each refusal. One for a fault that `berth check` looks for has the fault's.

use super::PlanError;
use crate::advice::{Code, device, vfio};
use crate::host::Access;

impl PlanError {
    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Foreign { .. } => Code::HostForeign,
            Self::Unfit { unfit, .. } => device::unfit_code(unfit),
            Self::CgroupLimit { resource, .. } => resource.code(),
            Self::File { .. } => Code::FileUnusable,
            Self::ConsoleFile { .. } => Code::ConsoleFile,
            Self::NotAKernel { .. } => Code::KernelFormat,
            Self::CommandLineTooLong { .. } => Code::CmdlineLong,
            Self::MemoryTooSmall { .. } => Code::GuestMemorySmall,
            Self::NoVirtualization => Code::CpuNoVirt,
            Self::Kvm { .. } | Self::KvmRefuses { .. } => Code::KvmUnavailable,
            Self::NoSuchDevice { .. } => Code::DeviceAbsent,
            Self::Bridge { .. } => Code::DeviceBridge,
            Self::NoIommu => Code::IommuAbsent,
            Self::IommuOff { .. } => Code::IommuOff,
            Self::NotBehindIommu { .. } => Code::DeviceNoIommu,
            Self::NotBound { .. } => Code::DeviceNotBound,
            Self::InUse { .. } | Self::HasVirtualFunctions { .. } => Code::DeviceInUse,
            Self::NoReset { .. } => Code::ResetNone,
            Self::NotVirtual { .. } => Code::DeviceNotVirtual,
            Self::NoFreeVf { .. } => Code::VfNoneFree,
            Self::VariableUnset { .. }
            | Self::VariableMalformed { .. }
            | Self::VariableExhausted { .. } => Code::DevicesVariable,
            Self::DeviceTwice { .. } => Code::DeviceTwice,
            Self::GroupNotViable { .. } => Code::GroupNotViable,
            Self::NoInterruptRemapping { .. } => Code::IntremapOff,
            Self::Vfio { access: Access::Missing } => Code::VfioNoModule,
            Self::Vfio { .. } | Self::Iommufd { .. } | Self::NoDeviceFile { .. } => {
                Code::VfioNoAccess
            }
            Self::Group { access, .. } | Self::DeviceFile { access, .. } => vfio::file_code(access),
            Self::NoSuchNode { .. } => Code::NodeAbsent,
            Self::NodeWithoutMemory { .. } => Code::NodeEmpty,
            Self::NodeNotAllowed { .. } => Code::NodeNotAllowed,
            Self::SeveralNodes { .. } => Code::NodesSeveral,
            Self::TooFewCpus { .. } => Code::CpusFew,
            Self::CpuCount { .. } => Code::CpuCount,
            Self::CpuShared { .. } => Code::CpuNotDedicated,
            Self::CpuNotOnline { .. } | Self::InterruptCpuNotOnline { .. } => Code::CpuOffline,
            Self::CpuNotAllowed { .. } | Self::CpuPartitioned { .. } => Code::CpuNotAllowed,
            Self::TooFewPages { need, free, others, .. } => {
                let elsewhere: u64 = others.iter().map(|(_, free)| free).sum();
                if free + elsewhere >= *need {
                    Code::HugepagesElsewhere
                } else {
                    Code::HugepagesShort
                }
            }
            Self::NoPool { .. } | Self::PagesPromised { .. } => Code::HugepagesShort,
            Self::TooLittleMemory { .. } => Code::MemoryShort,
            Self::ReservedLow { .. } => Code::IovaHoles,
            Self::AddressSpace { .. } => Code::AddressSpace,
            Self::TooManyDevices { .. } => Code::DevicesMany,
            Self::WindowFull { .. } => Code::BarWindowFull,
            Self::MemlockLimit { .. } => Code::MemlockLow,
            Self::OpenFilesLimit { .. } => Code::FilesLow,
            Self::SizeLimit { resource, .. } => resource.code(),
        }
    }
}
