//! Seccomp: each thread role may make the system calls that its filter lists, and no other.
//!
//! The filters are data, `resources/seccomp/x86_64.json`, in the format of seccompiler. They are
//! compiled when the machine is built and applied by each thread before the guest runs.
//!
//! The threads of berth share one address space, so who has taken over one of them can make the
//! others act: what all filters of the process allow together is what it can do.

use std::sync::Arc;

use seccompiler::{BpfProgram, TargetArch};
use vmm_sys_util::signal::SIGRTMIN;

const FILTERS: &str = include_str!("../../../resources/seccomp/x86_64.json");

/// What happens on a system call that no filter lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The process is killed with SIGSYS.
    #[default]
    Kill,
    /// The call goes on, and the kernel's log names it: for finding what a filter lacks.
    Log,
    /// There are no filters.
    Off,
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Signals, console, end of the machine.
    Control,
    /// Runs a vCPU.
    Vcpu,
    /// Steers the devices' interrupts, in a process of its own.
    Interrupts,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Vcpu => "vcpu",
            Self::Interrupts => "interrupts",
        }
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The filters are no program.
    #[error("cannot compile the seccomp filters")]
    Compile(#[source] seccompiler::Error),
    /// The kernel takes none.
    #[error("cannot set up the seccomp filter of {role} threads")]
    Apply {
        /// Whose it is.
        role: &'static str,
        /// Cause.
        #[source]
        source: seccompiler::Error,
    },
}

/// The filter of each role.
pub struct Filters {
    /// Of the thread that controls the machine.
    pub control: Filter,
    /// Of the vCPUs' threads.
    pub vcpu: Filter,
    /// Of the process that steers interrupts.
    pub interrupts: Filter,
}

impl Filters {
    /// Compiles them, for this process: its ID and the number of its kick are among the arguments
    /// that they check.
    ///
    /// # Errors
    /// The file that the filters come from is none that seccompiler takes.
    pub fn compile(mode: Mode) -> Result<Self, SandboxError> {
        let mut json = FILTERS
            .replace("\"OWN_PID\"", &std::process::id().to_string())
            .replace("\"KICK_SIGNAL\"", &SIGRTMIN().to_string());
        if mode == Mode::Log {
            json = json.replace("\"kill_process\"", "\"log\"");
        }
        let mut programs = match mode {
            Mode::Off => Default::default(),
            Mode::Kill | Mode::Log => {
                seccompiler::compile_from_json(json.as_bytes(), TargetArch::x86_64)
                    .map_err(SandboxError::Compile)?
            }
        };
        let mut filter = |role: Role| {
            let program = programs.remove(role.name());
            assert!(program.is_some() || mode == Mode::Off, "the filters name every role");
            Filter { role, program: Arc::new(program.unwrap_or_default()) }
        };
        Ok(Self {
            control: filter(Role::Control),
            vcpu: filter(Role::Vcpu),
            interrupts: filter(Role::Interrupts),
        })
    }
}

/// The filter of one role; empty when there is none.
#[derive(Clone)]
pub struct Filter {
    role: Role,
    program: Arc<BpfProgram>,
}

impl Filter {
    /// Restricts the calling thread, for good.
    ///
    /// # Errors
    /// seccomp(2) and prctl(2) say no.
    pub fn apply(&self) -> Result<(), SandboxError> {
        if self.program.is_empty() {
            return Ok(());
        }
        let failed = |source| SandboxError::Apply { role: self.role.name(), source };
        seccompiler::apply_filter(&self.program).map_err(failed)
    }
}

#[cfg(test)]
mod tests;
