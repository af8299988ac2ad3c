//! What nobody may do is seen, whichever door it goes through.

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::irq::{Gsi, MsiMessage, VmPort};
use crate::pci::regs::{COMMAND, COMMAND_MASTER, COMMAND_MEMORY};
use crate::vfio::rig::{Offers, PIN, bar, profile};
use crate::vfio::{DmaPort, HostMapping, IrqKind, Region, VfioPort};

struct Doors {
    journal: Journal,
    device: FakeDevice,
    kvm: FakePort,
    dma: FakeDma,
}

const MSI: Gsi = Gsi(24);

impl Doors {
    fn new() -> Self {
        let journal = Journal::default();
        let (device, _) = FakeDevice::new(profile(&Offers::everything(true)), &journal);
        let (kvm, dma) = (FakePort::new(&journal), FakeDma::new(&journal));
        Self { journal, device, kvm, dma }
    }

    fn command(&self, command: u16) -> bool {
        self.device.write(Region::Config, COMMAND.into(), &command.to_le_bytes()).is_ok()
    }

    fn memory(&self) -> HostMapping {
        self.device.mmap(bar(0), &(0..0x2000)).expect("a memfd can be mapped")
    }

    fn map(&self, memory: &HostMapping) -> bool {
        // SAFETY: there is no guest.
        unsafe { self.kvm.map_slot(8, 0xc000_0000, memory.address(), memory.length()) }.is_ok()
    }

    fn route(&self, routed: bool) -> bool {
        let message = MsiMessage { address: 0xfee0_0000, data: 0x31 };
        self.kvm.set_msi_routes(&routed.then_some((MSI, message)).into_iter().collect()).is_ok()
    }

    fn bind(&self, kind: IrqKind, eventfd: &EventFd) -> bool {
        self.device.set_irqs(kind, 0, &[Some(eventfd)]).is_ok()
    }

    /// The one violation.
    fn caught(&self, part: &str) {
        let violations = self.journal.take_violations();
        assert!(matches!(&violations[..], [one] if one.contains(part)), "{part}: {violations:?}");
    }
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).expect("an eventfd")
}

#[test]
fn a_slot_shows_memory_that_answers_only() {
    let doors = Doors::new();
    let memory = doors.memory();
    assert!(!doors.map(&memory));
    doors.caught("does not answer yet");
    assert!(doors.command(COMMAND_MEMORY) && doors.map(&memory));
    for (register, value) in [(u64::from(COMMAND), 0), (0x44, 3)] {
        assert!(doors.device.write(Region::Config, register, &[value, 0]).is_err());
        doors.caught("slot 8 shows its memory");
    }
    assert!(doors.kvm.unmap_slot(8).is_ok() && doors.command(0));
}

#[test]
fn another_devices_dma_reaches_memory_that_answers_only() {
    let doors = Doors::new();
    let memory = doors.memory();
    assert!(doors.command(COMMAND_MEMORY));
    // SAFETY: the fake looks at no memory.
    let mapped = unsafe { doors.dma.map(0x1000, memory.address(), memory.length()) };
    assert!(mapped.is_ok() && !doors.command(0));
    doors.caught("the DMA mapping at 0x1000 shows its memory");
    assert!(doors.dma.unmap(0x1000, memory.length()).is_ok() && doors.command(0));
}

#[test]
fn a_route_stays_while_something_needs_it() {
    let doors = Doors::new();
    let irqfd = eventfd();
    assert!(doors.kvm.attach_irqfd(MSI, &irqfd).is_err());
    doors.caught("has no route yet");
    assert!(doors.route(true) && doors.kvm.attach_irqfd(MSI, &irqfd).is_ok());
    assert!(doors.bind(IrqKind::Msix, &irqfd) && !doors.route(false));
    doors.caught("loses its route first");
    assert!(doors.kvm.detach_irqfd(MSI, &irqfd).is_ok() && !doors.route(false));
    doors.caught("loses its route while a device signals it");
    assert!(doors.device.disable_irqs(IrqKind::Msix).is_ok() && doors.route(false));
}

#[test]
fn a_pin_stays_while_the_device_signals_it() {
    let doors = Doors::new();
    let (irqfd, resample) = (eventfd(), eventfd());
    assert!(doors.kvm.attach_level_irqfd(PIN, &irqfd, &resample).is_ok());
    assert!(doors.bind(IrqKind::Intx, &irqfd) && doors.kvm.detach_irqfd(PIN, &irqfd).is_err());
    doors.caught("is let go while a device signals it");
}

#[test]
fn a_device_is_reset_when_it_is_quiet() {
    let doors = Doors::new();
    assert!(doors.command(COMMAND_MASTER) && doors.device.reset().is_err());
    doors.caught("reset while it is a bus master");
    assert!(doors.command(0) && doors.bind(IrqKind::Intx, &eventfd()));
    assert!(doors.device.reset().is_err());
    doors.caught("reset while Intx is enabled");
    assert!(doors.device.disable_irqs(IrqKind::Intx).is_ok() && doors.device.reset().is_ok());
}

#[test]
fn a_violation_that_nobody_takes_fails_the_test() {
    let ended = std::thread::spawn(|| {
        let _ = FakePort::default().unmap_slot(1);
    });
    assert!(ended.join().is_err());
}
