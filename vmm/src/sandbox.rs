//! Seccomp: each thread role may make the system calls that its filter lists, and no other.
//!
//! The filters are data, `resources/seccomp/x86_64.json`, in the format of seccompiler. They are
//! compiled when the machine is built and applied by each thread before the guest runs.

use std::sync::Arc;

use seccompiler::{BpfProgram, TargetArch};

const FILTERS: &str = include_str!("../../resources/seccomp/x86_64.json");

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
#[error("cannot set up the seccomp filter of {role} threads")]
pub struct SandboxError {
    role: &'static str,
    #[source]
    source: seccompiler::Error,
}

/// The filter of one role; empty when there is none.
#[derive(Clone)]
pub struct Filter {
    role: Role,
    program: Arc<BpfProgram>,
}

impl Filter {
    /// Compiles the filter of `role`.
    pub fn new(role: Role, mode: Mode) -> Result<Self, SandboxError> {
        let json = match mode {
            Mode::Off => return Ok(Self { role, program: Arc::default() }),
            Mode::Kill => FILTERS.to_owned(),
            Mode::Log => FILTERS.replace("\"kill_process\"", "\"log\""),
        };
        let failed = |source| SandboxError { role: role.name(), source };
        let mut filters =
            seccompiler::compile_from_json(json.as_bytes(), TargetArch::x86_64).map_err(failed)?;
        let program = filters.remove(role.name()).expect("the filters name every role");
        Ok(Self { role, program: Arc::new(program) })
    }

    /// Restricts the calling thread, for good.
    pub fn apply(&self) -> Result<(), SandboxError> {
        if self.program.is_empty() {
            return Ok(());
        }
        let failed = |source| SandboxError { role: self.role.name(), source };
        seccompiler::apply_filter(&self.program).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_a_filter_that_compiles() {
        for role in [Role::Control, Role::Vcpu, Role::Interrupts] {
            for mode in [Mode::Kill, Mode::Log] {
                let filter = Filter::new(role, mode).expect("the shipped filters are sound");
                assert!(!filter.program.is_empty());
            }
        }
    }

    #[test]
    fn logging_differs_from_killing() {
        let kill = Filter::new(Role::Vcpu, Mode::Kill).expect("sound");
        let log = Filter::new(Role::Vcpu, Mode::Log).expect("sound");
        assert_ne!(kill.program, log.program);
    }

    /// Makes a system call in a child under `filter`; returns the child's wait status.
    fn call_under(filter: &Filter, number: libc::c_long) -> libc::c_int {
        // SAFETY: the child makes system calls only, and ends.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                let applied = filter.apply().is_ok();
                libc::syscall(number, 0, 4096, libc::PROT_READ | libc::PROT_EXEC, 0x22, -1, 0);
                // The end that the role may make, or the test would see that call killed.
                let end = match filter.role {
                    Role::Control | Role::Interrupts => libc::SYS_exit_group,
                    Role::Vcpu => libc::SYS_exit,
                };
                libc::syscall(end, libc::c_int::from(!applied));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        }
    }

    #[test]
    fn a_call_that_is_not_listed_kills() {
        for role in [Role::Control, Role::Vcpu] {
            let filter = Filter::new(role, Mode::Kill).expect("sound");
            // Opening files, running programs, and making memory executable.
            for call in [libc::SYS_openat, libc::SYS_execve, libc::SYS_socket, libc::SYS_mmap] {
                let status = call_under(&filter, call);
                assert!(libc::WIFSIGNALED(status), "{role:?} may make call {call}");
                assert_eq!(libc::WTERMSIG(status), libc::SIGSYS);
            }
        }
    }

    /// It opens files, and does nothing to the machine.
    #[test]
    fn who_steers_interrupts_touches_no_device() {
        let filter = Filter::new(Role::Interrupts, Mode::Kill).expect("sound");
        for call in [libc::SYS_ioctl, libc::SYS_execve, libc::SYS_socket, libc::SYS_mmap] {
            assert!(libc::WIFSIGNALED(call_under(&filter, call)), "it may make call {call}");
        }
        assert!(libc::WIFEXITED(call_under(&filter, libc::SYS_openat)));
    }

    #[test]
    fn a_call_that_is_listed_does_not_kill() {
        for role in [Role::Control, Role::Vcpu] {
            for (mode, call) in [(Mode::Kill, libc::SYS_sched_yield), (Mode::Off, libc::SYS_openat)]
            {
                let filter = Filter::new(role, mode).expect("sound");
                let status = call_under(&filter, call);
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{role:?}");
            }
        }
    }
}
