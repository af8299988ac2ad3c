//! Modules of the kernel, loaded when a function is to be given to vfio-pci.

use std::io;
use std::path::Path;
use std::process::Command;

use super::BindingError;
use crate::host::Functions;

/// The same as a command.
pub const COMMAND: &str = "modprobe -a vfio-pci vfio_iommu_type1";

/// What maps a guest's memory for DMA. vfio loads it itself with kmod's modprobe, by a softdep.
const TYPE1: &str = "vfio_iommu_type1";

/// Why a module is not there.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// There is no modprobe.
    #[error("modprobe cannot be run")]
    NoModprobe(#[source] io::Error),
    /// modprobe says why.
    #[error("modprobe says: {0}")]
    Refused(String),
}

/// Loads vfio-pci, unless `host` has it.
///
/// # Errors
/// The kernel has none, or this process may not load it.
pub fn need(host: &Functions) -> Result<(), BindingError> {
    if host.vfio_pci {
        return Ok(());
    }
    load("vfio-pci").map_err(BindingError::NoVfioPci)?;
    if !Path::new("/sys/module").join(TYPE1).exists()
        && let Err(error) = load(TYPE1)
    {
        // It may be that the kernel has another one.
        log::warn!("{TYPE1} is not loaded: {error}");
    }
    Ok(())
}

/// Loads a module.
///
/// # Errors
/// modprobe does not start, or says no.
pub fn load(module: &str) -> Result<(), ModuleError> {
    load_with(module, |modprobe| Command::new(modprobe).arg(module).output())
}

fn load_with(
    module: &str,
    run: impl Fn(&str) -> io::Result<std::process::Output>,
) -> Result<(), ModuleError> {
    log::debug!("loads {module}");
    // PATH last: it may be that of the user who has called sudo.
    let tried = ["/sbin/modprobe", "/usr/sbin/modprobe", "modprobe"].into_iter().map(run);
    let mut tried = tried
        .skip_while(|one| one.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
    let output = tried.next().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
    let output = output.map_err(ModuleError::NoModprobe)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(ModuleError::Refused(message.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{ExitStatus, Output};

    use super::*;

    #[test]
    fn modprobe_is_the_hosts_before_it_is_one_of_the_path() {
        let tried = RefCell::new(Vec::new());
        let result = load_with("kvm_amd", |modprobe| {
            tried.borrow_mut().push(modprobe.to_owned());
            if modprobe != "modprobe" {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(Output { status: ExitStatus::from_raw(0), stdout: Vec::new(), stderr: Vec::new() })
        });
        assert!(result.is_ok());
        let nowhere = load_with("kvm_amd", |_| Err(io::ErrorKind::NotFound.into()));
        assert!(matches!(nowhere, Err(ModuleError::NoModprobe(_))));
        assert_eq!(*tried.borrow(), ["/sbin/modprobe", "/usr/sbin/modprobe", "modprobe"]);
    }
}
