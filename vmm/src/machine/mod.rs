//! The machine: builds what the plan says, runs it, takes it down again.
//!
//! Nothing is decided here. Everything that the running machine needs is opened by
//! [`Machine::build`]; once the guest runs, nothing is opened any more.

mod control;
mod error;
mod hierarchy;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver};

use berth_arch::acpi::{AcpiConfig, AcpiTables};
use berth_arch::cpuid::CpuidConfig;
use berth_arch::topology::Topology;
use berth_arch::{boot, cpuid, layout, regs};
use berth_devices::irq::{Gsi, MsiRouter, VmPort};
use berth_devices::pci::{BarRoutes, Bdf, PciFunction, RootBus, Segment};
use berth_devices::power::PowerRegisters;
use berth_devices::serial::SerialPort;
use berth_devices::vfio::{
    Container, DmaPort, Notifications, PeerAccess, Place, VfioFunction, Wiring,
};
use kvm_ioctls::VcpuFd;
use vfio_ioctls::VfioDeviceFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use error::{BuildError, RunError};
use hierarchy::Fabric;

use crate::affinity;
use crate::chipset::Chipset;
use crate::console::{Console, Input, Keyboard};
use crate::exit::Exit;
use crate::kvm::{BAR_SLOTS, RAM_SLOTS, Vm};
use crate::limits;
use crate::memory;
use crate::plan::{BootPlan, Plan};
use crate::sandbox::{Filter, Mode, Role};
use crate::vcpu::{self, Ended, Shared, VcpuThread};

/// Where the kernel shows PCI functions.
const SYSFS_DEVICES: &str = "/sys/bus/pci/devices";

/// A machine that is ready to run.
///
/// The order of the fields is the order in which they are dropped: the devices are reset and
/// closed while the machine and its memory are still there.
pub struct Machine {
    vcpus: Vec<VcpuFd>,
    shared: Arc<Shared>,
    notifications: Vec<(Bdf, Notifications)>,
    input: Option<Input>,
    filters: Filters,
    ended: (mpsc::Sender<Ended>, Receiver<Ended>),
    signals: File,
    plan: Plan,
    _container: Option<Container>,
    _vm: Arc<Vm>,
    _memory: GuestMemoryMmap,
}

struct Filters {
    control: Filter,
    vcpu: Filter,
}

/// Builds the machine and runs it to its end.
pub fn run(plan: Plan, mode: Mode) -> Result<Exit, Error> {
    Ok(Machine::build(plan, mode)?.run()?)
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
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Build(error) => error.help(),
            Self::Run(_) => None,
        }
    }
}

impl Machine {
    /// Executes the plan. Nothing of it is left when this fails.
    pub fn build(plan: Plan, mode: Mode) -> Result<Self, BuildError> {
        let filters = Filters {
            control: Filter::new(Role::Control, mode)?,
            vcpu: Filter::new(Role::Vcpu, mode)?,
        };
        let keyboard = Keyboard::prepare(&plan.console)?;
        // Before the first thread, which inherits both.
        let signals = control::take_signals().map_err(BuildError::system("take over signals"))?;
        vcpu::prepare_kicks().map_err(BuildError::system("install a signal handler"))?;
        let pinned = affinity::pin_this_thread(&plan.vmm_cpus);
        pinned.map_err(BuildError::system("choose the CPUs of its own threads"))?;
        limits::raise(&plan.limits).map_err(BuildError::system("raise its resource limits"))?;

        let vm = Arc::new(Vm::new()?);
        let cpus: Vec<u32> = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
        let memory = memory::allocate(&plan.memory, &cpus)?;
        map_ram(&vm, &memory)?;
        let Assigned { functions, roots, container, notifications, routes } =
            assign(&plan, &vm, &memory)?;

        let eventfd = || EventFd::new(EFD_NONBLOCK).map_err(BuildError::system("make an eventfd"));
        let (serial_irq, sci, ended) = (eventfd()?, eventfd()?, eventfd()?);
        for (gsi, fd) in [(vcpu::SERIAL_GSI, &serial_irq), (vcpu::SCI_GSI, &sci)] {
            vm.attach_irqfd(gsi, fd).map_err(BuildError::system("connect an interrupt"))?;
        }
        let vcpus = make_vcpus(&plan, &vm, &memory)?;
        // Last: from here on a terminal is raw.
        let console = Console::open(&plan.console, keyboard)?;
        let chipset = Chipset::new(
            Segment::new(functions, roots, routes),
            SerialPort::new(serial_irq, console.output),
            PowerRegisters::new(sci),
        );
        let shared = Shared { chipset: Arc::new(chipset), stop: AtomicBool::new(false), ended };
        Ok(Self {
            vcpus,
            shared: Arc::new(shared),
            notifications,
            input: console.input,
            filters,
            ended: mpsc::channel(),
            signals,
            plan,
            _container: container,
            _vm: vm,
            _memory: memory,
        })
    }

    /// Lets the guest run until it ends or is ended.
    pub fn run(mut self) -> Result<Exit, RunError> {
        let threads = self.start()?;
        let result = control::supervise(&mut self);
        let counts = control::stop(&self.shared, threads);
        log::info!("exits to user space by vCPU: {counts:?}");
        result
    }

    fn start(&mut self) -> Result<Vec<VcpuThread>, RunError> {
        if let Some(boot_vcpu) = self.vcpus.first_mut() {
            vcpu::start_kernel_workers(boot_vcpu, &self.filters.vcpu)
                .map_err(|source| RunError::System { doing: "start KVM's threads", source })?;
        }
        let mut threads = Vec::new();
        for (planned, fd) in self.plan.vcpus.iter().zip(std::mem::take(&mut self.vcpus)) {
            let thread = VcpuThread::spawn(
                thread_name(&self.plan.name, planned.index),
                planned.index,
                planned.cpu,
                fd,
                self.shared.clone(),
                self.ended.0.clone(),
                self.filters.vcpu.clone(),
            );
            match thread {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    control::stop(&self.shared, threads);
                    return Err(RunError::System { doing: "start a vCPU's thread", source });
                }
            }
        }
        Ok(threads)
    }
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

fn map_ram(vm: &Vm, memory: &GuestMemoryMmap) -> Result<(), BuildError> {
    for (slot, region) in RAM_SLOTS.zip(memory.iter()) {
        let guest = region.start_addr().0;
        // SAFETY: guest memory lives as long as the machine, which drops it last, and is reached
        // through vm-memory's volatile accesses only.
        let mapped = unsafe { vm.map_slot(slot, guest, region.as_ptr(), region.len()) };
        mapped.map_err(BuildError::system("map guest memory"))?;
    }
    Ok(())
}

/// All functions, the assigned ones among them, and what comes with those.
struct Assigned {
    functions: Vec<(Bdf, Box<dyn PciFunction>)>,
    roots: Vec<RootBus>,
    container: Option<Container>,
    notifications: Vec<(Bdf, Notifications)>,
    routes: Arc<BarRoutes>,
}

fn assign(plan: &Plan, vm: &Arc<Vm>, memory: &GuestMemoryMmap) -> Result<Assigned, BuildError> {
    let routes = Arc::new(BarRoutes::new(hierarchy::windows(&plan.pci)));
    let Fabric { mut functions, roots } = Fabric::new(&plan.pci);
    let (mut container, mut notifications) = (None, Vec::new());
    if !plan.pci.functions.is_empty() {
        let opened = open_container(vm)?;
        let port: Arc<dyn VmPort> = vm.clone();
        let peers = if plan.pci.largest_peer_bar > 0 {
            let largest = plan.pci.largest_peer_bar;
            PeerAccess::Iommu { port: Arc::new(opened.clone()), largest }
        } else {
            PeerAccess::Alone
        };
        let router = MsiRouter::new(port.clone());
        let wiring = Wiring { port, router, routes: routes.clone(), peers };
        let mut slots = BAR_SLOTS..;
        for (index, planned) in plan.pci.functions.iter().enumerate() {
            let bdf = planned.host;
            let sysfs = Path::new(SYSFS_DEVICES).join(bdf.to_string());
            let device = opened.open_device(&sysfs).map_err(|source| BuildError::Open {
                bdf,
                group: planned.group,
                source,
            })?;
            if index == 0 {
                // The container has an IOMMU since its first group came in.
                map_dma(&opened, memory)?;
            }
            let place = Place {
                bdf: planned.guest,
                intx_gsi: planned.intx_gsi.map(Gsi),
                rom: planned.rom.as_ref().map(|rom| rom.address),
                bars: planned.bars.iter().map(Into::into).collect(),
                multi_function: plan.pci.is_multi_function(planned.guest),
            };
            let failed = |source| BuildError::Function { bdf, source };
            let function = VfioFunction::new(Box::new(device), &place, &mut slots, wiring.clone());
            let function = function.map_err(failed)?;
            let notes = function.notifications();
            notifications.push((bdf, notes.map_err(|source| BuildError::Notify { bdf, source })?));
            functions.push((planned.guest, Box::new(function)));
        }
        container = Some(opened);
    }
    Ok(Assigned { functions, roots, container, notifications, routes })
}

fn open_container(vm: &Vm) -> Result<Container, BuildError> {
    let kvm_vfio = VfioDeviceFd::new_from_kvm(vm.create_vfio_device()?);
    Container::open(kvm_vfio).map_err(BuildError::Container)
}

fn map_dma(container: &Container, memory: &GuestMemoryMmap) -> Result<(), BuildError> {
    for region in memory.iter() {
        let (iova, length) = (region.start_addr().0, region.len());
        // SAFETY: guest memory outlives the container and is never borrowed.
        let mapped = unsafe { container.map(iova, region.as_ptr(), length) };
        mapped.map_err(|source| BuildError::MapDma { range: iova..iova + length, source })?;
    }
    Ok(())
}

fn make_vcpus(plan: &Plan, vm: &Vm, memory: &GuestMemoryMmap) -> Result<Vec<VcpuFd>, BuildError> {
    let topology = Topology::flat(plan.vcpus.len() as u32);
    let tables = AcpiTables::new(
        &AcpiConfig {
            apic_ids: &topology.apic_ids(),
            roots: &hierarchy::acpi_roots(&plan.pci),
            numa: Some(&hierarchy::acpi_numa(plan)),
        },
        GuestAddress(layout::ACPI_TABLES.start),
    );
    let entry = load(plan, memory, &tables)?;
    let supported = vm.supported_cpuid()?;
    let config = CpuidConfig { topology, tsc_deadline: vm.has_tsc_deadline(), dedicated: true };
    let mut vcpus = Vec::new();
    for planned in &plan.vcpus {
        let vcpu = vm.create_vcpu(planned.index)?;
        let entries = cpuid::vcpu_cpuid(supported.as_slice(), &config, planned.index.into());
        regs::set_up_vcpu(&vcpu, &entries)?;
        if planned.index == 0 {
            regs::set_up_entry(&vcpu, memory, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

fn load(
    plan: &Plan,
    memory: &GuestMemoryMmap,
    tables: &AcpiTables,
) -> Result<boot::Entry, BuildError> {
    let BootPlan { kernel, initrd, cmdline } = &plan.boot;
    let mut kernel_file = open(kernel)?;
    let mut initrd_file = initrd.as_ref().map(open).transpose()?;
    let ram: Vec<_> = plan.memory.regions.iter().map(|region| region.guest.clone()).collect();
    boot::load(memory, &mut kernel_file, initrd_file.as_mut(), cmdline, &ram, tables)
        .map_err(|source| BuildError::Boot { kernel: kernel.clone(), source })
}

fn open(path: &PathBuf) -> Result<File, BuildError> {
    let failed = |source: io::Error| BuildError::File { path: path.clone(), source };
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
