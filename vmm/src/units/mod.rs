//! Plain values that every hall knows: nothing here reads a host or decides anything.

mod bytes;
mod console_kind;
mod failure;
mod page_size;
mod sandbox_layer;
mod seen;
#[cfg(test)]
mod variants;
mod vf_port;
mod visible;

pub use bytes::Bytes;
pub use console_kind::ConsoleKind;
pub use failure::Failure;
pub use page_size::PageSize;
pub use sandbox_layer::Layer;
pub use seen::Seen;
#[cfg(test)]
pub(crate) use variants::variants;
pub use vf_port::{Mac, VfPort, VfPortArgument, VfPortChange};
pub use visible::{visible, visible_but_for};
