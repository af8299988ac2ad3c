//! What the guest boots, and whether the host can run a guest at all.

use super::{BootPlan, PlanError};
use crate::config::Config;
use crate::host::{Access, FileFacts, FileState, HostProfile, KernelFormat, KvmAnswer};

/// x86's COMMAND_LINE_SIZE less its terminator, for formats that name no limit of their own.
const CMDLINE_MAX: usize = 2047;

/// What else the first megabytes of RAM hold: boot structures, tables, the kernel's early
/// allocations.
const BOOT_OVERHEAD: u64 = 16 << 20;

pub(super) fn plan(config: &Config, host: &HostProfile) -> Result<BootPlan, PlanError> {
    check_kvm(host)?;

    let kernel = host.kernel.as_ref();
    let kernel_size = kernel.map_or(Ok(0), |kernel| file_size("kernel", &kernel.file))?;
    let (max, unpacked) = match kernel.and_then(|kernel| kernel.format) {
        Some(KernelFormat::BzImage { entry64: true, cmdline_max, init_size }) => {
            (cmdline_max as usize, u64::from(init_size))
        }
        Some(KernelFormat::Elf64X86) | None => (CMDLINE_MAX, 0),
        Some(KernelFormat::BzImage { entry64: false, .. }) => {
            return Err(not_a_kernel(config, "a 32-bit x86 kernel"));
        }
        Some(KernelFormat::Other(found)) => return Err(not_a_kernel(config, found)),
    };
    let length = config.cmdline.as_str().len();
    if length > max {
        return Err(PlanError::CommandLineTooLong { length, max });
    }

    if let (Some((kind, path)), Some(reason)) = (config.console.place(), host.console_refusal) {
        return Err(PlanError::ConsoleFile { kind, path: path.to_owned(), reason });
    }

    let initrd_size = match &host.initrd {
        Some(file) => file_size("initrd", file)?,
        None => 0,
    };
    let need = kernel_size.max(unpacked) + initrd_size + BOOT_OVERHEAD;
    let size = config.memory.size_mib.bytes();
    if need > size {
        return Err(PlanError::MemoryTooSmall { need, size });
    }

    Ok(BootPlan {
        kernel: config.kernel.clone(),
        initrd: config.initrd.clone(),
        cmdline: config.cmdline.as_str().to_owned(),
    })
}

fn check_kvm(host: &HostProfile) -> Result<(), PlanError> {
    if let KvmAnswer::Refused(reason) = &host.kvm_answer {
        return Err(PlanError::KvmRefuses { reason: reason.clone() });
    }
    match &host.kvm {
        Access::Granted | Access::Unknown => Ok(()),
        Access::Missing if host.cpus.virtualization == Some(false) => {
            Err(PlanError::NoVirtualization)
        }
        access => Err(PlanError::Kvm { access: access.clone() }),
    }
}

/// Size of a file in bytes; 0 where only a snapshot is known.
fn file_size(role: &'static str, file: &FileFacts) -> Result<u64, PlanError> {
    match file.state {
        FileState::File { size } => Ok(size),
        FileState::Unknown => Ok(0),
        FileState::Missing | FileState::NotAFile(_) | FileState::Unreadable(_) => {
            Err(PlanError::File { role, path: file.path.clone(), state: file.state.clone() })
        }
    }
}

fn not_a_kernel(config: &Config, found: &'static str) -> PlanError {
    PlanError::NotAKernel { path: config.kernel.clone(), found }
}
