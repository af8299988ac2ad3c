//! VFIO's device files: which of them this process can open, and who holds the others.

use std::collections::BTreeMap;
use std::path::Path;

use berth_devices::pci::HostBdf;

use super::access::{Access, Holder};
use super::pci::PciFunction;
use super::root::Root;

/// The files of both ways to VFIO. A machine without devices needs none, and none is looked at.
#[derive(Default)]
pub(super) struct VfioFiles {
    /// /dev/vfio/vfio.
    pub(super) container: Access,
    /// /dev/vfio/GROUP.
    pub(super) groups: BTreeMap<u32, Access>,
    /// /dev/iommu.
    pub(super) iommufd: Access,
    /// /dev/vfio/devices/vfioN, by function.
    pub(super) devices: BTreeMap<HostBdf, Access>,
}

/// Path of the file of a group.
pub fn group_file(group: u32) -> String {
    format!("/dev/vfio/{group}")
}

/// Path of a device's own file, from its name.
pub fn device_file(name: &str) -> String {
    format!("/dev/vfio/devices/{name}")
}

impl VfioFiles {
    pub(super) fn probe<'a>(
        root: &Root,
        functions: impl Iterator<Item = (HostBdf, &'a PciFunction)>,
    ) -> Self {
        let mut files = Self::default();
        for (bdf, function) in functions {
            let Some(group) = function.group else { continue };
            if files.groups.is_empty() {
                files.container = Access::probe(root, "/dev/vfio/vfio");
                files.iommufd = Access::probe(root, "/dev/iommu");
            }
            let probe = || Access::probe(root, &group_file(group));
            let of_group = files.groups.entry(group).or_insert_with(probe);
            if let Some(name) = &function.device_file {
                let access = probe_device(root, name, of_group);
                // Who has one of the group's devices by its own file has the group.
                if let (Access::Busy(None), Access::Busy(Some(_))) = (&*of_group, &access) {
                    *of_group = access.clone();
                }
                files.devices.insert(bdf, access);
            }
        }
        files
    }
}

fn probe_device(root: &Root, name: &str, group: &Access) -> Access {
    let path = device_file(name);
    judge(Access::probe(root, &path), group, || Holder::of(root, Path::new(&path)))
}

/// A device's own file opens for everybody, and only one can bind it to an iommufd: that shows at
/// the group's file, which then is busy, or else at who has the device's file open (`holder`).
fn judge(own: Access, group: &Access, holder: impl FnOnce() -> Option<Holder>) -> Access {
    match (own, group) {
        (Access::Granted, Access::Busy(Some(holder))) => Access::Busy(Some(holder.clone())),
        (Access::Granted, Access::Busy(None)) => Access::Busy(holder()),
        // Without a file for the group, as where VFIO_GROUP is off.
        (Access::Granted, Access::Missing) => match holder() {
            Some(holder) => Access::Busy(Some(holder)),
            None => Access::Granted,
        },
        (own, _) => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_file_that_opens_may_be_held_all_the_same() {
        let qemu = || Some(Holder { pid: 7, comm: "qemu".to_owned() });
        let nobody = || None;
        let unasked = || panic!("processes are looked through for nothing");
        let held = Access::Busy(qemu());
        assert_eq!(judge(Access::Granted, &held, unasked), held);
        assert_eq!(judge(Access::Granted, &Access::Busy(None), qemu), held);
        assert_eq!(judge(Access::Granted, &Access::Busy(None), nobody), Access::Busy(None));
        assert_eq!(judge(Access::Granted, &Access::Missing, qemu), held);
        assert_eq!(judge(Access::Granted, &Access::Missing, nobody), Access::Granted);
        for group in [Access::Granted, Access::Denied, Access::Unknown] {
            assert_eq!(judge(Access::Granted, &group, unasked), Access::Granted);
        }
        assert_eq!(judge(Access::Denied, &held, unasked), Access::Denied);
        assert_eq!(judge(Access::Unknown, &Access::Unknown, unasked), Access::Unknown);
    }
}
