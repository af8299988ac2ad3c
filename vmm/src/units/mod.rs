//! Plain values that every hall knows: nothing here reads a host or decides anything.

mod failure;
mod page_size;
mod vf_port;

pub use failure::write_failure;
pub use page_size::PageSize;
pub use vf_port::{Mac, VfPort, VfPortArgument, VfPortChange};
