//! VFIO's modules and device files: what makes them be there and open.

use berth_devices::vfio::IommuBackend;

use super::{Code, Steps};
use crate::host::{Access, Capability, Holder, HostProfile, ModuleState};

/// Modules that the container wants: not every modprobe follows the soft dependency of vfio on
/// its IOMMU driver.
pub const LOAD: &str = "`modprobe -a vfio-pci vfio_iommu_type1`";

/// A module is not loaded.
pub fn module(name: &str, state: ModuleState) -> Steps {
    vec![match state {
        ModuleState::Absent => {
            "install a kernel with CONFIG_VFIO_PCI, such as the distribution's own".to_owned()
        }
        ModuleState::Loaded | ModuleState::Available | ModuleState::Unknown => {
            format!("`modprobe {name}`")
        }
    }]
}

/// The file that all devices share: the container's or iommufd's own.
pub fn shared_file(host: &HostProfile, backend: IommuBackend, access: &Access) -> Steps {
    let step = match (access, backend) {
        (Access::Missing | Access::Denied, _) if host.system.container.is_some() => {
            "give the container the device with its files: a device plugin's resource, or \
             `--device`"
                .to_owned()
        }
        (Access::Denied, IommuBackend::Container) => {
            "`chmod 0666 /dev/vfio/vfio`; it gives no device away".to_owned()
        }
        (Access::Denied, IommuBackend::Iommufd) => {
            "`chgrp kvm /dev/iommu`; it gives no device away".to_owned()
        }
        (_, IommuBackend::Container) => LOAD.to_owned(),
        (_, IommuBackend::Iommufd) => {
            "`modprobe iommufd`, or set iommu_backend to \"container\"".to_owned()
        }
    };
    vec![step]
}

/// The code of a device's or a group's file that does not open.
pub fn file_code(access: &Access) -> Code {
    match access {
        Access::Busy(_) => Code::GroupHeld,
        _ => Code::VfioNoAccess,
    }
}

/// A device's or a group's file does not open.
pub fn file(host: &HostProfile, path: &str, access: &Access) -> Steps {
    let in_container = host.system.container.is_some();
    let step = match access {
        Access::Busy(Some(Holder { pid, .. })) => format!("end process {pid} first"),
        Access::Busy(None) => format!("`fuser -v {path}` as root names the process"),
        Access::Denied | Access::Missing if in_container => {
            "give the container the device: a device plugin's resource, or `--device`, which adds \
             it to the cgroup's devices too"
                .to_owned()
        }
        // Root may open any file: what denies it is the cgroup's device program or a security
        // module.
        Access::Denied if host.process.has(Capability::DacOverride) => {
            "root is denied too: the cgroup of this process does not have the device \
             (`DeviceAllow=` of a systemd unit), or a security module forbids it"
                .to_owned()
        }
        Access::Denied => format!(
            "`chown USER {path}`, or a udev rule: SUBSYSTEM==\"{}\", OWNER=\"USER\"",
            if path.starts_with("/dev/vfio/devices/") { "vfio-dev" } else { "vfio" }
        ),
        Access::Missing => {
            "bind the device; the kernel makes the file then, if it has this way to VFIO".to_owned()
        }
        Access::Granted | Access::Unknown | Access::Failed(_) => {
            "`dmesg | grep -i vfio` may say why".to_owned()
        }
    };
    vec![step]
}

/// VFIO did not put a group into an IOMMU domain, with the number of its reason
/// (`vfio_iommu_type1_attach_group` in drivers/vfio/vfio_iommu_type1.c: EPERM without interrupt
/// remapping, EINVAL for memory that the firmware keeps and ENODEV without the module).
pub fn not_attached(host: &HostProfile, errno: Option<i32>) -> Steps {
    let said = super::line(&host.log, &["Please use allow_unsafe_interrupts", "1:1 mapping"], &[]);
    let mut steps: Steps =
        said.map(|line| format!("the kernel said: {line}")).into_iter().collect();
    match errno {
        Some(libc::EPERM) => {
            steps.extend(super::remapping::off(host, IommuBackend::Container).steps);
        }
        Some(libc::ENODEV) => steps.push(LOAD.to_owned()),
        _ => {}
    }
    steps.push("`dmesg | grep -i -e vfio -e iommu` may say why".to_owned());
    steps
}

/// The kernel makes no files of devices, which iommufd needs.
pub fn no_device_file() -> Steps {
    vec![
        "set iommu_backend to \"container\", or boot the host with a kernel that has \
         CONFIG_VFIO_DEVICE_CDEV"
            .to_owned(),
    ]
}
