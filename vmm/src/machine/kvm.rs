//! The virtual machine in KVM: memory slots, interrupt controllers, routes.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use berth_arch::layout;
use berth_devices::irq::{Gsi, MsiMessage, VmPort};
use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_X86_DISABLE_EXITS, KVM_IRQ_ROUTING_IRQCHIP,
    KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, KVM_X86_DISABLE_EXITS_HLT,
    KVM_X86_DISABLE_EXITS_PAUSE, KVMIO, KvmIrqRouting, kvm_create_device,
    kvm_device_type_KVM_DEV_TYPE_VFIO, kvm_enable_cap, kvm_irq_routing_entry, kvm_pit_config,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

// Documentation/virt/kvm/api.rst, section 4.105; kvm-ioctls lacks it.
ioctl_iow_nr!(KVM_X86_SETUP_MCE, KVMIO, 0x9c, u64);

/// Memory slots of RAM start here, one per region.
pub const RAM_SLOTS: Range<u32> = 0..64;
/// Memory slots of BARs start here.
pub const BAR_SLOTS: u32 = RAM_SLOTS.end;

/// Why KVM does not give a virtual machine.
#[derive(Debug, thiserror::Error)]
#[error("KVM refuses to {doing}")]
pub struct KvmError {
    doing: &'static str,
    #[source]
    source: kvm_ioctls::Error,
}

fn refused(doing: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError { doing, source }
}

/// The host's KVM, `/dev/kvm`.
pub struct HostKvm(Kvm);

impl HostKvm {
    /// Opens it.
    ///
    /// # Errors
    /// It cannot be opened, or is not the one that berth knows.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(refused("open /dev/kvm"))?;
        if kvm.get_api_version() != KVM_API_VERSION as i32 {
            let source = kvm_ioctls::Error::new(libc::ENOSYS);
            return Err(KvmError { doing: "speak API version 12", source });
        }
        Ok(Self(kvm))
    }

    /// Creates a virtual machine, whose vCPUs keep their CPUs while they idle if they are `dedicated`.
    pub fn create_vm(&self, dedicated: bool) -> Result<Vm, KvmError> {
        let fd = self.0.create_vm().map_err(refused("create a virtual machine"))?;
        if dedicated {
            keep_cpus(&fd)?;
        }
        fd.set_tss_address(layout::KVM_TSS as usize).map_err(refused("set the TSS address"))?;
        fd.create_irq_chip().map_err(refused("create the interrupt controllers"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(refused("create the interval timer"))?;
        Ok(Vm { fd })
    }

    /// What CPUID can say to a guest on this host.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        let supported = self.0.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        supported.map_err(refused("tell what CPUID it supports"))
    }

    /// Whether the local APIC's timer has TSC deadline mode.
    pub fn has_tsc_deadline(&self) -> bool {
        self.0.check_extension(Cap::TscDeadlineTimer)
    }
}

/// Lets HLT and PAUSE not exit, as far as KVM allows (`kvm_vm_ioctl_enable_cap` in arch/x86/kvm/x86.c):
/// HLT not on CPUs whose threads would learn from each other. MWAIT is hidden from guests: one that
/// halts needs no second way to.
fn keep_cpus(fd: &VmFd) -> Result<(), KvmError> {
    let allowed = fd.check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into()).unsigned_abs();
    let wanted = KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE;
    let kept = allowed & wanted;
    if kept & KVM_X86_DISABLE_EXITS_HLT == 0 {
        log::warn!(
            "KVM does not let an idle vCPU keep its CPU: HLT exits (a CPU with an SMT fault?)"
        );
    }
    if kept == 0 {
        return Ok(());
    }
    let mut cap = kvm_enable_cap { cap: KVM_CAP_X86_DISABLE_EXITS, ..Default::default() };
    cap.args[0] = kept.into();
    fd.enable_cap(&cap).map_err(refused("let vCPUs keep their CPUs"))
}

/// A virtual machine with its interrupt controllers, still without memory and vCPUs.
pub struct Vm {
    fd: VmFd,
}

impl Vm {
    /// Adds a vCPU with this APIC ID. Nothing ever reports a machine check to it: a guest programs
    /// each of the 32 banks that KVM gives otherwise, at four exits each, and there is no vCPU without
    /// one.
    pub fn create_vcpu(&self, apic_id: u8) -> Result<VcpuFd, KvmError> {
        const BANKS: u64 = 1;
        let vcpu = self.fd.create_vcpu(apic_id.into()).map_err(refused("create a vCPU"))?;
        // SAFETY: the kernel reads a number of that size.
        match unsafe { ioctl_with_ref(&vcpu, KVM_X86_SETUP_MCE(), &BANKS) } {
            0 => Ok(vcpu),
            _ => {
                let source = kvm_ioctls::Error::last();
                Err(KvmError { doing: "set up a vCPU's machine checks", source })
            }
        }
    }

    /// KVM's VFIO device, which learns of assigned groups.
    pub fn create_vfio_device(&self) -> Result<DeviceFd, KvmError> {
        let mut device =
            kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_VFIO, fd: 0, flags: 0 };
        self.fd.create_device(&mut device).map_err(refused("create its VFIO device"))
    }
}

/// GSIs below 24 are wired as in a PC and as KVM does by default: 0..=15 to the 8259s and the
/// I/O APIC, the rest to the I/O APIC alone (`default_routing`, arch/x86/kvm/irq.c).
fn pins() -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::new();
    let mut add = |gsi: u32, chip: u32, pin: u32| {
        let mut entry =
            kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip.irqchip = chip;
        entry.u.irqchip.pin = pin;
        entries.push(entry);
    };
    for gsi in 0..layout::IO_APIC_PINS {
        match gsi {
            0..8 => add(gsi, KVM_IRQCHIP_PIC_MASTER, gsi),
            8..16 => add(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8),
            _ => {}
        }
        add(gsi, KVM_IRQCHIP_IOAPIC, gsi);
    }
    entries
}

fn msi_entry(gsi: Gsi, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry =
        kvm_irq_routing_entry { gsi: gsi.0, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

impl VmPort for Vm {
    fn set_msi_routes(&self, routes: &BTreeMap<Gsi, MsiMessage>) -> io::Result<()> {
        let mut entries = pins();
        entries.extend(routes.iter().map(|(gsi, message)| msi_entry(*gsi, *message)));
        let table = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        Ok(self.fd.set_gsi_routing(&table)?)
    }

    fn attach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()> {
        Ok(self.fd.register_irqfd(fd, gsi.0)?)
    }

    fn attach_level_irqfd(&self, gsi: Gsi, fd: &EventFd, resample: &EventFd) -> io::Result<()> {
        Ok(self.fd.register_irqfd_with_resample(fd, resample, gsi.0)?)
    }

    fn detach_irqfd(&self, gsi: Gsi, fd: &EventFd) -> io::Result<()> {
        Ok(self.fd.unregister_irqfd(fd, gsi.0)?)
    }

    unsafe fn map_slot(&self, slot: u32, guest: u64, host: *mut u8, length: u64) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: guest,
            memory_size: length,
            userspace_addr: host as u64,
        };
        // SAFETY: the caller keeps `host..host + length` mapped while the slot exists.
        Ok(unsafe { self.fd.set_user_memory_region(region) }?)
    }

    fn unmap_slot(&self, slot: u32) -> io::Result<()> {
        let region = kvm_userspace_memory_region { slot, ..Default::default() };
        // SAFETY: a size of 0 removes the slot (KVM API, section 4.35); no memory is named.
        Ok(unsafe { self.fd.set_user_memory_region(region) }?)
    }
}
