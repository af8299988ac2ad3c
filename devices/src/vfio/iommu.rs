//! The two ways to VFIO behind one door: groups in a container, or device files on an iommufd.
//!
//! Both give functions to open and one I/O address space that all of them share. They differ in
//! what is opened, and in that an iommufd pins what it maps and so takes no BARs: those are no
//! memory that could be pinned (`pfn_reader_user_pin` in drivers/iommu/iommufd/pages.c).

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use iommufd_ioctls::{IommuFd, IommufdError};
use serde::Serialize;
use vfio_ioctls::{VfioContainer, VfioDeviceFd, VfioError, VfioIommufd};

use super::dma::DmaPort;
use super::group::Groups;
use super::iova;

/// What maps the devices' DMA, in the kernel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IommuBackend {
    /// `/dev/vfio/vfio` and a file for each group, `/dev/vfio/GROUP`.
    Container,
    /// `/dev/iommu` and a file for each device, `/dev/vfio/devices/vfioN`.
    Iommufd,
}

impl fmt::Display for IommuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Iommufd => "iommufd",
        })
    }
}

/// An I/O address space and what is needed to open functions into it.
#[derive(Clone)]
pub enum AddressSpace {
    /// Of a container.
    Container {
        /// The container.
        container: Arc<VfioContainer>,
        /// The groups in it.
        groups: Groups,
    },
    /// Of an iommufd (its IOAS).
    Iommufd(Arc<VfioIommufd>),
}

impl AddressSpace {
    /// Opens `/dev/vfio/vfio` or `/dev/iommu`. KVM learns of each group or device through its
    /// VFIO device, so that it can treat their DMA as coherent
    /// (Documentation/virt/kvm/devices/vfio.rst).
    ///
    /// # Errors
    /// The file is not there, may not be opened, or the kernel has no IOMMU of this kind.
    pub fn open(backend: IommuBackend, kvm_vfio: VfioDeviceFd) -> Result<Self, VfioError> {
        let kvm_vfio = Some(Arc::new(kvm_vfio));
        Ok(match backend {
            IommuBackend::Container => {
                let container = Arc::new(VfioContainer::new(kvm_vfio)?);
                Self::Container { container, groups: Groups::default() }
            }
            IommuBackend::Iommufd => {
                let iommufd = IommuFd::new().map_err(VfioError::NewVfioIommufd)?;
                let space = VfioIommufd::new(Arc::new(iommufd), None, kvm_vfio)?;
                Self::Iommufd(Arc::new(space))
            }
        })
    }

    /// Addresses, in order, that may be mapped for all functions opened so far. `None` when the
    /// kernel does not tell, as containers of kernels before 5.4.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn usable(&self) -> io::Result<Option<Vec<RangeInclusive<u64>>>> {
        match self {
            Self::Container { container, .. } => iova::of_container(container),
            Self::Iommufd(space) => iova::of_ioas(space.iommufd(), space.ioas().id()).map(Some),
        }
    }
}

impl DmaPort for AddressSpace {
    unsafe fn map(&self, iova: u64, host: *mut u8, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        // SAFETY: the caller's promise is the one that is asked for.
        let mapped = unsafe {
            match self {
                Self::Container { container, .. } => container.vfio_dma_map(iova, length, host),
                Self::Iommufd(space) => space.vfio_dma_map(iova, length, host),
            }
        };
        mapped.map_err(system_error)
    }

    fn unmap(&self, iova: u64, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let unmapped = match self {
            Self::Container { container, .. } => container.vfio_dma_unmap(iova, length),
            Self::Iommufd(space) => space.vfio_dma_unmap(iova, length),
        };
        unmapped.map_err(system_error)
    }
}

/// The system's reason of a refused mapping.
fn system_error(error: VfioError) -> io::Error {
    match error {
        VfioError::IommuDmaMap(error)
        | VfioError::IommuDmaUnmap(error)
        | VfioError::IommufdIoctlError(
            IommufdError::IommuIoasMap(error) | IommufdError::IommuIoasUnmap(error),
        ) => error.into(),
        other => io::Error::other(other),
    }
}
