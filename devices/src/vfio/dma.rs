//! The door to the IOMMU: what devices reach, and under which addresses.

use std::io;
use std::sync::Arc;

/// One operation per method.
pub trait DmaPort: Send + Sync {
    /// Lets the devices reach `length` bytes at `host` under the I/O virtual address `iova`. Pages
    /// of RAM stay pinned.
    ///
    /// # Errors
    /// `EFAULT`, `EINVAL`: it is no memory that this kernel maps, as BARs are for some. `EEXIST`: a part
    /// of it is mapped. `ENOMEM`: the limit of locked memory, or of mappings (`ENOSPC`), is reached.
    ///
    /// # Safety
    /// Rust never borrows the bytes, and they stay mapped until `unmap` or until the port is gone.
    unsafe fn map(&self, iova: u64, host: *mut u8, length: u64) -> io::Result<()>;
    /// Takes exactly what one `map` gave.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL`: there is no such mapping; nothing has changed.
    fn unmap(&self, iova: u64, length: u64) -> io::Result<()>;
}

/// How a BAR is given to the other devices of the machine, so that one can write to another
/// without a detour through RAM.
///
/// The guest's addresses are the I/O virtual addresses, so a BAR is mapped where the guest put it.
/// Whether the traffic then passes the host's switches and bridges is the host's to say (ACS).
#[derive(Clone)]
pub enum PeerAccess {
    /// There is no other device.
    Alone,
    /// Through the IOMMU.
    Iommu {
        /// The door to it.
        port: Arc<dyn DmaPort>,
        /// Bytes of the largest mapping; a BAR that is larger stays closed.
        largest: u64,
    },
}

impl PeerAccess {
    /// Maps a BAR; returns whether peers reach it. A host that cannot map BARs is no reason to
    /// stop: the drivers of most devices never try.
    ///
    /// # Errors
    /// As for [`DmaPort::map`]; peers do not reach it.
    ///
    /// # Safety
    /// As for [`DmaPort::map`].
    pub unsafe fn open(&self, iova: u64, host: *mut u8, length: u64) -> io::Result<bool> {
        match self {
            Self::Alone => Ok(false),
            Self::Iommu { largest, .. } if length > *largest => Ok(false),
            // SAFETY: the caller's promise.
            Self::Iommu { port, .. } => unsafe { port.map(iova, host, length) }.map(|()| true),
        }
    }

    /// Takes back what [`PeerAccess::open`] gave.
    ///
    /// # Errors
    /// As for [`DmaPort::unmap`]; peers reach it still.
    pub fn close(&self, iova: u64, length: u64) -> io::Result<()> {
        match self {
            Self::Alone => Ok(()),
            Self::Iommu { port, .. } => port.unmap(iova, length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeDma;

    #[test]
    fn a_bar_that_is_too_large_stays_closed() {
        let dma = Arc::new(FakeDma::default());
        let peers = PeerAccess::Iommu { port: dma.clone(), largest: 0x2000 };
        // SAFETY: the fake looks at no memory.
        let open = |length| unsafe { peers.open(0x1000, std::ptr::null_mut(), length) };
        assert!(matches!(open(0x3000), Ok(false)));
        assert!(dma.mapped().is_empty());
        assert!(matches!(open(0x2000), Ok(true)));
        assert_eq!(dma.mapped().len(), 1);
    }
}
