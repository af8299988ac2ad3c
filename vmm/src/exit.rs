//! How berth ends, and the exit code that says so.

use std::process::{ExitCode, Termination};

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A device reported an uncorrectable error, after which its policy resets the machine.
    ErrorReset,
    /// The guest's kernel reported a panic through pvpanic, or printed one on its serial console
    /// and then asked for a reset.
    Panic,
    /// A CPU of the guest shut down after a triple fault.
    TripleFault,
    /// The host wants an assigned device back, or the device reported an uncorrectable error.
    DeviceLost,
    /// The guest did not power off in time after it was asked to.
    Forced,
    /// Somebody at the console, or a second signal, ended it at once.
    Killed,
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command did what it was asked to.
    Done,
    /// The command line or the config is wrong. The code is clap's own.
    ConfigRefused,
    /// The host cannot give what the config asks for.
    HostRefused,
    /// The machine could not be built from its plan.
    BuildFailed,
    /// The machine failed while it ran.
    RunFailed,
    /// Too little was seen of the host to say.
    NotSeenEnough,
    /// Anything else, such as an output that takes no more.
    Internal,
    /// The machine ended other than by powering off.
    Ended(Exit),
}

impl Outcome {
    /// Every outcome, in the order of the codes.
    pub const ALL: [Self; 13] = [
        Self::Done,
        Self::Internal,
        Self::ConfigRefused,
        Self::HostRefused,
        Self::BuildFailed,
        Self::RunFailed,
        Self::NotSeenEnough,
        Self::Ended(Exit::Reset),
        Self::Ended(Exit::Panic),
        Self::Ended(Exit::TripleFault),
        Self::Ended(Exit::DeviceLost),
        Self::Ended(Exit::Forced),
        Self::Ended(Exit::Killed),
    ];

    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done | Self::Ended(Exit::PowerOff) => 0,
            Self::Internal => 1,
            Self::ConfigRefused => 2,
            Self::HostRefused => 3,
            Self::BuildFailed => 4,
            Self::RunFailed => 5,
            Self::NotSeenEnough => 6,
            Self::Ended(Exit::Reset | Exit::ErrorReset) => 10,
            Self::Ended(Exit::Panic) => 11,
            Self::Ended(Exit::TripleFault) => 12,
            Self::Ended(Exit::DeviceLost) => 13,
            Self::Ended(Exit::Forced) => 14,
            Self::Ended(Exit::Killed) => 15,
        }
    }

    /// All that the code may mean.
    pub fn meaning_of_code(self) -> &'static str {
        match self {
            Self::Ended(Exit::Reset | Exit::ErrorReset) => {
                "the guest asked for a reset, or the error policy of a device did"
            }
            outcome => outcome.meaning(),
        }
    }

    /// What happened.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done | Self::Ended(Exit::PowerOff) => {
                "done; of a machine: the guest powered itself off"
            }
            Self::Internal => "berth itself failed",
            Self::ConfigRefused => "the command line or the config is wrong",
            Self::HostRefused => "the host cannot give what the config asks for",
            Self::BuildFailed => "the machine could not be built",
            Self::RunFailed => "the machine failed while it ran",
            Self::NotSeenEnough => "too little was seen of the host to say whether it is ready",
            Self::Ended(Exit::Reset) => "the guest asked for a reset",
            Self::Ended(Exit::ErrorReset) => {
                "an assigned device failed, and its error policy asks for a reset"
            }
            Self::Ended(Exit::Panic) => "the guest's kernel panicked",
            Self::Ended(Exit::TripleFault) => "a CPU of the guest shut down after a triple fault",
            Self::Ended(Exit::DeviceLost) => "an assigned device failed or is wanted back",
            Self::Ended(Exit::Forced) => "the guest did not power off in time when asked to",
            Self::Ended(Exit::Killed) => "ended at once, from the console or by a second signal",
        }
    }
}

impl Termination for Outcome {
    fn report(self) -> ExitCode {
        self.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome after `outcome` in the order of the codes. A new one does not compile until it
    /// has its place here.
    fn next(outcome: Outcome) -> Option<Outcome> {
        Some(match outcome {
            Outcome::Done | Outcome::Ended(Exit::PowerOff) => Outcome::Internal,
            Outcome::Internal => Outcome::ConfigRefused,
            Outcome::ConfigRefused => Outcome::HostRefused,
            Outcome::HostRefused => Outcome::BuildFailed,
            Outcome::BuildFailed => Outcome::RunFailed,
            Outcome::RunFailed => Outcome::NotSeenEnough,
            Outcome::NotSeenEnough => Outcome::Ended(Exit::Reset),
            Outcome::Ended(Exit::Reset | Exit::ErrorReset) => Outcome::Ended(Exit::Panic),
            Outcome::Ended(Exit::Panic) => Outcome::Ended(Exit::TripleFault),
            Outcome::Ended(Exit::TripleFault) => Outcome::Ended(Exit::DeviceLost),
            Outcome::Ended(Exit::DeviceLost) => Outcome::Ended(Exit::Forced),
            Outcome::Ended(Exit::Forced) => Outcome::Ended(Exit::Killed),
            Outcome::Ended(Exit::Killed) => return None,
        })
    }

    #[test]
    fn every_outcome_is_listed_in_order_with_a_code_of_its_own() {
        let all: Vec<Outcome> =
            std::iter::successors(Some(Outcome::Done), |outcome| next(*outcome)).collect();
        assert_eq!(all, Outcome::ALL);
        assert!(all.windows(2).all(|pair| pair[0].code() < pair[1].code()));
        assert_eq!(Outcome::Ended(Exit::PowerOff).code(), 0);
    }

    #[test]
    fn a_reset_says_who_wanted_it() {
        let [guest, policy] = [Exit::Reset, Exit::ErrorReset].map(Outcome::Ended);
        assert_eq!((guest.code(), policy.code()), (10, 10));
        assert_eq!(guest.meaning(), "the guest asked for a reset");
        assert!(policy.meaning().contains("error policy") && !policy.meaning().contains("guest"));
        assert_eq!(guest.meaning_of_code(), policy.meaning_of_code());
    }
}
