//! What berth prints and returns when it does not get to the guest's own end.

use std::io::{self, Write};

use crate::advice::{Code, Steps};
use crate::binding::BindingError;
use crate::check::fix::FixError;
use crate::config::ConfigError;
use crate::exit::Outcome;
use crate::host::{HostError, HostProfile, Query, Root};
use crate::machine;
use crate::plan::Refusal;
use crate::state::StateError;
use crate::units::Failure;

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
    Plan(#[from] Refusal),
    /// The state folder is not to be trusted, or another berth has it.
    #[error(transparent)]
    State(#[from] StateError),
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
    /// Standard output takes no more.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Error {
    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Config(error) => error.code(),
            Self::Host(error) => error.code(),
            Self::Plan(refusal) => refusal.error.code(),
            Self::State(error) => error.code(),
            Self::Binding(error) => error.code(),
            Self::Machine(error) => error.code(),
            Self::Fix(error) => error.code(),
            Self::SnapshotToTerminal => Code::OutputTerminal,
            Self::Output(_) => Code::OutputFailed,
        }
    }

    /// What to do about it, step by step.
    pub fn help(&self) -> Steps {
        match self {
            Self::Host(error) => error.steps(),
            Self::Plan(refusal) => refusal.help.clone(),
            Self::State(error) => error.help(),
            Self::Binding(error) | Self::Fix(FixError::Binding(error)) => {
                this_host(error).map(|host| error.help(&host)).unwrap_or_default()
            }
            Self::Fix(error @ FixError::Module { .. }) => error.help(),
            Self::Machine(error) => error.help().into_iter().collect(),
            Self::Config(error) => error.help().into_iter().collect(),
            Self::SnapshotToTerminal => vec!["`berth snapshot > host.tar.zst`".to_owned()],
            Self::Output(_) => Steps::new(),
        }
    }

    /// What the process returns.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Config(_) | Self::SnapshotToTerminal => Outcome::ConfigRefused,
            Self::Host(_) | Self::Plan(_) | Self::State(_) | Self::Fix(_) | Self::Binding(_) => {
                Outcome::HostRefused
            }
            Self::Machine(machine::Error::Build(_)) => Outcome::BuildFailed,
            Self::Machine(machine::Error::Run(_)) => Outcome::RunFailed,
            Self::Output(_) => Outcome::Internal,
        }
    }

    /// As it is printed, with what caused it and what to do about it.
    pub fn failure(&self) -> Failure {
        Failure::new(self.code().name(), self, self.help())
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn report(&self, out: &mut impl Write) -> io::Result<()> {
        self.failure().write(out)
    }
}

/// The host whose functions did not change hands, as far as its remedies depend on it.
fn this_host(error: &BindingError) -> Option<HostProfile> {
    let root = Root::live();
    let query = error.device().map(Query::about).unwrap_or_default();
    let mut host = HostProfile::read(&root, &query).ok()?;
    host.look_around(&root);
    Some(host)
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
            "error[CONFIG-UNREADABLE]: cannot read the config file /nonexistent/vm.json\n  \
             caused by: No such file or directory (os error 2)\n  \
             help: name a machine's config file that berth may read\n"
        );
    }

    #[test]
    fn help_keeps_its_lines_together() {
        let error = HostError::Absent { path: PathBuf::from("/sys/x") };
        assert_eq!(
            report(error),
            "error[HOST-ABSENT]: /sys/x tells nothing of the host\n  \
             help: berth needs sysfs on /sys and procfs on /proc\n"
        );
    }
}
