//! VFIO's own answer to whether a group can go to a guest.

use std::collections::BTreeMap;
use std::error::Error;

use berth_devices::pci::HostBdf;
use berth_devices::vfio::{AttachError, try_attach};
use serde::Serialize;

use super::root::Root;
use super::{Access, HostProfile};

/// What VFIO said when it was asked to put a group into an IOMMU domain. It outranks what tables
/// and parameters let one guess of the IOMMU and of interrupt remapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attach {
    /// It did.
    Works,
    /// It did not.
    Refused {
        /// What it refused, and the system's reason.
        reason: String,
        /// The number of that reason.
        errno: Option<i32>,
    },
}

impl Attach {
    /// Tries the groups of `devices` that are VFIO's and that nobody has. Only on this host, for its
    /// own sake: a snapshot has none, as it has no device files.
    pub(super) fn try_groups(
        root: &Root,
        host: &HostProfile,
        devices: &[HostBdf],
    ) -> BTreeMap<u32, Self> {
        if !root.is_live() || root.is_recorded() || host.vfio != Access::Granted {
            return BTreeMap::new();
        }
        let functions = devices.iter().filter_map(|device| host.functions.pci(*device));
        let groups = functions.filter(|function| function.is_bound_to_vfio());
        let free = groups
            .filter_map(|function| function.group)
            .filter(|group| host.group_files.get(group) == Some(&Access::Granted));
        free.filter_map(|group| Some((group, Self::of(try_attach(group))?))).collect()
    }

    /// What somebody else was quicker to take, or has given another driver, is told of by findings
    /// of its own.
    fn of(result: Result<(), AttachError>) -> Option<Self> {
        match result {
            Ok(()) => Some(Self::Works),
            Err(AttachError::Open { .. } | AttachError::NotViable) => None,
            Err(error @ AttachError::Refused { .. }) => {
                let AttachError::Refused { source, .. } = &error else { return None };
                let errno = source.raw_os_error();
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                Some(Self::Refused { reason: format!("{error}: {cause}"), errno })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_refusal_keeps_its_call_and_its_reason() {
        let call = "VFIO_SET_IOMMU";
        let source = io::Error::from_raw_os_error(libc::EPERM);
        let Some(Attach::Refused { reason, errno }) =
            Attach::of(Err(AttachError::Refused { call, source }))
        else {
            panic!("it was refused")
        };
        assert!(
            reason.starts_with("VFIO_SET_IOMMU is refused: Operation not permitted"),
            "{reason}"
        );
        assert_eq!(errno, Some(libc::EPERM));
        assert_eq!(Attach::of(Ok(())), Some(Attach::Works));
        assert_eq!(Attach::of(Err(AttachError::NotViable)), None);
    }
}
