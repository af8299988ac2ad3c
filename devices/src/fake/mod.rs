//! Doors with nobody behind them: they log each call, and refuse what the kernel refuses.
//!
//! All fakes of a machine write into one [`Journal`], so that a test sees the order between calls
//! to VFIO, to KVM and to the IOMMU, and so that a fake can judge a call by what the others hold.
//!
//! What no code of ours may ever ask for, whatever a guest does, is a *violation* beside the
//! refusal, so that a test can tell the two apart: a BAR that overlaps another is refused and no
//! more; an interrupt type that is enabled over another is a bug. The last handle of a journal
//! panics over violations that nobody took.
//!
//! Orders that are kept this way:
//! - Memory space goes off, and D0 is left, only when no slot and no DMA mapping shows the device's
//!   memory any more, and a slot comes only while the device answers (a guest access would fail
//!   `KVM_RUN`: the handler of the mapping's page faults raises SIGBUS).
//! - A device is reset only when it interrupts no more and is no bus master any more.
//! - A route comes before its irqfd and goes after it, and VFIO lets go of an eventfd before KVM
//!   forgets where it leads.

mod device;
mod dma;
mod host;
mod journal;
mod port;

#[cfg(test)]
pub use device::memory_file;
pub use device::{DeviceLog, FakeDevice};
pub use dma::FakeDma;
#[cfg(test)]
pub use host::{Call, DmaCall, KvmCall, VfioCall};
pub use journal::Journal;
pub use port::FakePort;

#[cfg(test)]
mod tests;

/// The error that the kernel would give.
fn errno(number: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(number)
}
