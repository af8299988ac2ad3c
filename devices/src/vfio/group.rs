//! What vfio-ioctls keeps to itself of the legacy groups: their descriptors, and the closing of a
//! device that the host is removing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use vfio_ioctls::{VfioContainer, VfioDevice};

/// Descriptors of the groups that this process holds, by number: a hot reset is allowed to who
/// shows those of all that it affects.
#[derive(Clone, Default)]
pub struct Groups(Arc<Mutex<BTreeMap<u32, OwnedFd>>>);

impl Groups {
    /// Takes a second descriptor of the group of the function at `sysfs`, which has been opened.
    ///
    /// A group can be opened once only, so that it has to be found among the descriptors of this
    /// process.
    pub fn add(&self, sysfs: &Path) -> io::Result<()> {
        let link = fs::read_link(sysfs.join("iommu_group"))?;
        let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(number) = name.parse() else { return Err(io::ErrorKind::InvalidData.into()) };
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.contains_key(&number) {
            return Ok(());
        }
        let wanted = Path::new("/dev/vfio").join(name);
        for entry in fs::read_dir("/proc/self/fd")? {
            let path = entry?.path();
            let Some(fd) = path.file_name().and_then(|name| name.to_str()?.parse::<RawFd>().ok())
            else {
                continue;
            };
            // The folder's own descriptor is gone by the time that it is looked at.
            if fs::read_link(&path).is_ok_and(|target| target == wanted) {
                // SAFETY: the descriptor is open: it is vfio-ioctls', which closes none meanwhile.
                let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                groups.insert(number, fd.try_clone_to_owned()?);
                return Ok(());
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Whether this process holds the group.
    pub fn holds(&self, number: u32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&number)
    }

    /// Calls `use_them` with the descriptors of those of `numbers` that are held.
    pub fn with<T>(&self, numbers: &[u32], use_them: impl FnOnce(&[RawFd]) -> T) -> T {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = numbers.iter().filter_map(|number| groups.get(number));
        use_them(&held.map(AsRawFd::as_raw_fd).collect::<Vec<_>>())
    }
}

/// Closes a device that is in `container`, and leaves its group there until the container goes.
///
/// The drop of `VfioDevice` looks the group up in sysfs once the device is closed, and panics when
/// it is not there any more: as when the host was waiting for just that to remove the device. It
/// also takes the group out of the container while other devices of the group are open.
pub fn close(device: VfioDevice, container: &Arc<VfioContainer>) {
    let fd = device.as_raw_fd();
    mem::forget(device);
    // SAFETY: the device was the owner of its descriptor and of one reference to the container
    // that it was opened in; it is forgotten, so that they are ours. The other reference keeps the
    // container alive here.
    unsafe {
        drop(OwnedFd::from_raw_fd(fd));
        Arc::decrement_strong_count(Arc::as_ptr(container));
    }
}
