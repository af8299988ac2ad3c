//! Memory that is filled and mapped for DMA while the guest runs already.
//!
//! A guest needs little of its memory at first, and a device none of it before its driver makes it a
//! bus master. So a guest starts when what it boots from is loaded, and the rest follows: a page that
//! the guest touches earlier comes with the touch. Bus masters wait at the [`DmaGate`].
//!
//! The threads are the least of all: they run at the lowest priority, and on CPUs of vCPUs that have
//! nothing to do yet. When memory cannot be had the machine ends and says so.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use berth_devices::pci::DmaGate;

use super::fill::{Share, cpus_near, shares};
use super::{Chunk, Ready};
use crate::machine::{BuildError, pin};
use crate::plan::{FILLERS, VcpuPlan};
use crate::sandbox::Restriction;

/// The least that a thread can ask for (setpriority(2)).
const LOWEST_PRIORITY: i32 = 19;

/// What such a thread needs; it calls the kernel and little else.
const STACK: usize = 256 << 10;

/// What is left to be done behind a guest.
pub struct Behind {
    shares: Vec<Share>,
    ready: Ready,
    gate: Arc<DmaGate>,
}

/// Lets a thread start when it is dropped: the guest is about to run. A thread that started earlier
/// would be in its way where both share a CPU.
pub struct Go(#[expect(dead_code, reason = "its end is what counts")] Sender<Infallible>);

/// Where it is done.
pub struct Filling {
    threads: Vec<JoinHandle<()>>,
    progress: Arc<Progress>,
}

struct Progress {
    stop: AtomicBool,
    left: AtomicUsize,
    gate: Arc<DmaGate>,
}

impl Behind {
    /// Makes all of `chunks` ready; those that are filled already take no time.
    pub fn new(chunks: &[Chunk], ready: Ready, vcpus: &[VcpuPlan], gate: Arc<DmaGate>) -> Self {
        // The first vCPU is at work from the start.
        let idle = |node| -> Vec<u32> {
            let boot = vcpus.first().map(|vcpu| vcpu.cpu);
            let near = cpus_near(vcpus, node).into_iter();
            near.filter(|cpu| Some(*cpu) != boot).take(FILLERS as usize).collect()
        };
        let mut shares = shares(chunks, idle);
        // Of many nodes some share a thread.
        while shares.len() > FILLERS as usize {
            let (_, rest) = shares.pop().expect("it has more");
            shares[0].1.extend(rest);
        }
        Self { shares, ready, gate }
    }

    /// Makes the threads. Each starts when its [`Go`] is dropped, and sends to `restricted` when it is;
    /// what goes wrong it tells `failed`.
    ///
    /// # Errors
    /// A thread is refused.
    pub fn start(
        self,
        restriction: &Restriction,
        restricted: &Sender<()>,
        failed: impl Fn(BuildError) + Clone + Send + 'static,
    ) -> io::Result<(Filling, Vec<Go>)> {
        let Self { shares, ready, gate } = self;
        let left = AtomicUsize::new(shares.iter().map(|(_, chunks)| chunks.len()).sum());
        let progress = Arc::new(Progress { stop: AtomicBool::new(false), left, gate });
        let mut filling = Filling { threads: Vec::new(), progress };
        let mut gos = Vec::new();
        for (cpu, chunks) in shares {
            let (ready, progress) = (ready.clone(), filling.progress.clone());
            let (restriction, restricted) = (restriction.clone(), restricted.clone());
            let failed = failed.clone();
            let (go, gone) = mpsc::channel();
            gos.push(Go(go));
            let body = move || {
                // Nothing is ever sent: it ends when the other end is dropped.
                let _ = gone.recv();
                let result = be_least(cpu).and_then(|()| Ok(restriction.apply()?));
                let _ = restricted.send(());
                drop(restricted);
                let result = result.and_then(|()| progress.advance(&chunks, &ready));
                if let Err(error) = result {
                    progress.stop.store(true, Ordering::Relaxed);
                    failed(error);
                }
            };
            let thread = thread::Builder::new().name("berth-memory".to_owned()).stack_size(STACK);
            filling.threads.push(thread.spawn(body)?);
        }
        Ok((filling, gos))
    }
}

/// Before anything of it is forbidden.
fn be_least(cpu: Option<u32>) -> Result<(), BuildError> {
    if let Some(cpu) = cpu {
        let pinned = pin::pin_this_thread(&[cpu]);
        pinned.map_err(BuildError::system("choose the CPU of a thread that fills memory"))?;
    }
    // SAFETY: takes no pointers; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST_PRIORITY) } {
        0 => Ok(()),
        _ => Err(BuildError::system("lower the priority of a thread")(io::Error::last_os_error())),
    }
}

impl Progress {
    fn advance(&self, chunks: &[Chunk], ready: &Ready) -> Result<(), BuildError> {
        for chunk in chunks {
            if !ready.fill(chunk, &self.stop)? {
                break;
            }
            ready.finish(chunk)?;
            if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.gate.open();
            }
        }
        Ok(())
    }
}

impl Filling {
    /// Waits until all is done or has failed.
    pub fn complete(mut self) {
        self.join();
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().expect("filling memory does not panic");
        }
    }
}

impl Drop for Filling {
    /// Ends it where it is. Memory must not be unmapped before that.
    fn drop(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        self.progress.gate.shut();
        self.join();
    }
}
