//! Builds a machine as its plan says. From here on nothing is opened any more.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};

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

use super::chipset::{self, Chipset};
use super::console::{Console, SerialConsole};
use super::dma::{self, Opened};
use super::hierarchy::{self, Fabric};
use super::kvm::{BAR_SLOTS, HostKvm, RAM_SLOTS, Vm};
use super::memory::{self, Behind, Ram, Ready};
use super::steering::Steering;
use super::vcpu::{Shared, VcpuThread, thread_name};
use super::watch::{Watch, Watched};
use super::{BuildError, Machine, Prepared, limits};
use crate::plan::{Fill, PciPlan, Plan, VcpuPlan};

impl Machine {
    /// Executes the plan. Nothing of it is left when this fails.
    pub(super) fn build(prepared: Prepared) -> Result<Self, BuildError> {
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
        let vm = Arc::new(kvm.create_vm(plan.dedicated)?);
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
            address_space,
            _vm: vm,
            ram,
        })
    }
}

/// The vCPUs' threads, on their CPUs before the machine takes long to build.
fn reserve_cpus(plan: &Plan) -> Result<Vec<VcpuThread>, BuildError> {
    let reserve =
        |vcpu: &VcpuPlan| VcpuThread::reserve(thread_name(&plan.name, vcpu.index), vcpu.cpu);
    let threads: io::Result<_> = plan.vcpus.iter().map(reserve).collect();
    threads.map_err(BuildError::system("pin a vCPU's thread"))
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
