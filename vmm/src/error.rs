//! What berth prints and returns when it does not get to the guest's own end.

use std::io::{self, Write};

use crate::binding::BindingError;
use crate::check::fix::FixError;
use crate::config::ConfigError;
use crate::exit::Outcome;
use crate::host::HostError;
use crate::machine;
use crate::plan::PlanError;
use crate::units::write_failure;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The config describes no machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host cannot be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The host does not fit the config.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Functions do not change hands.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// The machine could not be built, or did not end in order.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// A remedy did not work.
    #[error(transparent)]
    Fix(#[from] FixError),
    /// A snapshot is no text.
    #[error("a snapshot is an archive, and standard output is a terminal")]
    SnapshotToTerminal,
    /// Nobody takes what berth prints.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Error {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Host(error) => error.help(),
            Self::Plan(error) => error.help(),
            Self::Binding(error) => error.help(),
            Self::Machine(error) => error.help(),
            Self::Config(error) => error.help(),
            Self::Fix(error) => error.help(),
            Self::SnapshotToTerminal => Some("`berth snapshot > host.tar.zst`".to_owned()),
            Self::Output(_) => None,
        }
    }

    /// What the process returns.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Config(_) | Self::SnapshotToTerminal => Outcome::ConfigRefused,
            Self::Host(_) | Self::Plan(_) | Self::Fix(_) | Self::Binding(_) => Outcome::HostRefused,
            Self::Machine(machine::Error::Build(_)) => Outcome::BuildFailed,
            Self::Machine(machine::Error::Run(_)) => Outcome::RunFailed,
            Self::Output(_) => Outcome::Internal,
        }
    }

    /// Writes the error, what caused it and what to do about it.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn report(&self, out: &mut impl Write) -> io::Result<()> {
        write_failure(out, self, self.help().as_deref())
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::Config;

    fn report(error: impl Into<Error>) -> String {
        let mut text = Vec::new();
        error.into().report(&mut text).expect("memory takes all");
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn a_chain_is_printed_once() {
        let error = Config::load(Path::new("/nonexistent/vm.json")).expect_err("no such file");
        assert_eq!(
            report(error),
            "error: cannot read the config file /nonexistent/vm.json\n  \
             caused by: No such file or directory (os error 2)\n  \
             help: name a machine's config file that berth may read\n"
        );
    }

    #[test]
    fn help_keeps_its_lines_together() {
        let error = HostError::Absent { path: PathBuf::from("/sys/x") };
        assert_eq!(
            report(error),
            "error: /sys/x tells nothing of the host\n  \
             help: berth needs sysfs on /sys and procfs on /proc\n"
        );
    }
}
