//! The machine: builds what the plan says, runs it, takes it down again.
//!
//! Nothing is decided here. Everything that the running machine needs is opened by
//! [`Prepared::run`] first; once the guest runs, nothing is opened any more.

mod build;
mod chipset;
mod console;
mod control;
mod dma;
mod error;
mod hierarchy;
mod kick;
mod kvm;
mod limits;
mod memory;
mod parent;
mod pin;
mod steering;
mod vcpu;
mod watch;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use berth_devices::vfio::{AddressSpace, DmaPort};
use kvm_ioctls::VcpuFd;

use control::Requests;
pub use error::{BuildError, RunError};
use memory::{Behind, Filling, Go, Ram};
pub use parent::{ChildEnd, Parent, WaitError};
use parent::{Leaving, Side, Signals, Ties};
use watch::Watch;

use crate::advice::Code;
use crate::child;
use crate::exit::Exit;
use crate::footprint;
use crate::placement_lock::PlacementLock;
use crate::plan::{Plan, VcpuPlan};
use crate::sandbox::{Confinement, Mode, Reporter, Restrictions, Role};
use console::{Input, Keyboard};
use kvm::Vm;
use steering::Steering;
use vcpu::{Ended, ExitCounts, First, Shared, VcpuThread, Work, thread_name};

/// A machine that is ready to run.
///
/// The order of the fields is the order in which they are dropped: the devices are reset and
/// closed while the machine and its memory are still there.
pub struct Machine {
    filling: Option<Filling>,
    behind: Option<Behind>,
    vcpus: Vec<VcpuFd>,
    threads: Vec<VcpuThread>,
    shared: Arc<Shared>,
    watch: Watch,
    input: Option<Input>,
    restrictions: Restrictions,
    confinement: Confinement,
    reporter: Option<Reporter>,
    ended: (mpsc::Sender<Ended>, Receiver<Ended>),
    requests: Requests,
    leaving: Option<Leaving>,
    plan: Plan,
    address_space: Option<AddressSpace>,
    _vm: Arc<Vm>,
    ram: Ram,
}

/// How a machine is run, beside its plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// What happens on a system call that no filter lists.
    pub seccomp: Mode,
    /// Whether what the sandbox has come to is printed.
    pub sandbox_report: bool,
}

/// Which of two processes goes on after [`split`].
pub enum Process {
    /// The one that was started.
    Parent(Box<Parent>),
    /// The machine's own.
    Machine(Box<Prepared>),
}

/// A machine that has a process of its own, with one thread, and nothing else yet.
pub struct Prepared {
    plan: Plan,
    keyboard: Option<Keyboard>,
    steering: Option<Steering>,
    reporter: Option<Reporter>,
    confinement: Confinement,
    restrictions: Restrictions,
    ties: Ties,
    placement_lock: PlacementLock,
}

/// Starts the helpers of the machine and makes its process; from here on there are two. The process
/// has one thread. `placement_lock` is released when the machine's CPUs are taken.
///
/// # Errors
/// A helper or the process cannot be had.
pub fn split(
    plan: Plan,
    options: RunOptions,
    placement_lock: PlacementLock,
) -> Result<Process, BuildError> {
    child::keep_memory_private().map_err(BuildError::system("switch core dumps off"))?;
    footprint::share_one_heap();
    Confinement::give_up_programs(&plan.sandbox);
    let restrictions = Restrictions::new(options.seccomp, &plan.sandbox);
    let keyboard = Keyboard::prepare(&plan.console, &restrictions.of(Role::Terminal))?;
    // Before the first thread, which inherits both.
    let signals = Signals::take().map_err(BuildError::system("take over signals"))?;
    kick::prepare().map_err(BuildError::system("install a signal handler"))?;
    let pinned = pin::pin_this_thread(&plan.vmm_cpus);
    pinned.map_err(BuildError::system("choose the CPUs of its own threads"))?;
    let interrupts = restrictions.of(Role::Interrupts);
    let steering = Steering::start(&plan.pci.functions, &plan.vmm_cpus, &interrupts);
    let steering = steering.map_err(BuildError::system("start what steers interrupts"))?;
    let reporter = options.sandbox_report.then(Reporter::start).transpose()?;
    let confinement = Confinement::begin(&plan.sandbox, &plan.limits, plan.vcpus.len() as u64)?;
    let side = {
        let restriction = restrictions.of(Role::Parent);
        parent::split(signals, &confinement, restriction, plan.shutdown_timeout)
    };
    match side.map_err(BuildError::system("make the machine's process"))? {
        Side::Parent(parent) => {
            // They are the machine's now: dropping them here would end what they stand for.
            std::mem::forget((keyboard, steering, reporter, placement_lock));
            Ok(Process::Parent(parent))
        }
        Side::Machine(ties) => Ok(Process::Machine(Box::new(Prepared {
            plan,
            keyboard,
            steering,
            reporter,
            confinement,
            restrictions,
            ties,
            placement_lock,
        }))),
    }
}

impl Prepared {
    /// Builds the machine and runs it to its end.
    ///
    /// # Errors
    /// It cannot be built, or fails while it runs.
    pub fn run(self) -> Result<Exit, Error> {
        Ok(Machine::build(self)?.run()?)
    }
}

/// Why there was no orderly end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It failed while it ran.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Error {
    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Build(error) => error.code(),
            Self::Run(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Build(error) => error.help(),
            Self::Run(error) => error.help(),
        }
    }
}

impl Machine {
    /// Lets the guest run until it ends or is ended.
    pub fn run(mut self) -> Result<Exit, RunError> {
        let threads = self.start()?;
        let mut result = control::supervise(&mut self);
        if let Err(RunError::Vcpu(_)) = result
            && let Some(filling) = self.filling.take()
        {
            // Memory that cannot be had stops a vCPU, too, whose error says less.
            filling.complete();
            let cause = |ended| match ended {
                Err(error @ RunError::Build(_)) => Some(error),
                _ => None,
            };
            if let Some(error) = self.ended.1.try_iter().find_map(cause) {
                result = Err(error);
            }
        }
        self.shared.chipset.segment.gate().shut();
        control::stop(&self.shared, &threads);
        self.filling = None;
        let counts = self.give_back(threads);
        log::info!("exits to user space by vCPU: {counts:?}");
        result
    }

    /// Closes the devices, which the kernel resets each, and meanwhile takes guest memory from them.
    fn give_back(&self, threads: Vec<VcpuThread>) -> Vec<ExitCounts> {
        let segment = &self.shared.chipset.segment;
        segment.shut_down();
        let mut shares: Vec<Vec<_>> = threads.iter().map(|_| Vec::new()).collect();
        let count = shares.len().max(1);
        for (index, function) in segment.take_all().into_iter().enumerate() {
            // A machine has a vCPU.
            if let Some(share) = shares.get_mut(index % count) {
                share.push(function);
            }
        }
        for (thread, functions) in threads.iter().zip(shares) {
            if !functions.is_empty() {
                thread.send(Box::new(move || drop(functions)));
            }
        }
        if let Some(space) = &self.address_space {
            for chunk in self.ram.chunks() {
                // What was not mapped yet cannot be unmapped.
                let _ = space.unmap(chunk.guest, chunk.length as u64);
            }
        }
        threads.into_iter().map(VcpuThread::join).collect()
    }

    fn start(&mut self) -> Result<Vec<VcpuThread>, RunError> {
        self.confinement.complete()?;
        if let Some(leaving) = self.leaving.take() {
            leaving
                .tell(&self.requests)
                .map_err(|source| RunError::System { doing: "end with its parent", source })?;
        }
        let mut threads = std::mem::take(&mut self.threads);
        let (restricted, all_restricted) = mpsc::channel();
        let mut gos = match self.behind.take() {
            Some(behind) => self.fill_behind(behind, &restricted)?,
            None => Vec::new(),
        };
        let restriction = self.restrictions.of(Role::Vcpu);
        let vcpus = std::mem::take(&mut self.vcpus);
        for ((thread, planned), fd) in threads.iter_mut().zip(&self.plan.vcpus).zip(vcpus) {
            let work = Work {
                index: planned.index,
                fd,
                shared: self.shared.clone(),
                ended: self.ended.0.clone(),
                restriction: restriction.clone(),
                restricted: restricted.clone(),
                first: None,
            };
            if planned.index == 0 {
                *thread = self.start_first(planned, work, std::mem::take(&mut gos))?;
            } else {
                thread.start(work);
            }
        }
        drop(restricted);
        // A report is on threads that are restricted. One that cannot be ends the machine.
        if self.reporter.is_some() {
            all_restricted.iter().for_each(drop);
        }
        Ok(threads)
    }

    /// Starts the boot vCPU. Its thread is on berth's own CPUs until KVM has its threads, which inherit
    /// that; the one that has reserved its CPU stays until it is there.
    fn start_first(
        &self,
        planned: &VcpuPlan,
        work: Work,
        behind: Vec<Go>,
    ) -> Result<VcpuThread, RunError> {
        let failed = |source| RunError::System { doing: "start KVM's threads", source };
        let name = thread_name(&self.plan.name, planned.index);
        let thread = VcpuThread::start_here(name).map_err(failed)?;
        let (started, tid) = mpsc::channel();
        let (go, pinned) = mpsc::channel();
        thread.start(Work { first: Some(First { started, pinned, behind }), ..work });
        // Where there is none, the thread has said why.
        if let Ok(tid) = tid.recv() {
            pin::pin_thread(tid, &[planned.cpu]).map_err(failed)?;
        }
        drop(go);
        Ok(thread)
    }

    fn fill_behind(
        &mut self,
        behind: Behind,
        restricted: &Sender<()>,
    ) -> Result<Vec<Go>, RunError> {
        let (shared, ended) = (self.shared.clone(), self.ended.0.clone());
        let failed = move |error| {
            // Nobody listens any more when a vCPU has ended the machine before.
            let _ = ended.send(Err(RunError::Build(error)));
            let _ = shared.ended.write(1);
        };
        let started = behind.start(&self.restrictions.of(Role::Memory), restricted, failed);
        let (filling, gos) = started.map_err(|source| RunError::System {
            doing: "start a thread that fills memory",
            source,
        })?;
        self.filling = Some(filling);
        Ok(gos)
    }
}
