//! The IOMMU as the devices see it.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::errno;
use super::host::{Call, DmaCall};
use super::journal::Journal;
use crate::vfio::DmaPort;

/// Address translation without a device.
#[derive(Default)]
pub struct FakeDma {
    journal: Journal,
    refuse: AtomicBool,
}

impl FakeDma {
    /// One that logs into `journal`.
    pub fn new(journal: &Journal) -> Self {
        Self { journal: journal.clone(), refuse: AtomicBool::default() }
    }

    /// What devices reach now.
    pub fn mapped(&self) -> Vec<Range<u64>> {
        self.mapped_memory().into_iter().map(|(range, _)| range).collect()
    }

    /// The same, with the addresses of the memory that is there.
    pub fn mapped_memory(&self) -> Vec<(Range<u64>, u64)> {
        let host = self.journal.host();
        let ranges = host.dma.ranges.iter();
        ranges.map(|(iova, (length, host))| (*iova..iova + length, *host)).collect()
    }

    /// Every call from now on is refused.
    pub fn refuse(&self) {
        self.refuse.store(true, Ordering::Relaxed);
    }
}

impl DmaPort for FakeDma {
    unsafe fn map(&self, iova: u64, host: *mut u8, length: u64) -> io::Result<()> {
        if self.refuse.load(Ordering::Relaxed) {
            return Err(errno(libc::EFAULT));
        }
        self.journal.call(Call::Dma(DmaCall::Map(iova..iova + length)), |state| {
            match state.dma.ranges.insert(iova, (length, host as u64)) {
                None => Ok(()),
                Some(_) => state.violation(format!("DMA to {iova:#x} is mapped"), libc::EEXIST),
            }
        })
    }

    fn unmap(&self, iova: u64, length: u64) -> io::Result<()> {
        self.journal.call(Call::Dma(DmaCall::Unmap(iova..iova + length)), |state| {
            match state.dma.ranges.remove(&iova) {
                Some((found, _)) if found == length => Ok(()),
                _ => state.violation(format!("no DMA to {iova:#x} is mapped"), libc::ENOENT),
            }
        })
    }
}
