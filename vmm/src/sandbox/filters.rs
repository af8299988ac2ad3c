//! The filters as `build.rs` has compiled them, and what a process puts into its own.

use seccompiler::{BpfProgram, sock_filter};
use vmm_sys_util::signal::SIGRTMIN;

use super::{Mode, Role};

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// Stand in the filters for what only the process knows: its ID, and the number of the kick's
/// signal, which is the C library's choice.
const OWN_PID: u32 = 0x7b65_7268;
const KICK_SIGNAL: u32 = 0x7b65_7269;

/// `BPF_RET | BPF_K` (linux/bpf_common.h).
const RETURN: u16 = 0x06;

/// The filter of `role` in this process; empty when there is none.
pub fn program(role: Role, mode: Mode) -> BpfProgram {
    let compiled: &[sock_filter] = match role {
        Role::Parent => &PARENT,
        Role::Control => &CONTROL,
        Role::Vcpu => &VCPU,
        Role::Memory => &MEMORY,
        Role::Interrupts => &INTERRUPTS,
        Role::Guard => &GUARD,
        Role::Terminal => &TERMINAL,
    };
    if mode == Mode::Off {
        return BpfProgram::new();
    }
    let here = |line: &sock_filter| {
        let k = match (line.code, line.k) {
            (RETURN, action) if mode == Mode::Log && action != libc::SECCOMP_RET_ALLOW => {
                libc::SECCOMP_RET_LOG
            }
            (_, OWN_PID) => std::process::id(),
            (_, KICK_SIGNAL) => SIGRTMIN() as u32,
            (_, k) => k,
        };
        sock_filter { code: line.code, jt: line.jt, jf: line.jf, k }
    };
    compiled.iter().map(here).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_process_knows_is_put_in_once() {
        let here = [std::process::id(), SIGRTMIN() as u32];
        let filled = |number| {
            program(Role::Control, Mode::Kill).iter().filter(|line| line.k == number).count()
        };
        let open = |number| CONTROL.iter().filter(|line| line.k == number).count();
        assert_eq!([open(OWN_PID), open(KICK_SIGNAL)], [1, 1]);
        for role in Role::ALL {
            let left = program(role, Mode::Kill);
            assert!(left.iter().all(|line| ![OWN_PID, KICK_SIGNAL].contains(&line.k)), "{role:?}");
        }
        assert!(here.into_iter().all(|number| filled(number) >= 1));
    }
}
