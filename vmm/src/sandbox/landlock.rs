//! Landlock: which files a thread may still open, by their place.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest rules that berth knows; what an older kernel lacks of them it does without.
const RULES: ABI = ABI::V6;

/// Which files may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Any that the user may.
    Any,
    /// None.
    None,
    /// Those below these folders: the first may be written to, the second read. A folder that is
    /// not there has nothing below it.
    Below(&'static [&'static str], &'static [&'static str]),
}

/// Why files are still to be had.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel is built without it, or is booted without it (`lsm=`).
    #[error("this kernel has no Landlock")]
    Absent,
    /// The kernel refused a call.
    #[error(transparent)]
    Refused(#[from] landlock::RulesetError),
}

/// Restricts the calling thread and those that it starts, for good.
///
/// Signals are left to PID namespaces and filters. Landlock would keep a parent, which is under rules
/// of its own, from having its machine killed, even by its own death (`PR_SET_PDEATHSIG`), and up to
/// Linux 6.14 a thread from kicking another one of its process.
pub fn restrict(files: Files) -> Result<(), LandlockError> {
    let (write, read) = match files {
        Files::Any => return Ok(()),
        Files::None => (&[][..], &[][..]),
        Files::Below(write, read) => (write, read),
    };
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    let change = AccessFs::from_read(RULES) | AccessFs::WriteFile | AccessFs::Truncate;
    for (folders, access) in [(write, change), (read, AccessFs::from_read(RULES))] {
        for folder in folders {
            if let Ok(folder) = PathFd::new(folder) {
                rules = rules.add_rule(PathBeneath::new(folder, access))?;
            }
        }
    }
    match rules.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err(LandlockError::Absent),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}
