//! Copies of a thread, and system calls that they make.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use libc::{c_int, c_long, c_void, pid_t, user_regs_struct};

/// Room for what arguments point at.
const SCRATCH: u64 = 64 << 10;

/// `PTRACE_O_SUSPEND_SECCOMP` (linux/ptrace.h): the kernel leaves the tracee's filters out.
const SUSPEND_SECCOMP: c_int = 1 << 21;
/// Whatever a copy starts is stopped, and ends with the tracer.
const CONTAINED: c_int = libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_EXITKILL;

/// The process was ended by this signal.
#[derive(Debug)]
pub struct Ended(pub c_int);

/// A stopped process that makes the system calls it is told to.
pub struct Copy {
    pid: pid_t,
    registers: user_regs_struct,
    memory: File,
    /// The address of its room.
    scratch: u64,
    used: u64,
}

/// Makes a copy for each attempt.
pub struct Copier {
    thread: pid_t,
    copy: Copy,
}

fn ptrace(request: libc::c_uint, pid: pid_t, address: u64, data: u64) -> io::Result<()> {
    // SAFETY: `data` is a number, or the address of a value that outlives the call and has the size
    // that the request wants.
    match unsafe { libc::ptrace(request, pid, address as *mut c_void, data as *mut c_void) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn wait(pid: pid_t) -> io::Result<c_int> {
    let mut status = 0;
    // SAFETY: `status` is writable.
    match unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(status),
    }
}

fn registers(pid: pid_t) -> io::Result<user_regs_struct> {
    // SAFETY: all zeroes are registers.
    let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut registers as u64)?;
    Ok(registers)
}

fn set_registers(pid: pid_t, registers: &user_regs_struct) -> io::Result<()> {
    ptrace(libc::PTRACE_SETREGS, pid, 0, &raw const *registers as u64)
}

/// What a tracee stops for that has started another process.
fn started(status: c_int) -> bool {
    [libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_CLONE]
        .contains(&(status >> 16))
}

/// Stops thread `pid`; what its registers are.
fn seize(pid: pid_t) -> Result<(user_regs_struct, Copy)> {
    let options = (SUSPEND_SECCOMP | libc::PTRACE_O_TRACEFORK) as u64;
    ptrace(libc::PTRACE_SEIZE, pid, 0, options).context("PTRACE_SEIZE")?;
    ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0).context("PTRACE_INTERRUPT")?;
    wait(pid)?;
    let before = registers(pid)?;
    let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let mut code = [0; 2];
    memory.read_exact_at(&mut code, before.rip - 2)?;
    ensure!(code == [0x0f, 0x05], "thread {pid} waits in no system call");
    Ok((before, Copy { pid, registers: before, memory, scratch: 0, used: 0 }))
}

/// Lets thread `pid` go on where it was.
fn release(pid: pid_t, before: &user_regs_struct) -> io::Result<()> {
    set_registers(pid, before)?;
    ptrace(libc::PTRACE_DETACH, pid, 0, 0)
}

/// The end of a child is to be heard of, or it stays in the process table: where it is in a PID
/// namespace, that one does not end either.
fn reap(parent: &mut Copy) {
    let any = -1_i64 as u64;
    let flags = (libc::__WALL | libc::WNOHANG) as u64;
    let _ = parent.call(libc::SYS_wait4, &[any, 0, flags, 0]);
}

impl Copier {
    /// A copy of thread `pid`, which goes on as if nothing had been.
    pub fn of_thread(pid: pid_t) -> Result<Self> {
        let (before, mut thread) = seize(pid)?;
        let copy = thread.fork(CONTAINED | SUSPEND_SECCOMP);
        release(pid, &before)?;
        let mut copy = copy?;
        copy.scratch =
            copy.map(SCRATCH).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { thread: pid, copy })
    }

    /// A copy that makes calls with or without the filter.
    pub fn copy(&mut self, filtered: bool) -> Result<Copy> {
        self.copy.fork(CONTAINED | if filtered { 0 } else { SUSPEND_SECCOMP })
    }

    /// Ends a copy.
    pub fn end(&mut self, copy: Copy) {
        end(copy);
        reap(&mut self.copy);
    }

    /// Leaves nothing behind.
    pub fn finish(self) -> Result<()> {
        end(self.copy);
        let (before, mut thread) = seize(self.thread)?;
        reap(&mut thread);
        Ok(release(self.thread, &before)?)
    }
}

fn end(copy: Copy) {
    // SAFETY: sends a signal.
    unsafe { libc::kill(copy.pid, libc::SIGKILL) };
    // The attempt may have ended it.
    while wait(copy.pid).is_ok_and(|status| libc::WIFSTOPPED(status)) {}
}

impl Copy {
    /// What a system call returns: a value, or an error's negative number.
    ///
    /// # Errors
    /// The process has ended.
    pub fn call(&mut self, number: c_long, arguments: &[u64]) -> Result<i64, Ended> {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let [rdi, rsi, rdx, r10, r8, r9] = all;
        let now = user_regs_struct {
            rip: self.registers.rip - 2,
            rax: number as u64,
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.registers
        };
        let gone = |_: io::Error| Ended(libc::SIGKILL);
        set_registers(self.pid, &now).map_err(gone)?;
        ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0).map_err(gone)?;
        loop {
            let status = wait(self.pid).map_err(gone)?;
            if libc::WIFSIGNALED(status) {
                return Err(Ended(libc::WTERMSIG(status)));
            }
            if !libc::WIFSTOPPED(status) {
                return Err(Ended(0));
            }
            if started(status) {
                // It would go on in berth's own code.
                let mut child: u64 = 0;
                let _ = ptrace(libc::PTRACE_GETEVENTMSG, self.pid, 0, &raw mut child as u64);
                let _ = wait(child as pid_t);
                // SAFETY: sends a signal.
                unsafe { libc::kill(child as pid_t, libc::SIGKILL) };
                let _ = wait(child as pid_t);
                return Ok(1);
            }
            if status >> 16 == libc::PTRACE_EVENT_EXEC {
                return Ok(0);
            }
            if libc::WSTOPSIG(status) == libc::SIGTRAP && status >> 16 == 0 {
                return Ok(registers(self.pid).map_err(gone)?.rax as i64);
            }
            // A signal on its way, such as that of a poisoned page, is not delivered.
            ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0).map_err(gone)?;
        }
    }

    /// Makes a copy of it with these options of ptrace(2).
    fn fork(&mut self, options: c_int) -> Result<Copy> {
        let now = user_regs_struct {
            rip: self.registers.rip - 2,
            rax: libc::SYS_clone as u64,
            orig_rax: u64::MAX,
            rdi: libc::SIGCHLD as u64,
            rsi: 0,
            rdx: 0,
            r10: 0,
            r8: 0,
            r9: 0,
            ..self.registers
        };
        set_registers(self.pid, &now)?;
        ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0)?;
        let mut child: u64 = 0;
        loop {
            let status = wait(self.pid)?;
            ensure!(libc::WIFSTOPPED(status), "process {} ended: {status:#x}", self.pid);
            if started(status) {
                ptrace(libc::PTRACE_GETEVENTMSG, self.pid, 0, &raw mut child as u64)?;
            } else if libc::WSTOPSIG(status) == libc::SIGTRAP && status >> 16 == 0 {
                break;
            }
            ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0)?;
        }
        if child == 0 {
            bail!("no copy of {}: {}", self.pid, registers(self.pid)?.rax as i64);
        }
        let child = child as pid_t;
        wait(child)?;
        ptrace(libc::PTRACE_SETOPTIONS, child, 0, options as u64)?;
        let memory = File::options().read(true).write(true).open(format!("/proc/{child}/mem"))?;
        Ok(Copy { pid: child, registers: self.registers, memory, scratch: self.scratch, used: 0 })
    }

    fn map(&mut self, length: u64) -> Result<u64, Ended> {
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE) as u64;
        let address = self.call(libc::SYS_mmap, &[0, length, protection, flags, u64::MAX, 0])?;
        u64::try_from(address).map_err(|_| Ended(0))
    }

    /// The address of `bytes`, in its memory.
    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let address = self.scratch + self.used;
        self.used += (bytes.len() as u64).next_multiple_of(16);
        assert!(self.used <= SCRATCH, "an attempt has 64 KiB");
        self.memory.write_all_at(bytes, address).expect("its memory can be written");
        address
    }

    /// The address of `text` with an end, in its memory.
    pub fn text(&mut self, text: &str) -> u64 {
        self.bytes(format!("{text}\0").as_bytes())
    }

    /// The address of `length` zeroes, in its memory.
    pub fn room(&mut self, length: usize) -> u64 {
        self.bytes(&vec![0; length])
    }

    /// What is at `address` in its memory.
    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_exact_at(&mut bytes, address).expect("its memory can be read");
        bytes
    }

    /// Its number, as the host has it.
    pub fn pid(&self) -> pid_t {
        self.pid
    }
}
