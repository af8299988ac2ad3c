//! What was looked for on a host: there, not there, or not to be told.

use serde::Serialize;

/// Whether something is so, as far as it can be seen. What was not seen is unknown, never `No`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// It is so.
    Yes,
    /// It is not so.
    No,
    /// Nothing that can be read tells.
    #[default]
    Unknown,
}

impl Seen {
    /// Whether it is known to be so.
    pub fn is_yes(self) -> bool {
        self == Self::Yes
    }
}

impl From<bool> for Seen {
    fn from(is_so: bool) -> Self {
        if is_so { Self::Yes } else { Self::No }
    }
}

impl From<Option<bool>> for Seen {
    fn from(is_so: Option<bool>) -> Self {
        is_so.map_or(Self::Unknown, Self::from)
    }
}
