//! How numbers and lists read in plans and refusals.

use std::fmt;

pub(super) use crate::units::Bytes;

/// Items with commas between them.
pub(super) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

/// What a guest address range looks like.
pub(super) fn range(range: &std::ops::Range<u64>) -> String {
    format!("{:#014x}-{:#014x}", range.start, range.end - 1)
}
