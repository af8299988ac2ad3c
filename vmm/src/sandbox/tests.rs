//! The filters are tried out: each attempt is made in a process of its own.

use libc::{c_int, c_long};
use vmm_sys_util::signal::SIGRTMIN;

use super::*;

/// Those that a call which is not listed ends.
const ROLES: [Role; 5] =
    [Role::Parent, Role::Control, Role::Vcpu, Role::Interrupts, Role::Terminal];
/// Those that share berth's address space.
const BERTHS_OWN: [Role; 3] = [Role::Control, Role::Vcpu, Role::Memory];

/// A system call by its number, with its arguments.
type Attempt = (c_long, [c_long; 6]);

/// How a child ends that makes system calls under the filter of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In order: the filter let all of them through.
    Exit,
    /// By this signal.
    Signal(c_int),
}

const KILLED: End = End::Signal(libc::SIGSYS);

/// A child compiles the filters, as berth does, and makes the calls that `attempts` names once it
/// knows its own ID.
fn act_out(role: Role, mode: Mode, attempts: impl FnOnce(c_long) -> Vec<Attempt>) -> End {
    // SAFETY: the C library keeps the heap usable in a child; other locks of this process are not
    // taken there, and it ends without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let attempts = attempts(c_long::from(std::process::id()));
        let applied = Restrictions::new(mode, &SandboxPlan::default()).of(role).apply();
        // The end that the role may make, or the test would see that call killed.
        let end = match role {
            Role::Vcpu => libc::SYS_exit,
            _ => libc::SYS_exit_group,
        };
        // SAFETY: the attempts are such that they do no harm; a kick does what it does to a process
        // that has not asked for any, whatever this one has.
        unsafe {
            libc::signal(SIGRTMIN(), libc::SIG_DFL);
            for (number, [a, b, c, d, e, f]) in attempts {
                libc::syscall(number, a, b, c, d, e, f);
            }
            libc::syscall(end, c_int::from(applied.is_err()));
        }
    }
    let mut status = 0;
    // SAFETY: `status` is writable.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFSIGNALED(status) {
        return End::Signal(libc::WTERMSIG(status));
    }
    assert_eq!(status, 0, "{role:?}: there is a filter");
    End::Exit
}

fn call(number: c_long, arguments: &[c_long]) -> Attempt {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    (number, all)
}

/// On no memory at all: it would have no effect.
fn advise(advice: c_int) -> Attempt {
    call(libc::SYS_madvise, &[0, 0, advice.into()])
}

#[test]
fn every_role_has_a_filter_unless_they_are_off() {
    let programs = |mode| {
        let restrictions = Restrictions::new(mode, &SandboxPlan::default());
        Role::ALL.map(|role| restrictions.of(role).program)
    };
    let (kill, log) = (programs(Mode::Kill), programs(Mode::Log));
    assert!(kill.iter().zip(&log).all(|(kill, log)| !kill.is_empty() && kill != log));
    assert!(programs(Mode::Off).iter().all(|program| program.is_empty()));
}

#[test]
fn a_call_that_is_not_listed_kills() {
    let executable = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
    for role in ROLES {
        let mut attempts = vec![
            call(libc::SYS_execve, &[]),
            call(libc::SYS_socket, &[]),
            call(libc::SYS_mmap, &[0, 4096, executable, 0x22, -1, 0]),
        ];
        // Who steers interrupts opens files, and does nothing to the machine.
        attempts.push(match role {
            Role::Interrupts => call(libc::SYS_ioctl, &[]),
            _ => call(libc::SYS_openat, &[]),
        });
        for attempt in attempts {
            assert_eq!(
                act_out(role, Mode::Kill, |_| vec![attempt]),
                KILLED,
                "{role:?} {attempt:?}"
            );
        }
    }
    let opens = |_| vec![call(libc::SYS_openat, &[])];
    assert_eq!(act_out(Role::Interrupts, Mode::Kill, opens), End::Exit);
}

/// Devices would stay with nobody if the guard were killed for a call that somebody has forgotten.
#[test]
fn the_guard_is_refused_what_is_not_listed() {
    // SAFETY: the C library keeps the heap usable in a child, which ends without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let guard = Restrictions::new(Mode::Kill, &SandboxPlan::default()).of(Role::Guard);
        let applied = guard.apply().is_ok();
        let refused = |number, arguments: [c_long; 2]| {
            // SAFETY: each of them would fail without a filter, too, for another reason.
            let result = unsafe { libc::syscall(number, arguments[0], arguments[1]) };
            result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
        };
        let all = [
            refused(libc::SYS_execve, [0, 0]),
            refused(libc::SYS_socket, [libc::AF_INET.into(), -1]),
            refused(libc::SYS_pidfd_send_signal, [-1, libc::SIGTERM.into()]),
            refused(libc::SYS_ptrace, [-1, 0]),
            refused(libc::SYS_mount, [0, 0]),
            refused(libc::SYS_init_module, [0, 0]),
        ];
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!(applied && all.iter().all(|refused| *refused)))) }
    }
    let mut status = 0;
    // SAFETY: `status` is writable.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}

#[test]
fn without_filters_all_goes_on() {
    for role in ROLES {
        let attempts = |_| vec![call(libc::SYS_openat, &[]), advise(libc::MADV_HWPOISON)];
        assert_eq!(act_out(role, Mode::Off, attempts), End::Exit, "{role:?}");
    }
}

/// A page that is poisoned is lost to the host until its next boot, and kills whoever shares it.
#[test]
fn no_thread_takes_memory_from_the_host() {
    for role in ROLES {
        for advice in [
            libc::MADV_HWPOISON,
            libc::MADV_SOFT_OFFLINE,
            libc::MADV_MERGEABLE,
            libc::MADV_DODUMP,
            libc::MADV_DOFORK,
            libc::MADV_HUGEPAGE,
            libc::MADV_POPULATE_WRITE,
        ] {
            let end = act_out(role, Mode::Kill, |_| vec![advise(advice)]);
            assert_eq!(end, KILLED, "{role:?} may advise {advice}");
        }
    }
}

#[test]
fn a_thread_kicks_its_own_process_and_signals_no_other() {
    let parent = c_long::from(std::process::id());
    let kick = c_long::from(SIGRTMIN());
    // No thread of another process has the child's number, so no signal would arrive.
    let signal = |process: c_long, thread: c_long, signal: c_long| {
        vec![call(libc::SYS_tgkill, &[process, thread, signal])]
    };
    for role in ROLES {
        for process in [parent, 1, -1, 0] {
            let end = act_out(role, Mode::Kill, |own| signal(process, own, kick));
            assert_eq!(end, KILLED, "{role:?} may signal process {process}");
        }
        for other in [0, libc::SIGKILL, libc::SIGSTOP, libc::SIGTERM, SIGRTMIN() + 1] {
            let end = act_out(role, Mode::Kill, |own| signal(own, own, other.into()));
            assert_eq!(end, KILLED, "{role:?} may send itself signal {other}");
        }
        for number in [libc::SYS_kill, libc::SYS_tkill, libc::SYS_rt_sigqueueinfo] {
            let end = act_out(role, Mode::Kill, |own| vec![call(number, &[own, kick])]);
            assert_eq!(end, KILLED, "{role:?} may make call {number}");
        }
    }
    // The default of a kick is to end the process: that it arrives is seen by that.
    let kicked = |own| signal(own, own, kick);
    assert_eq!(act_out(Role::Control, Mode::Kill, kicked), End::Signal(SIGRTMIN()));
}

#[test]
fn locks_wait_and_wake_and_do_nothing_else() {
    let private = c_long::from(libc::FUTEX_PRIVATE_FLAG);
    for role in ROLES {
        for operation in [
            libc::FUTEX_REQUEUE,
            libc::FUTEX_CMP_REQUEUE,
            libc::FUTEX_WAKE_OP,
            libc::FUTEX_LOCK_PI,
            libc::FUTEX_UNLOCK_PI,
            libc::FUTEX_CMP_REQUEUE_PI,
            libc::FUTEX_WAIT_REQUEUE_PI,
        ] {
            let attempt = call(libc::SYS_futex, &[0, c_long::from(operation) | private]);
            assert_eq!(
                act_out(role, Mode::Kill, |_| vec![attempt]),
                KILLED,
                "{role:?} {operation}"
            );
        }
        let operations = [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET];
        let flags = [0, private, c_long::from(libc::FUTEX_CLOCK_REALTIME) | private];
        // On an address that is none, so that nothing waits.
        let attempts = operations.into_iter().flat_map(|operation| {
            flags.map(|flags| call(libc::SYS_futex, &[0, c_long::from(operation) | flags]))
        });
        assert_eq!(act_out(role, Mode::Kill, |_| attempts.collect()), End::Exit, "{role:?}");
    }
}

#[test]
fn descriptors_are_neither_copied_nor_changed() {
    for role in ROLES {
        for command in [libc::F_DUPFD, libc::F_SETFL, libc::F_SETOWN, libc::F_SETPIPE_SZ] {
            let attempt = call(libc::SYS_fcntl, &[-1, command.into()]);
            assert_eq!(act_out(role, Mode::Kill, |_| vec![attempt]), KILLED, "{role:?} {command}");
        }
    }
    let flags = |_| [libc::F_GETFD, libc::F_SETFD].map(|f| call(libc::SYS_fcntl, &[-1, f.into()]));
    let end = act_out(Role::Interrupts, Mode::Kill, |own| flags(own).to_vec());
    assert_eq!(end, End::Exit);
}

#[test]
fn what_a_thread_needs_is_left_to_it() {
    let anonymous = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let writable = c_long::from(libc::PROT_READ | libc::PROT_WRITE);
    for role in ROLES {
        let attempts = |_| {
            vec![
                call(libc::SYS_sched_yield, &[]),
                call(libc::SYS_mmap, &[0, 4096, writable, anonymous, -1, 0]),
                advise(libc::MADV_DONTNEED),
                advise(libc::MADV_FREE),
            ]
        };
        assert_eq!(act_out(role, Mode::Kill, attempts), End::Exit, "{role:?}");
    }
    for role in [Role::Control, Role::Vcpu] {
        let attempts = |_| vec![call(libc::SYS_pread64, &[-1]), call(libc::SYS_pwrite64, &[-1])];
        assert_eq!(act_out(role, Mode::Kill, attempts), End::Exit, "{role:?}");
    }
}

/// SECURITY.md has the figures of the filters as they are.
#[test]
fn the_figures_that_are_published_are_those_of_the_filters() {
    use std::collections::{BTreeMap, BTreeSet};

    let filters = include_str!("../../../resources/seccomp/x86_64.json");
    let filters: serde_json::Value = serde_json::from_str(filters).expect("JSON");
    let row = |name: &str, roles: &[Role]| {
        let rules = roles.iter().flat_map(|role| filters[role.name()]["filter"].as_array());
        let (mut calls, mut requests) = (BTreeMap::new(), BTreeSet::new());
        for rule in rules.flatten() {
            let call = rule["syscall"].as_str().expect("a name");
            *calls.entry(call).or_insert(true) &= rule["args"].is_array();
            if call == "ioctl" {
                requests.insert(rule["args"][0]["val"].as_u64().expect("a number"));
            }
        }
        let checked = calls.values().filter(|checked| **checked).count();
        format!("| {name} | {} | {checked} | {} |", calls.len(), requests.len())
    };
    let text = include_str!("../../../SECURITY.md");
    for row in [
        row("vCPU", &[Role::Vcpu]),
        row("control", &[Role::Control]),
        row("memory, until it is filled", &[Role::Memory]),
        row("all three: they share one address space", &BERTHS_OWN),
        row("parent, a process of its own", &[Role::Parent]),
        row("`berth-irq`, a process of its own", &[Role::Interrupts]),
        row("`berth-guard`, a process of its own", &[Role::Guard]),
        row("`berth-tty`, a process of its own", &[Role::Terminal]),
    ] {
        assert!(text.contains(&row), "{row}");
    }
}
