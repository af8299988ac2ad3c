//! Whether VFIO would put a group into an IOMMU domain: tried, and undone at once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE, VFIO_TYPE1v2_IOMMU, vfio_group_status,
};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_SET_IOMMU, VFIO_TYPE.into(), VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_GET_STATUS, VFIO_TYPE.into(), VFIO_BASE + 3);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 4);

/// Why VFIO would not.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A file does not open.
    #[error("{path} does not open")]
    Open {
        /// The file.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A function of the group has another driver.
    #[error("VFIO does not find the group viable")]
    NotViable,
    /// The group, or its domain, is refused.
    #[error("{call} is refused")]
    Refused {
        /// The ioctl.
        call: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// Puts `group` into a container of its own with a type 1 IOMMU, as a start does before it opens a
/// device, and takes it out again. No device is opened, so none is enabled or reset.
///
/// # Errors
/// What VFIO refuses.
pub fn try_attach(group: u32) -> Result<(), AttachError> {
    let container = open("/dev/vfio/vfio".to_owned())?;
    let group = open(format!("/dev/vfio/{group}"))?;
    /// Bytes of the structure: two words.
    const STATUS: u32 = 8;
    const { assert!(size_of::<vfio_group_status>() == STATUS as usize) };
    let mut status = vfio_group_status { argsz: STATUS, ..vfio_group_status::default() };
    // SAFETY: the structure has the `argsz` bytes that it promises the kernel.
    let result = unsafe { ioctl_with_mut_ref(&group, VFIO_GROUP_GET_STATUS(), &mut status) };
    allowed("VFIO_GROUP_GET_STATUS", result)?;
    if status.flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
        return Err(AttachError::NotViable);
    }
    let descriptor = container.as_raw_fd();
    // SAFETY: the kernel reads the one number, a descriptor that is open.
    let result = unsafe { ioctl_with_ref(&group, VFIO_GROUP_SET_CONTAINER(), &descriptor) };
    allowed("VFIO_GROUP_SET_CONTAINER", result)?;
    // SAFETY: the argument is a number.
    let result = unsafe { ioctl_with_val(&container, VFIO_SET_IOMMU(), VFIO_TYPE1v2_IOMMU.into()) };
    allowed("VFIO_SET_IOMMU", result)
    // The group's last descriptor takes it out of the container (`vfio_group_fops_release`).
}

fn open(path: String) -> Result<File, AttachError> {
    let options =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&path);
    options.map_err(|source| AttachError::Open { path, source })
}

fn allowed(call: &'static str, result: i32) -> Result<(), AttachError> {
    if result < 0 {
        return Err(AttachError::Refused { call, source: io::Error::last_os_error() });
    }
    Ok(())
}
