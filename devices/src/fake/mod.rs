//! Doors with nobody behind them: they log each call, and refuse what the kernel refuses.
//!
//! What no code of ours may ever ask for, whatever a guest does, is kept as a *violation* beside
//! the refusal, so that a test can tell the two apart: a BAR that overlaps another is refused and
//! no more; an interrupt type that is enabled over another is a bug.

mod device;
mod dma;
mod port;

#[cfg(test)]
pub use device::{DeviceCall, memory_file};
pub use device::{DeviceLog, FakeDevice};
pub use dma::FakeDma;
pub use port::FakePort;
#[cfg(test)]
pub use port::PortCall;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A test's threads may fail one by one; what the others see stays readable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error that the kernel would give.
fn errno(number: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(number)
}
