//! The machine: builds what the plan says, runs it, takes it down again.
//!
//! Nothing is decided here. Everything that the running machine needs is opened by
//! [`Prepared::run`] first; once the guest runs, nothing is opened any more.

mod chipset;
mod console;
mod control;
mod dma;
mod error;
mod footprint;
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

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};

use berth_arch::acpi::{AcpiConfig, AcpiTables};
use berth_arch::boot::{BootError, Loading};
use berth_arch::cpuid::CpuidConfig;
use berth_arch::topology::Topology;
use berth_arch::{cpuid, layout, regs};
use berth_devices::eventfd;
use berth_devices::irq::{Gsi, MsiRouter, VmPort};
use berth_devices::pci::{BarRoutes, DmaGate, ResetBuses, Segment};
use berth_devices::power::PowerRegisters;
use berth_devices::vfio::{
    AddressSpace, DeviceState, FunctionReset, FunctionSite, KernelDevice, PeerAccess, VfioFunction,
    Wiring,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use control::Requests;
use dma::Opened;
pub use error::{BuildError, RunError};
use hierarchy::Fabric;
use memory::{Behind, Filling, Go, Ram, Ready};
pub use parent::{ChildEnd, Parent, WaitError};
use parent::{Leaving, Side, Signals, Ties};
use watch::{Watch, Watched};

use crate::advice::Code;
use crate::child;
use crate::exit::Exit;
use crate::placement_lock::PlacementLock;
use crate::plan::{Fill, PciPlan, Plan, VcpuPlan};
use crate::sandbox::{Confinement, Mode, Reporter, Restrictions, Role};
use chipset::Chipset;
use console::{Console, Input, Keyboard, SerialConsole};
use kvm::{BAR_SLOTS, HostKvm, RAM_SLOTS, Vm};
use steering::Steering;
use vcpu::{Ended, First, Shared, VcpuThread, Work};

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
    _address_space: Option<AddressSpace>,
    _vm: Arc<Vm>,
    _ram: Ram,
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
    /// Executes the plan. Nothing of it is left when this fails.
    fn build(prepared: Prepared) -> Result<Self, BuildError> {
        let Prepared {
            plan,
            keyboard,
            steering,
            reporter,
            confinement,
            restrictions,
            ties,
            placement_lock,
        } = prepared;
        confinement.enter()?;
        limits::raise(&plan.limits).map_err(BuildError::system("raise its resource limits"))?;
        // Closed before the guest runs: its virtual machine is all that is needed then.
        let kvm = HostKvm::open()?;
        let vm = Arc::new(kvm.create_vm()?);
        // Others find a machine by its virtual machine, and see its CPUs by its threads.
        let threads = reserve_cpus(&plan)?;
        drop(placement_lock);
        let ram = Ram::reserve(&plan.memory)?;
        map_ram(&vm, &ram)?;
        let mut images = Images::open(&plan)?;
        let loading = images.loading()?;
        let (chunks, gate) = (ram.chunks(), Arc::new(DmaGate::closed()));
        let first = match plan.memory.fill {
            Fill::Behind => ram.pages_of(&loading.ranges()),
            Fill::Before { .. } => chunks.clone(),
        };
        let (page_size, locked) = (plan.memory.page_size, plan.memory.locked);
        let mut ready = Ready { page_size, locked, space: None };
        let open = || plan.iommu.as_ref().map(|iommu| dma::open(&plan, iommu, &vm)).transpose();
        let (filled, opened) = memory::fill(&first, &ready, &plan.vcpus, open);
        let opened = opened?;
        filled?;
        if let Some(Opened { space, .. }) = &opened {
            dma::check_usable(space, &plan.memory)?;
            ready.space = Some(space.clone());
        }
        let behind = match plan.memory.fill {
            Fill::Behind => Some(Behind::new(&chunks, ready, &plan.vcpus, gate.clone())),
            Fill::Before { .. } => {
                chunks.iter().try_for_each(|chunk| ready.finish(chunk))?;
                gate.open();
                None
            }
        };
        let Assigned { segment, address_space, watch } = assign(&plan, &vm, opened, steering)?;
        let segment = segment.with_gate(gate);

        let eventfd = || eventfd().map_err(BuildError::system("make an eventfd"));
        let (serial_irq, sci, ended) = (eventfd()?, eventfd()?, eventfd()?);
        for (gsi, fd) in [(chipset::SERIAL_GSI, &serial_irq), (chipset::SCI_GSI, &sci)] {
            vm.attach_irqfd(gsi, fd).map_err(BuildError::system("connect an interrupt"))?;
        }
        let vcpus = make_vcpus(&plan, &kvm, &vm, &ram, loading)?;
        // Last: from here on a terminal is raw.
        let console = Console::open(&plan.console, keyboard)?;
        let serial = SerialConsole::new(serial_irq, console.output);
        let serial = serial.map_err(BuildError::system("make an eventfd"))?;
        let chipset = Chipset::new(segment, serial, PowerRegisters::new(sci));
        let shared = Shared { chipset: Arc::new(chipset), stop: AtomicBool::new(false), ended };
        Ok(Self {
            filling: None,
            behind,
            vcpus,
            threads,
            shared: Arc::new(shared),
            watch,
            input: console.input,
            restrictions,
            confinement,
            reporter,
            ended: mpsc::channel(),
            requests: ties.requests.into(),
            leaving: Some(ties.leaving),
            plan,
            _address_space: address_space,
            _vm: vm,
            _ram: ram,
        })
    }

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
        let counts = control::stop(&self.shared, threads);
        self.filling = None;
        self.shared.chipset.segment.shut_down();
        log::info!("exits to user space by vCPU: {counts:?}");
        result
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

/// The vCPUs' threads, on their CPUs before the machine takes long to build.
fn reserve_cpus(plan: &Plan) -> Result<Vec<VcpuThread>, BuildError> {
    let reserve =
        |vcpu: &VcpuPlan| VcpuThread::reserve(thread_name(&plan.name, vcpu.index), vcpu.cpu);
    let threads: io::Result<_> = plan.vcpus.iter().map(reserve).collect();
    threads.map_err(BuildError::system("pin a vCPU's thread"))
}

/// The machine's name and the vCPU in the 15 bytes that Linux gives a thread's name.
fn thread_name(machine: &str, index: u8) -> String {
    let role = format!("/vcpu{index}");
    let mut length = machine.len().min(15 - role.len());
    while !machine.is_char_boundary(length) {
        length -= 1;
    }
    machine[..length].to_owned() + &role
}

fn map_ram(vm: &Vm, ram: &Ram) -> Result<(), BuildError> {
    for (slot, region) in RAM_SLOTS.zip(ram.memory().iter()) {
        let guest = region.start_addr().0;
        // SAFETY: guest memory lives as long as the machine, which drops it last, and is reached
        // through vm-memory's volatile accesses only.
        let mapped = unsafe { vm.map_slot(slot, guest, region.as_ptr(), region.len()) };
        mapped.map_err(BuildError::system("map guest memory"))?;
    }
    Ok(())
}

/// The PCI hierarchy with the assigned functions, and what comes with those.
struct Assigned {
    segment: Segment,
    address_space: Option<AddressSpace>,
    watch: Watch,
}

fn assign(
    plan: &Plan,
    vm: &Arc<Vm>,
    opened: Option<Opened>,
    steering: Option<Steering>,
) -> Result<Assigned, BuildError> {
    let routes = Arc::new(BarRoutes::new(hierarchy::windows(&plan.pci)));
    let port: Arc<dyn VmPort> = vm.clone();
    let router = MsiRouter::new(port.clone());
    let slots = BuildError::system("prepare the slots of its ports");
    let switched_off = eventfd().map_err(BuildError::system("make an eventfd"))?;
    let fabric = Fabric::new(&plan.pci, &router, &switched_off).map_err(slots)?;
    let Fabric { mut functions, ports, roots } = fabric;
    let (mut address_space, mut watched) = (None, Vec::new());
    // All of them, before any is reset: a hot reset is allowed to who holds all that it hits.
    if let Some(Opened { space: opened, devices }) = opened {
        let resets = reset(&plan.pci, &devices)?;
        let peers = match plan.iommu.as_ref().and_then(|iommu| iommu.peer_to_peer) {
            Some(true) => PeerAccess::Iommu {
                port: Arc::new(opened.clone()),
                largest: plan.pci.largest_peer_bar,
            },
            Some(false) | None => PeerAccess::Alone,
        };
        let wiring = Wiring { port, router, routes: routes.clone(), peers };
        let mut slots = BAR_SLOTS..;
        for ((planned, device), reset) in plan.pci.functions.iter().zip(devices).zip(resets) {
            let bdf = planned.host;
            let place = FunctionSite {
                bdf: planned.guest,
                intx_gsi: planned.intx_gsi.map(Gsi),
                rom: planned.rom.as_ref().map(|rom| rom.address),
                bars: planned.bars.iter().map(Into::into).collect(),
                multi_function: plan.pci.is_multi_function(planned.guest),
                reset,
            };
            let failed = |source| BuildError::Function { bdf, source };
            let device = match steering.clone() {
                Some(steering) => device.on_new_interrupts(move || steering.changed()),
                None => device,
            };
            let function = VfioFunction::new(Box::new(device), &place, &mut slots, wiring.clone());
            let function = function.map_err(failed)?;
            let notifications = function.notifications();
            watched.push(Watched {
                host: bdf,
                guest: planned.guest,
                on_error: planned.on_error,
                on_removal: planned.on_removal,
                notifications: notifications
                    .map_err(|source| BuildError::Notify { bdf, source })?,
                asked: None,
            });
            functions.push((planned.guest, Box::new(function)));
        }
        address_space = Some(opened);
    }
    let segment = Segment::new(functions, ports, roots, routes);
    let watch = Watch { devices: watched, switched_off, timeout: plan.unplug_timeout };
    Ok(Assigned { segment, address_space, watch })
}

/// Resets the devices, each bus once at most; how each can be reset from now on.
fn reset(plan: &PciPlan, devices: &[KernelDevice]) -> Result<Vec<FunctionReset>, BuildError> {
    let mut done = ResetBuses::default();
    let resets = plan.functions.iter().zip(devices).map(|(planned, device)| {
        let reset = FunctionReset {
            host: planned.host,
            method: planned.reset,
            alone: planned.reset_alone,
            hot_at_port: plan.is_bus_behind_one_port(planned),
            on_close: false,
        };
        let reset = reset.confirmed(device);
        match reset.run_at_start(device, &mut done) {
            DeviceState::Reset => Ok(reset),
            _ if planned.reset_required => Err(BuildError::NotReset { bdf: planned.host }),
            DeviceState::Kept | DeviceState::Unknown => Ok(reset),
        }
    });
    resets.collect()
}

fn make_vcpus(
    plan: &Plan,
    kvm: &HostKvm,
    vm: &Vm,
    ram: &Ram,
    loading: Loading<'_>,
) -> Result<Vec<VcpuFd>, BuildError> {
    let topology = Topology::of(plan.vcpus.iter().map(|vcpu| vcpu.place).collect());
    let tables = AcpiTables::new(
        &AcpiConfig {
            apic_ids: &topology.apic_ids(),
            roots: &hierarchy::acpi_roots(&plan.pci),
            numa: Some(&hierarchy::acpi_numa(plan)),
        },
        GuestAddress(layout::ACPI_TABLES.start),
    );
    let memory = ram.memory();
    let entry = loading.load(memory, &plan.boot.cmdline, &tables).map_err(not_booted(plan))?;
    let supported = kvm.supported_cpuid()?;
    let config = CpuidConfig { topology, tsc_deadline: kvm.has_tsc_deadline(), dedicated: true };
    let mut vcpus = Vec::new();
    for planned in &plan.vcpus {
        let vcpu = vm.create_vcpu(planned.apic_id)?;
        let entries = cpuid::vcpu_cpuid(supported.as_slice(), &config, planned.index.into());
        regs::set_up_vcpu(&vcpu, &entries)?;
        if planned.index == 0 {
            regs::set_up_entry(&vcpu, memory, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

/// What the guest boots from, open.
struct Images<'a> {
    plan: &'a Plan,
    kernel: File,
    initrd: Option<File>,
    ram: Vec<Range<u64>>,
}

impl<'a> Images<'a> {
    fn open(plan: &'a Plan) -> Result<Self, BuildError> {
        let kernel = open(&plan.boot.kernel)?;
        let initrd = plan.boot.initrd.as_deref().map(open).transpose()?;
        let ram = plan.memory.regions.iter().map(|region| region.guest.clone()).collect();
        Ok(Self { plan, kernel, initrd, ram })
    }

    fn loading(&mut self) -> Result<Loading<'_>, BuildError> {
        let Self { plan, kernel, initrd, ram } = self;
        Loading::new(kernel, initrd.as_mut(), ram).map_err(not_booted(plan))
    }
}

fn not_booted(plan: &Plan) -> impl FnOnce(BootError) -> BuildError {
    |source| BuildError::Boot { kernel: plan.boot.kernel.clone(), source }
}

fn open(path: &Path) -> Result<File, BuildError> {
    let failed = |source: io::Error| BuildError::File { path: path.to_owned(), source };
    File::open(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_names_fit_and_keep_the_vcpu() {
        assert_eq!(thread_name("router", 0), "router/vcpu0");
        assert_eq!(thread_name("a-very-long-machine", 12), "a-very-l/vcpu12");
        assert_eq!(thread_name("größenwahn", 255), "größe/vcpu255");
    }
}
