//! A program of whose system calls one fails, whichever of its processes and threads makes it.
//!
//! `probe faults list COMMAND` prints a line for each call that it makes (its number, the thread, the
//! thread's name, the call, an ioctl's request); `probe faults fail N ERROR
//! COMMAND` has the Nth fail. The call is not made: the kernel is handed one in its place that every
//! filter allows and that does nothing (`sched_yield`).

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;

use anyhow::{Result, bail, ensure};
use libc::{c_int, c_long, c_void, pid_t, user_regs_struct};

/// A stop for a system call.
const CALL: c_int = libc::SIGTRAP | 0x80;

/// Those whose failing means nothing: they do not return, the kernel itself makes them, or their
/// errors are their protocol, in which no other occurs (`futex`), or they have none (`rt_sigprocmask`).
const NEVER: [c_long; 6] = [
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_futex,
    libc::SYS_rt_sigprocmask,
];

fn ptrace(request: libc::c_uint, pid: pid_t, data: u64) -> io::Result<()> {
    // SAFETY: `data` is a number, or the address of registers that outlive the call.
    match unsafe { libc::ptrace(request, pid, std::ptr::null_mut::<c_void>(), data as *mut c_void) }
    {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn registers(pid: pid_t) -> io::Result<user_regs_struct> {
    // SAFETY: all zeroes are registers.
    let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, pid, &raw mut registers as u64)?;
    Ok(registers)
}

/// Starts `command`, stopped before its first instruction.
fn start(command: &[&str]) -> Result<pid_t> {
    let words: Vec<CString> =
        command.iter().map(|word| CString::new(*word)).collect::<Result<_, _>>()?;
    let mut arguments: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    arguments.push(std::ptr::null());
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: the strings live as long as the call.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME);
            libc::execvp(arguments[0], arguments.as_ptr());
            libc::_exit(127)
        }
    }
    let mut status = 0;
    // SAFETY: `status` is writable.
    ensure!(unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid, "no child");
    ensure!(libc::WIFSTOPPED(status), "{} cannot be run", command[0]);
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, pid, options as u64)?;
    Ok(pid)
}

/// What a call is, for a reader: thread, call, request of an ioctl.
fn described(pid: pid_t, registers: &user_regs_struct) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let request = match registers.orig_rax as c_long {
        libc::SYS_ioctl => registers.rsi as u32,
        _ => 0,
    };
    format!("{}\t{}\t{request:#x}", name.trim(), registers.orig_rax)
}

/// Runs `command` to its end and ends as it does, `fail` being the call's number from 0 and an
/// error's.
pub fn run(fail: Option<(u64, i32)>, command: &[&str]) -> Result<()> {
    let first = start(command)?;
    let mut count = 0;
    // The error that a thread gets at the end of its call; whether a thread is in one.
    let mut failing: BTreeMap<pid_t, i32> = BTreeMap::new();
    let mut inside: BTreeMap<pid_t, bool> = BTreeMap::new();
    ptrace(libc::PTRACE_SYSCALL, first, 0)?;
    let mut end = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` is writable.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if pid == -1 {
            break;
        }
        if !libc::WIFSTOPPED(status) {
            if pid == first {
                end = Some(status);
            }
            inside.remove(&pid);
            continue;
        }
        let mut signal = libc::WSTOPSIG(status);
        if signal == CALL {
            signal = 0;
            let in_call = inside.entry(pid).or_default();
            *in_call = !*in_call;
            // A thread that was killed meanwhile has no registers.
            if let Ok(mut now) = registers(pid) {
                if *in_call && !NEVER.contains(&(now.orig_rax as c_long)) {
                    if fail.is_none() {
                        println!("{count}\t{pid}\t{}", described(pid, &now));
                    }
                    if let Some((number, error)) = fail
                        && number == count
                    {
                        eprintln!("probe: fails\t{}", described(pid, &now));
                        now.orig_rax = libc::SYS_sched_yield as u64;
                        let _ = ptrace(libc::PTRACE_SETREGS, pid, &raw const now as u64);
                        failing.insert(pid, error);
                    }
                    count += 1;
                } else if !*in_call && let Some(error) = failing.remove(&pid) {
                    now.rax = -i64::from(error) as u64;
                    let _ = ptrace(libc::PTRACE_SETREGS, pid, &raw const now as u64);
                }
            }
        } else if signal == libc::SIGTRAP || (signal == libc::SIGSTOP && !inside.contains_key(&pid))
        {
            // An event of ptrace(2), or the first stop of a new thread.
            inside.entry(pid).or_default();
            signal = 0;
        }
        let _ = ptrace(libc::PTRACE_SYSCALL, pid, signal as u64);
    }
    let Some(status) = end else { bail!("{} has no end", command[0]) };
    let code = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    std::process::exit(code)
}
