//! Resets by the guest, through its ports, and at the end; slots that lose their card.

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::fake::{DeviceLog, FakeDevice, FakePort, Journal, KvmCall, VfioCall};
use crate::irq::{MsiMessage, MsiRouter};
use crate::pci::regs::{COMMAND, COMMAND_MEMORY, ROM_ADDRESS};
use crate::pci::{
    Attention, BarRoutes, GuestBdf, HostBdf, HotPlug, Link, LinkSpeed, LinkWidth, Payload,
    PciFunction, PortWindows, RootBus, RootPort, RootPortConfig, Segment, Space,
};
use crate::vfio::rig::{
    DEVICE_CONTROL, MSIX_CONTROL, Offers, PIN, RESET, Rig, WINDOWS, bar, bars, profile,
};
use crate::vfio::{
    Affected, FunctionReset, FunctionSite, IrqKind, PeerAccess, Region, ResetMethod, VfioFunction,
    Wiring,
};

const MESSAGE: MsiMessage = MsiMessage { address: 0xfee0_0000, data: 0x31 };

fn off() -> VfioCall {
    VfioCall::Write(Region::Config, COMMAND.into(), vec![0, 0])
}

fn word(function: &mut VfioFunction, offset: u16) -> u32 {
    let mut data = [0; 4];
    function.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn a_function_level_reset_leaves_what_a_function_leaves() {
    let mut rig = Rig::new(Offers { rom: 0x8000, ..Offers::everything(true) });
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    rig.write(ROM_ADDRESS, &0xc100_0001u32.to_le_bytes());
    rig.function.bar_write(bar(3), 0, &MESSAGE.address.to_le_bytes());
    rig.function.bar_write(bar(3), 8, &MESSAGE.data.to_le_bytes());
    rig.function.bar_write(bar(3), 12, &[0; 4]);
    rig.write(MSIX_CONTROL, &0x8000u16.to_le_bytes());
    assert_eq!(rig.device.enabled(), Some(IrqKind::Msix));
    rig.device.take();

    rig.write(DEVICE_CONTROL, &[0x10, 0xa8]);
    let flr = VfioCall::Write(Region::Config, DEVICE_CONTROL.into(), vec![0x10, 0xa8]);
    assert_eq!(
        rig.device.take(),
        [
            VfioCall::DisableIrqs(IrqKind::Msix),
            off(),
            flr,
            VfioCall::SetIrqs(IrqKind::Intx, 0, vec![true]),
            VfioCall::UnmaskIntx
        ]
    );
    assert!(rig.port.mapped().is_empty() && rig.routes.find(Space::Memory, 0xc000_0000).is_none());
    assert_eq!(rig.port.attached(), [PIN]);
    let registers = [COMMAND, 0x10, 0x1c, ROM_ADDRESS].map(|r| word(&mut rig.function, r));
    assert_eq!(registers, [0x0010_0000, 0, 0, 0]);
    assert_eq!(word(&mut rig.function, MSIX_CONTROL & !3) >> 16, 2);
    let mut entry = [0; 16];
    rig.function.bar_read(bar(3), 0, &mut entry);
    assert_eq!(entry[..12], [0; 12], "the table");
    assert_eq!(entry[12] & 1, 1, "masked");

    // What a kernel restores then works.
    rig.write(0x10, &0xc000_0000u32.to_le_bytes());
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    assert!(rig.port.mapped().contains(&(0xc000_0000..0xc002_0000)));
}

#[test]
fn other_writes_to_device_control_reset_nothing() {
    let mut rig = Rig::new(Offers::default());
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    rig.write(DEVICE_CONTROL, &[0xff, 0x7f]);
    assert!(!rig.port.mapped().is_empty());
}

/// A card of two functions behind a port with a hot-plug slot.
struct Card {
    segment: Segment,
    devices: Vec<DeviceLog>,
    port: Arc<FakePort>,
    switched_off: EventFd,
}

const PORT: GuestBdf = GuestBdf::new(0, 1, 0).expect("device 1");
const FIRST: GuestBdf = GuestBdf::new(1, 0, 0).expect("function 0");
const SECOND: GuestBdf = GuestBdf::new(1, 0, 1).expect("function 1");

/// Where the card is on the host.
fn host(function: u8) -> HostBdf {
    HostBdf::new(0, 0x41, 0, function).expect("a function")
}

/// Registers of a port.
const BRIDGE_CONTROL: u64 = 0x3e;
const LINK_CONTROL: u64 = 0x50;
const LINK_STATUS: u64 = 0x52;
const SLOT_CAPABILITIES: u64 = 0x54;
const SLOT_CONTROL: u64 = 0x58;
const SLOT_STATUS: u64 = 0x5a;
const POWER: u64 = 0x80;

impl Card {
    fn new(method: ResetMethod, hot_plug: bool) -> Self {
        Self::with(hot_plug, |reset| FunctionReset { method, ..reset })
    }

    fn with(hot_plug: bool, reset: impl Fn(FunctionReset) -> FunctionReset) -> Self {
        let journal = Journal::default();
        let port = Arc::new(FakePort::new(&journal));
        let routes = Arc::new(BarRoutes::new(WINDOWS.to_vec()));
        let router = MsiRouter::new(port.clone());
        let eventfd = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let switched_off = eventfd();
        let width = LinkWidth { speed: LinkSpeed::Gt8, lanes: 1 };
        let payload = Payload::default();
        let link = Link { negotiated: width, capable: width, payload_supported: payload, payload };
        let windows = PortWindows::default();
        let config = RootPortConfig { primary: 0, secondary: 1, slot: 1, link, windows };
        let wiring = || HotPlug {
            route: router.allocate().expect("a GSI"),
            switched_off: switched_off.try_clone().expect("a second handle"),
        };
        let root_port = RootPort::new(&config, hot_plug.then(wiring));
        let roots = vec![RootBus::new(0..=1, vec![root_port.buses()])];
        let wiring =
            Wiring { port: port.clone(), router, routes: routes.clone(), peers: PeerAccess::Alone };
        let (mut slots, mut devices) = (8.., Vec::new());
        let affected: Vec<_> = [0, 1]
            .map(|function| Affected { bdf: host(function), held: true, is_bound: true })
            .into_iter()
            .collect();
        let functions: Vec<(GuestBdf, Box<dyn PciFunction>)> = (0u64..)
            .zip([FIRST, SECOND])
            .map(|(index, bdf)| {
                let offers = Offers { pin: false, ..Offers::everything(true) };
                let (device, log) = FakeDevice::new(profile(&offers), &journal);
                log.set_affected(affected.clone());
                devices.push(log);
                let place = FunctionSite {
                    bdf,
                    bars: bars(index * 0x8_0000),
                    multi_function: true,
                    intx_gsi: None,
                    rom: None,
                    reset: reset(FunctionReset {
                        host: host(bdf.function()),
                        alone: ResetMethod::Pm,
                        ..RESET
                    }),
                };
                let device = Box::new(device);
                let function = VfioFunction::new(device, &place, &mut slots, wiring.clone());
                let function: Box<dyn PciFunction> = Box::new(function.expect("a sound device"));
                (bdf, function)
            })
            .collect();
        let segment = Segment::new(functions, [(PORT, root_port)], roots, routes);
        let card = Self { segment, devices, port, switched_off };
        for bdf in [FIRST, SECOND] {
            card.write(bdf, COMMAND.into(), &[COMMAND_MEMORY as u8, 0]);
        }
        card.take();
        card.port.take_calls();
        card
    }

    fn write(&self, bdf: GuestBdf, offset: u64, data: &[u8]) {
        self.segment.ecam_write(ecam(bdf) + offset, data);
    }

    fn half(&self, bdf: GuestBdf, offset: u64) -> u16 {
        let mut data = [0; 2];
        self.segment.ecam_read(ecam(bdf) + offset, &mut data);
        u16::from_le_bytes(data)
    }

    fn set(&self, offset: u64, value: u16) {
        self.write(PORT, offset, &value.to_le_bytes());
    }

    /// What both devices were asked.
    fn take(&self) -> [Vec<VfioCall>; 2] {
        [self.devices[0].take(), self.devices[1].take()]
    }

    /// A driver in the guest listens to the port.
    fn listen(&self) {
        self.write(PORT, 0x88, &0xfee0_1000u32.to_le_bytes());
        self.write(PORT, 0x90, &0x41u16.to_le_bytes());
        self.write(PORT, 0x86, &[1, 0]);
        // As Linux' pciehp: attention button, presence and link events, interrupt.
        self.set(SLOT_CONTROL, 0x1129);
    }
}

fn ecam(bdf: GuestBdf) -> u64 {
    u64::from(bdf.routing_id()) << 12
}

#[test]
fn a_bus_reset_resets_every_function_by_itself() {
    let card = Card::new(ResetMethod::Flr, false);
    assert_eq!(card.half(PORT, LINK_STATUS) & 1 << 13, 1 << 13);
    card.set(BRIDGE_CONTROL, 0x40);
    assert_eq!(card.take(), [0, 1].map(|_| vec![off(), VfioCall::Reset]));
    assert!(card.port.mapped().is_empty());
    assert_eq!((card.half(FIRST, 0), card.half(SECOND, 6)), (!0, !0), "in reset");
    assert_eq!(card.half(PORT, LINK_STATUS) & 1 << 13, 0);
    card.write(FIRST, COMMAND.into(), &[COMMAND_MEMORY as u8, 0]);
    card.set(BRIDGE_CONTROL, 0x40);
    assert_eq!(card.take(), [vec![], vec![]], "once");
    card.set(BRIDGE_CONTROL, 0);
    assert_eq!((card.half(FIRST, 0), card.half(SECOND, 6)), (0, 0x10));
    assert_eq!((card.half(FIRST, COMMAND.into()), card.half(FIRST, 0x12)), (0, 0));
    assert!(card.port.mapped().is_empty());
}

#[test]
fn a_card_is_reset_hot_once_for_all_its_functions() {
    let card = Card::new(ResetMethod::Hot, false);
    card.set(LINK_CONTROL, 0x10);
    assert_eq!(card.take(), [vec![off(), VfioCall::HotReset], vec![off()]]);
    card.set(LINK_CONTROL, 0);
    card.take();
    let Card { segment, devices, .. } = card;
    segment.shut_down();
    drop(segment);
    assert_eq!(devices[0].take(), [off(), VfioCall::HotReset]);
    assert_eq!(devices[1].take(), [off()], "neither with the first nor when it is closed");
}

#[test]
fn addresses_that_a_function_gives_up_are_offered_to_the_others() {
    let card = Card::new(ResetMethod::Flr, false);
    let seconds = 0xc008_0000..0xc00a_0000;
    let shown = || card.port.mapped().iter().filter(|mapped| **mapped == seconds).count();
    card.write(FIRST, 0x10, &0xc008_0000u32.to_le_bytes());
    assert_eq!(card.port.mapped().len(), 3, "the first function's BAR 0 is nowhere");
    card.write(SECOND, 0x10, &0xc100_0000u32.to_le_bytes());
    assert_eq!((shown(), card.port.mapped().len()), (1, 4), "now it is there");
    // In the other direction, and by the command register.
    card.write(SECOND, 0x10, &0xc008_0000u32.to_le_bytes());
    assert_eq!(card.port.mapped().len(), 3);
    card.write(FIRST, COMMAND.into(), &[0, 0]);
    assert_eq!((shown(), card.port.mapped().len()), (1, 2));
}

#[test]
fn a_port_reset_that_failed_is_tried_again_at_the_end() {
    let card = Card::new(ResetMethod::Flr, false);
    card.devices[0].refuse_reset(libc::EAGAIN);
    card.set(LINK_CONTROL, 0x10);
    assert_eq!(card.take(), [vec![off(), off()], vec![off(), VfioCall::Reset]], "off for sure");
    card.devices[0].allow_reset();
    card.segment.shut_down();
    assert_eq!(card.take(), [vec![VfioCall::Reset], vec![]]);
}

#[test]
fn a_port_reset_that_failed_is_tried_again_when_the_device_is_given_back() {
    let card = Card::new(ResetMethod::Flr, false);
    card.devices[0].refuse_reset(libc::EAGAIN);
    card.set(LINK_CONTROL, 0x10);
    card.take();
    card.devices[0].allow_reset();
    let Card { segment, devices, .. } = card;
    drop(segment);
    assert_eq!([devices[0].take(), devices[1].take()], [vec![VfioCall::Reset], vec![]]);
}

#[test]
fn a_device_without_a_way_to_reset_it_is_not_asked_again() {
    let card = Card::new(ResetMethod::None, false);
    card.set(LINK_CONTROL, 0x10);
    let Card { segment, devices, .. } = card;
    segment.shut_down();
    drop(segment);
    assert_eq!(devices[0].take(), [off()]);
}

#[test]
fn a_reset_that_fails_ends_nothing() {
    let card = Card::new(ResetMethod::Flr, false);
    card.devices[0].refuse_reset(libc::EAGAIN);
    card.set(LINK_CONTROL, 0x10);
    assert_eq!(card.take(), [vec![off(), off()], vec![off(), VfioCall::Reset]]);
    let Card { segment, devices, .. } = card;
    segment.shut_down();
    drop(segment);
    // Tried once more, and as little a bus master afterwards.
    assert_eq!(devices[0].take(), [off()]);
    assert_eq!(devices[1].take(), []);
}

#[test]
fn what_the_kernel_resets_when_it_is_closed_is_not_reset_before() {
    let card = Card::new(ResetMethod::Flr, false);
    let Card { segment, devices, .. } = card;
    segment.shut_down();
    drop(segment);
    assert!(devices.iter().all(|device| device.take() == [off()]));
}

#[test]
fn a_sleeping_port_hides_what_is_behind_it_unchanged() {
    let card = Card::new(ResetMethod::Flr, false);
    let mapped = card.port.mapped();
    card.set(POWER, 3);
    assert_eq!(card.half(FIRST, 0), !0);
    assert!(card.port.mapped().is_empty());
    card.set(POWER, 0);
    assert_eq!(card.port.mapped(), mapped);
    assert_eq!(card.take(), [vec![], vec![]]);
}

#[test]
fn a_guest_cannot_reset_by_one_port_what_it_has_behind_another() {
    let card = Card::with(false, |reset| FunctionReset {
        method: ResetMethod::Hot,
        hot_at_port: false,
        ..reset
    });
    card.set(LINK_CONTROL, 0x10);
    assert_eq!(card.take(), [0, 1].map(|_| vec![off(), VfioCall::Reset]));
    card.set(LINK_CONTROL, 0);
    card.take();
    card.segment.shut_down();
    assert_eq!(card.take(), [vec![off(), VfioCall::HotReset], vec![off()]]);
}

#[test]
fn a_hot_reset_that_failed_is_tried_again_at_the_end() {
    let card = Card::with(false, |reset| FunctionReset {
        method: ResetMethod::Hot,
        alone: ResetMethod::None,
        ..reset
    });
    card.devices.iter().for_each(|device| device.refuse_reset(libc::EAGAIN));
    card.set(LINK_CONTROL, 0x10);
    // It is no bus master after a reset that failed either.
    assert_eq!(card.take(), [0, 1].map(|_| vec![off(), off()]));
    card.devices.iter().for_each(DeviceLog::allow_reset);
    card.segment.shut_down();
    assert_eq!(card.take(), [vec![VfioCall::HotReset], vec![]]);
}

#[test]
fn functions_are_reset_alone_when_a_hot_reset_fails() {
    let card = Card::new(ResetMethod::Hot, false);
    card.devices[0].set_affected(vec![]);
    card.segment.shut_down();
    assert_eq!(card.take(), [vec![off(), VfioCall::Reset], vec![off(), VfioCall::HotReset]]);
}

#[test]
fn a_slot_without_hot_plug_has_no_button() {
    let card = Card::new(ResetMethod::Flr, false);
    assert_eq!(card.half(PORT, SLOT_CAPABILITIES) & 0x7f, 0);
    card.listen();
    assert_eq!(card.half(PORT, SLOT_CONTROL), 0);
    assert_eq!(card.segment.press_button(FIRST), Attention::NoButton);
    assert_eq!(card.segment.press_button(PORT), Attention::NoButton);
    assert!(card.segment.take_out(FIRST).is_empty());
    assert!(card.port.attached().is_empty());
}

#[test]
fn a_card_leaves_its_slot_when_the_guest_lets_go_of_it() {
    let card = Card::new(ResetMethod::Flr, true);
    // Attention button, power controller, power indicator, hot-plug; commands complete at once.
    assert_eq!(card.half(PORT, SLOT_CAPABILITIES) & 0x7f, 0x53);
    assert_eq!(card.half(PORT, SLOT_CAPABILITIES + 2) & 4, 4);
    assert_eq!(card.segment.press_button(FIRST), Attention::Unheard);
    assert_eq!(card.half(PORT, SLOT_STATUS), 0x40);
    card.listen();
    let gsi = card.port.attached()[0];
    assert_eq!(
        card.port.take_calls(),
        [
            KvmCall::Routes(vec![(gsi, MsiMessage { address: 0xfee0_1000, data: 0x41 })]),
            KvmCall::Attach(gsi)
        ]
    );
    assert_eq!(card.segment.press_button(SECOND), Attention::Heard);
    assert_eq!(card.half(PORT, SLOT_STATUS), 0x41);
    assert!(card.segment.take_out(FIRST).is_empty(), "the guest has it still");
    card.set(SLOT_STATUS, 1);
    assert_eq!(card.half(PORT, SLOT_STATUS), 0x40, "acknowledged");
    assert!(card.switched_off.read().is_err());

    card.take();
    card.set(SLOT_CONTROL, 0x1529);
    assert!(card.switched_off.read().is_ok() && card.segment.is_switched_off(FIRST));
    assert_eq!(card.take(), [0, 1].map(|_| vec![off(), VfioCall::Reset]));
    assert_eq!(card.half(PORT, SLOT_STATUS), 0x140, "the link has changed");
    assert_eq!(card.segment.press_button(FIRST), Attention::SwitchedOff);
    drop(card.segment.take_out(FIRST));
    assert_eq!(card.take(), [vec![], vec![]], "it was reset before");
    assert!(card.port.mapped().is_empty());
    assert_eq!(card.half(PORT, SLOT_STATUS), 0x108, "presence has changed");
    card.set(SLOT_CONTROL, 0x1129);
    assert_eq!(card.half(PORT, LINK_STATUS) & 1 << 13, 0, "nothing is there to switch on");
    assert_eq!((card.half(FIRST, 0), card.half(SECOND, 0)), (!0, !0));
    card.segment.shut_down();
}

#[test]
fn a_slot_that_is_switched_on_again_has_its_card_as_after_a_reset() {
    let card = Card::new(ResetMethod::Flr, true);
    card.set(SLOT_CONTROL, 0x400);
    assert_eq!(card.half(FIRST, 0), !0);
    card.set(SLOT_CONTROL, 0);
    assert_eq!((card.half(FIRST, 0), card.half(FIRST, COMMAND.into())), (0, 0));
    assert_eq!(card.half(PORT, SLOT_STATUS), 0x140);
}

/// How often the port has interrupted, while its irqfd is not read by KVM.
fn interrupts(rung: &EventFd) -> u64 {
    rung.read().unwrap_or(0)
}

#[test]
fn a_port_interrupts_once_for_each_new_reason() {
    let port = Arc::new(FakePort::default());
    let route = MsiRouter::new(port.clone()).allocate().expect("a GSI");
    let rung = route.irqfd().try_clone().expect("a second handle");
    let switched_off = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let width = LinkWidth { speed: LinkSpeed::Gt8, lanes: 1 };
    let payload = Payload::default();
    let link = Link { negotiated: width, capable: width, payload_supported: payload, payload };
    let windows = PortWindows::default();
    let config = RootPortConfig { primary: 0, secondary: 1, slot: 1, link, windows };
    let mut root_port = RootPort::new(&config, Some(HotPlug { route, switched_off }));
    root_port.config_write(SLOT_CONTROL as u16, &0x1129u16.to_le_bytes());
    assert_eq!(root_port.press_button(), Attention::Heard);
    assert_eq!(interrupts(&rung), 0, "MSI is off");
    root_port.config_write(0x86, &[1, 0]);
    assert_eq!(interrupts(&rung), 1, "the reason is still there");
    root_port.press_button();
    assert_eq!(interrupts(&rung), 0, "and no new one");
    root_port.config_write(SLOT_STATUS as u16, &[1, 0]);
    root_port.press_button();
    assert_eq!(interrupts(&rung), 1);
    // The link's event is enabled by a bit at another place, where the power indicator's is.
    root_port.config_write(SLOT_STATUS as u16, &[1, 0]);
    for (control, interrupted) in [(0x0121u16, 0), (0x1121, 1)] {
        root_port.config_write(SLOT_CONTROL as u16, &control.to_le_bytes());
        root_port.config_write(BRIDGE_CONTROL as u16, &[0x40]);
        assert_eq!(interrupts(&rung), interrupted, "{control:#x}");
        root_port.config_write(BRIDGE_CONTROL as u16, &[0]);
        root_port.config_write(SLOT_STATUS as u16, &[0, 1]);
        interrupts(&rung);
    }
    // Without bus mastering a port sends no message.
    root_port.config_write(SLOT_STATUS as u16, &[1, 0]);
    root_port.config_write(COMMAND, &[3, 0]);
    root_port.press_button();
    assert_eq!(interrupts(&rung), 0);
}
