//! What keeps berth in, should a guest take over one of its threads.
//!
//! First, seccomp: each thread role may make the system calls that its filter lists, and no other.
//! The filters are data, `resources/seccomp/x86_64.json`, in the format of seccompiler. They are
//! compiled when berth is (`build.rs`), and applied by each thread before the guest runs.
//!
//! The threads of berth share one address space, so who has taken over one of them can make the
//! others act: what all filters of the process allow together is what it can do. What stands behind
//! the filters binds all of them: [`Confinement`] for the process, and Landlock.

mod confinement;
mod cores;
mod filters;
mod landlock;
mod mounts;
mod report;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::BpfProgram;

pub use confinement::Confinement;
pub use report::Reporter;

use crate::plan::SandboxPlan;
use crate::units::Layer;
use landlock::{Files, LandlockError};

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
    /// Passes signals on to the machine's process and waits for its end.
    Parent,
    /// Signals, console, end of the machine.
    Control,
    /// Runs a vCPU.
    Vcpu,
    /// Fills memory while the guest runs already, and ends then.
    Memory,
    /// Steers the devices' interrupts, in a process of its own.
    Interrupts,
    /// Gives the devices back, in a process of its own.
    Guard,
    /// Restores the terminal, in a process of its own.
    Terminal,
}

/// What `berth-irq` writes to, and what it reads: a function's folder is a link to `/sys/devices`.
const OF_INTERRUPTS: Files =
    Files::Below(&["/proc/irq"], &["/sys/bus/pci/devices", "/sys/devices"]);

impl Role {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Parent,
        Self::Control,
        Self::Vcpu,
        Self::Memory,
        Self::Interrupts,
        Self::Guard,
        Self::Terminal,
    ];

    /// As the filters have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::Control => "control",
            Self::Vcpu => "vcpu",
            Self::Memory => "memory",
            Self::Interrupts => "interrupts",
            Self::Guard => "guard",
            Self::Terminal => "terminal",
        }
    }

    /// Whether it is a process that helps the machine's.
    fn is_helper(self) -> bool {
        matches!(self, Self::Interrupts | Self::Guard | Self::Terminal)
    }

    /// The guard looks at who has a device open, which Landlock allows of nobody that is not under
    /// the same rules (Landlock, "Ptrace restrictions"). What it can write to, its mounts say.
    fn files(self) -> Files {
        match self {
            Self::Parent | Self::Control | Self::Vcpu | Self::Memory | Self::Terminal => {
                Files::None
            }
            Self::Interrupts => OF_INTERRUPTS,
            Self::Guard => Files::Any,
        }
    }

    /// To see whose files are open and end what is left of a machine, whosever they are, and to set
    /// the ports of virtual functions.
    fn capabilities(self) -> CapabilitySet {
        match self {
            Self::Guard => {
                CapabilitySet::DAC_READ_SEARCH
                    | CapabilitySet::KILL
                    | CapabilitySet::NET_ADMIN
                    | CapabilitySet::SYS_PTRACE
            }
            _ => CapabilitySet::empty(),
        }
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
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
            Self::Apply { .. } | Self::Limit { .. } | Self::Reporter(_) => {
                return None;
            }
        };
        Some(format!("{way}; or do without: \"sandbox\": {{ \"without\": [\"{layer}\"] }}"))
    }
}

/// The restrictions of a machine's roles.
#[derive(Clone, Copy, Debug)]
pub struct Restrictions {
    mode: Mode,
    user: bool,
    namespaces: bool,
    landlock: bool,
}

impl Restrictions {
    /// Those that `plan` wants, with filters as `mode` says.
    pub fn new(mode: Mode, plan: &SandboxPlan) -> Self {
        let [user, namespaces, landlock] =
            [Layer::User, Layer::Namespaces, Layer::Landlock].map(|layer| plan.has(layer));
        Self { mode, user, namespaces, landlock }
    }

    /// That of `role`, in this process: its ID is among what the filters check.
    pub fn of(self, role: Role) -> Restriction {
        Restriction {
            role,
            capabilities: self.user.then(|| role.capabilities()),
            own_mounts: role == Role::Guard && self.namespaces,
            files: if self.landlock { role.files() } else { Files::Any },
            program: filters::program(role, self.mode),
        }
    }
}

/// What one role may do, from when it is applied on.
#[derive(Clone)]
pub struct Restriction {
    role: Role,
    /// Those that stay; `None` where all do.
    capabilities: Option<CapabilitySet>,
    /// Whether its mounts allow no more than giving devices back takes.
    own_mounts: bool,
    files: Files,
    /// Empty where there is none.
    program: BpfProgram,
}

impl Restriction {
    /// Restricts the calling thread, for good.
    ///
    /// # Errors
    /// The kernel has no Landlock, or seccomp(2) and prctl(2) say no.
    pub fn apply(&self) -> Result<(), SandboxError> {
        let role = self.role.name();
        if self.own_mounts {
            let failed = |source| SandboxError::Layer {
                layer: Layer::Namespaces,
                doing: "keep its guard from files",
                source,
            };
            mounts::restrict().map_err(failed)?;
        }
        if let Some(kept) = self.capabilities {
            if self.role.is_helper() {
                confinement::bound_helper().map_err(|source| SandboxError::Limit { source })?;
            }
            let failed = |source| SandboxError::Layer {
                layer: Layer::User,
                doing: "give up capabilities",
                source,
            };
            keep_capabilities(kept).map_err(failed)?;
        }
        landlock::restrict(self.files).map_err(|source| SandboxError::Landlock { role, source })?;
        if self.program.is_empty() {
            return Ok(());
        }
        seccompiler::apply_filter(&self.program)
            .map_err(|source| SandboxError::Apply { role, source })
    }
}

/// Gives up all capabilities but `kept`, in every set of the calling thread.
fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    empty_bounding_set(kept);
    let now = rustix::thread::capabilities(None)?;
    let sets = CapabilitySets {
        effective: now.effective & kept,
        permitted: now.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Whether it is empty already, in this process and those that it makes. It takes a system call for
/// each capability.
static BOUNDING_SET_IS_EMPTY: AtomicBool = AtomicBool::new(false);

/// No program that this thread could run would get others than `kept`.
fn empty_bounding_set(kept: CapabilitySet) {
    if BOUNDING_SET_IS_EMPTY.load(Ordering::Relaxed) {
        return;
    }
    let now = rustix::thread::capabilities(None);
    if now.is_ok_and(|now| now.effective.contains(CapabilitySet::SETPCAP)) {
        for capability in (CapabilitySet::all() - kept).iter() {
            // Older kernels lack the newest.
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
        BOUNDING_SET_IS_EMPTY.store(kept.is_empty(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
