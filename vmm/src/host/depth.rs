//! How much is read of a function: every file read is time before a guest starts.

/// How far a function is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// What a guest gets of it.
    #[default]
    Guest,
    /// Also what the host does with it, without getting in the way of who opens it just now.
    Host,
    /// The same, of one that is about to be taken: VFIO's groups are opened to see whether they
    /// can be.
    Take,
}
