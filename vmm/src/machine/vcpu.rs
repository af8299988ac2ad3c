//! vCPU threads: pinned, named, and in KVM_RUN nearly all the time.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::EventFd;

use crate::exit::Exit;
use crate::machine::RunError;
use crate::machine::chipset::Chipset;
use crate::machine::kick::{self, KickTarget};
use crate::machine::memory::Go;
use crate::machine::pin;
use crate::sandbox::Restriction;

/// Exits to user space, by reason: the price of what the kernel does not do alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// Reads and writes of ports.
    pub port: u64,
    /// Reads and writes of memory that is not in a slot.
    pub mmio: u64,
    /// Signals and everything else.
    pub other: u64,
}

/// Why a vCPU stopped.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM_RUN failed.
    #[error("KVM cannot run vCPU {index}")]
    Run {
        /// vCPU.
        index: u8,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The CPU is in a state that KVM cannot continue from.
    #[error("vCPU {index} stopped: {reason}")]
    Stopped {
        /// vCPU.
        index: u8,
        /// KVM's exit.
        reason: String,
    },
}

/// What a vCPU thread shares with the one that controls it.
pub struct Shared {
    /// The I/O map.
    pub chipset: Arc<Chipset>,
    /// Set before the kick: leave the loop.
    pub stop: AtomicBool,
    /// Signalled with each [`Ended`].
    pub ended: EventFd,
}

/// The last word of a vCPU, or of what was still to be built.
pub type Ended = Result<Exit, RunError>;

/// What [`handle`] wants next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Back into the guest.
    Run,
    /// The machine ends.
    End(Exit),
    /// KVM cannot go on.
    Stop(String),
}

/// Serves one exit. `port_width` is the size of the accesses to a port: a string instruction with
/// a repeat prefix leaves the guest once for many of them, all to the same port.
pub fn handle(
    chipset: &Chipset,
    counts: &mut ExitCounts,
    exit: VcpuExit<'_>,
    port_width: usize,
) -> Next {
    match exit {
        VcpuExit::IoIn(port, data) => {
            counts.port += 1;
            data.chunks_mut(port_width).for_each(|data| chipset.port_read(port, data));
        }
        VcpuExit::IoOut(port, data) => {
            counts.port += 1;
            let end = data.chunks(port_width).find_map(|data| chipset.port_write(port, data));
            return end.map_or(Next::Run, Next::End);
        }
        VcpuExit::MmioRead(address, data) => {
            counts.mmio += 1;
            chipset.memory_read(address, data);
        }
        VcpuExit::MmioWrite(address, data) => {
            counts.mmio += 1;
            chipset.memory_write(address, data);
        }
        // A triple fault; KVM reports it as a shutdown.
        VcpuExit::Shutdown => return Next::End(Exit::TripleFault),
        VcpuExit::Intr => counts.other += 1,
        other => return Next::Stop(format!("{other:?}")),
    }
    Next::Run
}

/// Has KVM start the threads of its own that the first KVM_RUN starts, on the CPUs of this thread.
///
/// Since Linux 6.12 the worker that gives huge pages back after the iTLB multihit mitigation
/// splits them belongs to the process, and inherits CPUs and filter from the thread that first
/// runs a vCPU (`kvm_mmu_post_init_vm`). With `immediate_exit` KVM_RUN does that and nothing else. A
/// vCPU that is run by another thread afterwards waits for a grace period of RCU, some 10 ms
/// (`kvm_vcpu_ioctl` in virt/kvm/kvm_main.c).
fn start_kernel_workers(boot_vcpu: &mut VcpuFd) -> io::Result<()> {
    boot_vcpu.set_kvm_immediate_exit(1);
    let result = boot_vcpu.run().map(drop);
    boot_vcpu.set_kvm_immediate_exit(0);
    match result {
        Err(error) if error.errno() != libc::EINTR => Err(error.into()),
        _ => Ok(()),
    }
}

/// The machine's name and the vCPU in the 15 bytes that Linux gives a thread's name.
pub fn thread_name(machine: &str, index: u8) -> String {
    let role = format!("/vcpu{index}");
    let mut length = machine.len().min(15 - role.len());
    while !machine.is_char_boundary(length) {
        length -= 1;
    }
    machine[..length].to_owned() + &role
}

/// A vCPU's thread.
pub struct VcpuThread {
    thread: JoinHandle<ExitCounts>,
    work: Sender<Work>,
    errand: Sender<Errand>,
    /// Its vCPU runs no more, and it waits for an errand.
    has_left: Arc<AtomicBool>,
}

/// What a vCPU's thread runs.
pub struct Work {
    /// vCPU.
    pub index: u8,
    /// The same in KVM.
    pub fd: VcpuFd,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// Who listens to its last word.
    pub ended: Sender<Ended>,
    /// What it may do.
    pub restriction: Restriction,
    /// Told when it may do no more than that.
    pub restricted: Sender<()>,
    /// Of the vCPU that runs first.
    pub first: Option<First>,
}

/// What a thread does when its vCPU runs no more, behind the same filter.
pub type Errand = Box<dyn FnOnce() + Send>;

/// What the vCPU that runs first does before.
pub struct First {
    /// Told the thread's number when KVM has its threads, and nothing if it does not get them; it is on
    /// berth's own CPUs until then.
    pub started: Sender<Tid>,
    /// Closed when it is on its own CPU.
    pub pinned: Receiver<Infallible>,
    /// What starts with the guest.
    pub behind: Vec<Go>,
}

/// A thread's number.
pub type Tid = i32;

impl VcpuThread {
    /// Starts it on host CPU `cpu`, without a vCPU yet: from now on others see that the CPU is
    /// taken. It ends when it is dropped before it gets one.
    pub fn reserve(name: String, cpu: u32) -> io::Result<Self> {
        Self::spawn(name, Some(cpu))
    }

    /// The same on the CPUs of the thread that calls.
    pub fn start_here(name: String) -> io::Result<Self> {
        Self::spawn(name, None)
    }

    fn spawn(name: String, cpu: Option<u32>) -> io::Result<Self> {
        let (work, orders) = mpsc::channel::<Work>();
        let (errand, errands) = mpsc::channel::<Errand>();
        let has_left = Arc::new(AtomicBool::new(false));
        let leaves = has_left.clone();
        let (pinned, result) = mpsc::channel();
        let body = move || {
            let _ = pinned.send(cpu.map_or(Ok(()), |cpu| pin::pin_this_thread(&[cpu])));
            let mut counts = ExitCounts::default();
            let Ok(work) = orders.recv() else { return counts };
            let Work { index, mut fd, shared, ended, restriction, restricted, first } = work;
            let failed = |source| VcpuError::Run { index, source };
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            let applied = restriction.apply().map_err(io::Error::other);
            // Nobody may ask.
            let _ = restricted.send(());
            drop(restricted);
            let result = applied.and_then(|()| be_first(first, tid, &mut fd)).map_err(failed);
            let result = result.and_then(|()| run(index, &mut fd, &shared, &mut counts));
            if let Some(result) = result.transpose() {
                // Nobody listens any more when another vCPU has ended the machine before.
                let _ = ended.send(result.map_err(RunError::from));
                let _ = shared.ended.write(1);
            }
            // All that it had of the machine goes before others learn that it has left.
            drop((fd, shared));
            leaves.store(true, Ordering::Release);
            if let Ok(errand) = errands.recv() {
                errand();
            }
            counts
        };
        let thread = thread::Builder::new().name(name).spawn(body)?;
        result.recv().expect("the thread tells before it waits")?;
        Ok(Self { thread, work, errand, has_left })
    }

    /// Lets it run the vCPU, once it is restricted.
    pub fn start(&self, work: Work) {
        assert!(self.work.send(work).is_ok(), "a thread waits for its vCPU");
    }

    /// Takes the vCPU out of the guest, unless it has left it for good; returns whether it has not.
    /// The vCPU sees the stop flag, which is set by now.
    pub fn kick(&self) -> bool {
        if self.has_left.load(Ordering::Acquire) {
            return false;
        }
        kick::kick(&self.thread);
        true
    }

    /// Has it do something, once its vCPU runs no more.
    pub fn send(&self, errand: Errand) {
        assert!(self.errand.send(errand).is_ok(), "a thread waits for an errand");
    }

    /// Waits for its end, after an errand if it has one.
    pub fn join(self) -> ExitCounts {
        drop((self.work, self.errand));
        self.thread.join().expect("a vCPU thread does not panic")
    }
}

fn be_first(first: Option<First>, tid: Tid, fd: &mut VcpuFd) -> io::Result<()> {
    let Some(First { started, pinned, behind }) = first else { return Ok(()) };
    start_kernel_workers(fd)?;
    // Who waits for it is there until the guest runs.
    let _ = started.send(tid);
    let _ = pinned.recv();
    drop(behind);
    Ok(())
}

/// How often in a row KVM may find no memory behind a BAR. Another vCPU may be about to switch the
/// device's memory off: VFIO refuses the page before KVM's slot is gone, and afterwards the access
/// leaves the guest as one to nothing. Memory that stays away ends the machine.
const MOST_FAULTS: u32 = 10_000;

/// Runs until the guest ends the machine (`Some`), or until it is told to stop (`None`).
fn run(
    index: u8,
    fd: &mut VcpuFd,
    shared: &Shared,
    counts: &mut ExitCounts,
) -> Result<Option<Exit>, VcpuError> {
    let failed = |source| VcpuError::Run { index, source };
    let kvm_run: *mut kvm_run = fd.get_kvm_run();
    // SAFETY: `fd` keeps the page mapped for longer than `kicks` lives.
    let kicks = unsafe { KickTarget::new(kvm_run) };
    let mut faults = 0;
    let result = loop {
        if shared.stop.load(Ordering::Acquire) {
            break Ok(None);
        }
        match fd.run() {
            Ok(exit) => {
                faults = 0;
                // SAFETY: `fd` keeps the page mapped, and its borrow in `exit` is of the data,
                // which lies behind this structure.
                let port_width = unsafe { port_width(kvm_run) };
                match handle(&shared.chipset, counts, exit, port_width) {
                    Next::Run => {}
                    Next::End(exit) => break Ok(Some(exit)),
                    Next::Stop(reason) => break Err(VcpuError::Stopped { index, reason }),
                }
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                counts.other += 1;
                fd.set_kvm_immediate_exit(0);
            }
            Err(error) if error.errno() == libc::EFAULT && faults < MOST_FAULTS => {
                faults += 1;
                thread::yield_now();
            }
            Err(error) => break Err(failed(error.into())),
        }
    };
    drop(kicks);
    result
}

/// Bytes of each access of a port exit, which kvm-ioctls does not tell; after any other exit some
/// number that is not 0.
///
/// # Safety
/// `kvm_run` points to a vCPU's, and the vCPU is not running.
unsafe fn port_width(kvm_run: *const kvm_run) -> usize {
    // SAFETY: the caller's promise; any bytes are a valid size.
    let size = unsafe { (&raw const (*kvm_run).__bindgen_anon_1.io.size).read() };
    usize::from(size).max(1)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use berth_arch::layout;

    use super::*;
    use crate::machine::chipset::tests::chipset;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics with it").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_string_instruction_stays_at_its_port() {
        let screen = Screen::default();
        let chipset = chipset(screen.clone());
        let mut counts = ExitCounts::default();
        let exit = VcpuExit::IoOut(layout::COM1, b"guest");
        assert_eq!(handle(&chipset, &mut counts, exit, 1), Next::Run);
        assert_eq!(*screen.0.lock().expect("nobody panics with it"), b"guest");
        // The line status register, five ports on, is ready each time.
        let mut data = [0; 3];
        let exit = VcpuExit::IoIn(layout::COM1 + 5, &mut data);
        assert_eq!(handle(&chipset, &mut counts, exit, 1), Next::Run);
        assert!(data.iter().all(|status| *status == data[0] && *status != 0), "{data:x?}");
        assert_eq!(counts.port, 2);
    }

    #[test]
    fn every_way_out_of_the_guest_has_its_end() {
        let chipset = chipset(io::sink());
        let mut counts = ExitCounts::default();
        let mut next = |exit| handle(&chipset, &mut counts, exit, 1);
        assert_eq!(next(VcpuExit::Shutdown), Next::End(Exit::TripleFault));
        assert_eq!(next(VcpuExit::Intr), Next::Run);
        let reset = VcpuExit::IoOut(layout::RESET_PORT, &[layout::RESET_VALUE]);
        assert_eq!(next(reset), Next::End(Exit::Reset));
        let unknown = next(VcpuExit::FailEntry(7, 0));
        assert!(matches!(unknown, Next::Stop(reason) if reason.contains('7')));
        assert_eq!(counts, ExitCounts { port: 1, mmio: 0, other: 1 });
    }

    #[test]
    fn thread_names_fit_and_keep_the_vcpu() {
        assert_eq!(thread_name("router", 0), "router/vcpu0");
        assert_eq!(thread_name("a-very-long-machine", 12), "a-very-l/vcpu12");
        assert_eq!(thread_name("größenwahn", 255), "größe/vcpu255");
    }
}
