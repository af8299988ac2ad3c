//! The IOMMU as the devices see it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{errno, lock};
use crate::vfio::DmaPort;

/// Address translation without a device.
#[derive(Default)]
pub struct FakeDma {
    /// Length and memory, by address.
    ranges: Mutex<BTreeMap<u64, (u64, u64)>>,
    refuse: AtomicBool,
}

impl FakeDma {
    /// What devices reach now.
    pub fn mapped(&self) -> Vec<Range<u64>> {
        self.mapped_memory().into_iter().map(|(range, _)| range).collect()
    }

    /// The same, with the addresses of the memory that is there.
    pub fn mapped_memory(&self) -> Vec<(Range<u64>, u64)> {
        let ranges = lock(&self.ranges);
        ranges.iter().map(|(iova, (length, host))| (*iova..iova + length, *host)).collect()
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
        match lock(&self.ranges).insert(iova, (length, host as u64)) {
            None => Ok(()),
            Some(_) => Err(errno(libc::EEXIST)),
        }
    }

    fn unmap(&self, iova: u64, length: u64) -> io::Result<()> {
        match lock(&self.ranges).remove(&iova) {
            Some((found, _)) if found == length => Ok(()),
            _ => Err(errno(libc::ENOENT)),
        }
    }
}
