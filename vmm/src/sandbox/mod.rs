//! What keeps berth in, should a guest take over one of its threads.
//!
//! First, seccomp: each thread role may make the system calls that its filter lists, and no other.
//! The filters are data, `resources/seccomp/x86_64.json`, in the format of seccompiler. They are
//! compiled when the machine is built and applied by each thread before the guest runs.
//!
//! The threads of berth share one address space, so who has taken over one of them can make the
//! others act: what all filters of the process allow together is what it can do. What stands behind
//! the filters binds all of them: [`Confinement`] for the process, and Landlock.

mod confinement;
mod landlock;
mod report;

use std::io;
use std::sync::Arc;

use seccompiler::{BpfProgram, TargetArch};
use vmm_sys_util::signal::SIGRTMIN;

pub use confinement::Confinement;
pub use report::Reporter;

use crate::plan::SandboxPlan;
use crate::units::Layer;
use landlock::{Files, LandlockError};

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

/// What `berth-irq` writes to, and what it reads: a function's folder is a link to `/sys/devices`.
const OF_INTERRUPTS: Files =
    Files::Below(&["/proc/irq"], &["/sys/bus/pci/devices", "/sys/devices"]);

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Vcpu => "vcpu",
            Self::Interrupts => "interrupts",
        }
    }

    fn files(self) -> Files {
        match self {
            Self::Control | Self::Vcpu => Files::None,
            Self::Interrupts => OF_INTERRUPTS,
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
    /// What stands behind the filters cannot be had.
    #[error("berth cannot {doing} (`{layer}` of its sandbox)")]
    Layer {
        /// What is missing.
        layer: Layer,
        /// What was tried.
        doing: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Files stay to be had.
    #[error("berth cannot keep {role} threads from files (`landlock` of its sandbox)")]
    Landlock {
        /// Whose threads.
        role: &'static str,
        /// Cause.
        #[source]
        source: LandlockError,
    },
    /// A resource limit cannot be set.
    #[error("berth cannot lower its resource limits")]
    Limit {
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The process that tells what was achieved cannot be started.
    #[error("berth cannot start what reports on its sandbox")]
    Reporter(#[source] io::Error),
}

impl SandboxError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        let (layer, way) = match self {
            Self::Layer { layer: Layer::User, .. } => {
                (Layer::User, "give berth CAP_SETUID, CAP_SETGID and CAP_SETPCAP")
            }
            Self::Layer { layer: layer @ Layer::Namespaces, .. } => (
                *layer,
                "start berth as root, or let users make user namespaces (sysctl \
                 kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, \
                 user.max_user_namespaces), or give its container CAP_SYS_ADMIN",
            ),
            Self::Layer { layer: layer @ (Layer::Root | Layer::Landlock), .. } => {
                (*layer, "let berth mount file systems in its own namespace")
            }
            Self::Landlock { .. } => (
                Layer::Landlock,
                "boot a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and with landlock \
                 in lsm=",
            ),
            Self::Compile(_) | Self::Apply { .. } | Self::Limit { .. } | Self::Reporter(_) => {
                return None;
            }
        };
        Some(format!("{way}; or do without: \"sandbox\": {{ \"without\": [\"{layer}\"] }}"))
    }
}

/// The restriction of each role.
pub struct Restrictions {
    /// Of the thread that controls the machine.
    pub control: Restriction,
    /// Of the vCPUs' threads.
    pub vcpu: Restriction,
    /// Of the process that steers interrupts.
    pub interrupts: Restriction,
}

impl Restrictions {
    /// Compiles the filters, for this process: its ID and the number of its kick are among the
    /// arguments that they check.
    ///
    /// # Errors
    /// The file that the filters come from is none that seccompiler takes.
    pub fn compile(mode: Mode, plan: &SandboxPlan) -> Result<Self, SandboxError> {
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
            let files = if plan.has(Layer::Landlock) { role.files() } else { Files::Any };
            Restriction { role, files, program: Arc::new(program.unwrap_or_default()) }
        };
        Ok(Self {
            control: filter(Role::Control),
            vcpu: filter(Role::Vcpu),
            interrupts: filter(Role::Interrupts),
        })
    }
}

/// What one role may do, from when it is applied on.
#[derive(Clone)]
pub struct Restriction {
    role: Role,
    files: Files,
    /// Empty where there is none.
    program: Arc<BpfProgram>,
}

impl Restriction {
    /// Restricts the calling thread, for good.
    ///
    /// # Errors
    /// The kernel has no Landlock, or seccomp(2) and prctl(2) say no.
    pub fn apply(&self) -> Result<(), SandboxError> {
        let role = self.role.name();
        landlock::restrict(self.files).map_err(|source| SandboxError::Landlock { role, source })?;
        if self.program.is_empty() {
            return Ok(());
        }
        seccompiler::apply_filter(&self.program)
            .map_err(|source| SandboxError::Apply { role, source })
    }
}

#[cfg(test)]
mod tests;
