//! An assigned function against fake doors: the order of calls is what is asserted.

use std::sync::Arc;

use super::*;
use crate::fake::{Call, DmaCall, FakeDevice, FakePort, Journal, KvmCall, VfioCall};
use crate::irq::{Gsi, MsiMessage, MsiRouter};
use crate::pci::regs::{COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY, ROM_ADDRESS};
use crate::pci::{BarKind, BarRoutes, Space};
use crate::vfio::rig::{BDF, DEVICE_CONTROL, MSIX_CONTROL as CONTROL, Offers, RESET, Rig, bar};
use crate::vfio::{DeviceProfile, PeerAccess};

/// BAR 3 without the table's page.
const BAR3_DIRECT: std::ops::Range<u64> = 0xc002_1000..0xc002_4000;
const MESSAGE: MsiMessage = MsiMessage { address: 0xfee0_0000, data: 0x31 };

fn rig(msix_grows: bool) -> Rig {
    Rig::new(Offers { msix: 3, msix_grows, ..Offers::default() })
}

fn write(rig: &mut Rig, offset: u16, value: u32) {
    rig.write(offset, &value.to_le_bytes());
}

fn unmask(function: &mut VfioFunction, vector: u64) {
    function.bar_write(bar(3), vector * 16, &MESSAGE.address.to_le_bytes());
    function.bar_write(bar(3), vector * 16 + 8, &MESSAGE.data.to_le_bytes());
    function.bar_write(bar(3), vector * 16 + 12, &[0; 4]);
}

fn told(offset: u16, value: u8) -> Call {
    Call::Vfio(VfioCall::Write(Region::Config, offset.into(), vec![value, 0]))
}

/// A BAR's memory comes to the guest, and then to the other devices.
fn shown(slot: u32, range: std::ops::Range<u64>) -> [Call; 2] {
    let (guest, length) = (range.start, range.end - range.start);
    [Call::Kvm(KvmCall::Map { slot, guest, length }), Call::Dma(DmaCall::Map(range))]
}

/// The other way round.
fn hidden(slot: u32, range: std::ops::Range<u64>) -> [Call; 2] {
    [Call::Dma(DmaCall::Unmap(range)), Call::Kvm(KvmCall::Unmap(slot))]
}

fn shown_and_hidden() -> [Vec<Call>; 2] {
    let bar0 = 0xc000_0000..0xc002_0000;
    [
        [shown(8, bar0.clone()), shown(9, BAR3_DIRECT)].concat(),
        [hidden(8, bar0), hidden(9, BAR3_DIRECT)].concat(),
    ]
}

#[test]
fn bars_answer_after_the_device_was_told_and_go_before_it_is() {
    let mut rig = rig(true);
    let [on, off] = shown_and_hidden();
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    assert_eq!(rig.journal.take(), [vec![told(COMMAND, 2)], on].concat());
    rig.write(COMMAND, &[0, 0]);
    assert_eq!(rig.journal.take(), [off, vec![told(COMMAND, 0)]].concat());
}

#[test]
fn memory_space_maps_what_needs_no_exit() {
    let mut rig = rig(true);
    assert!(rig.port.mapped().is_empty());
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    // All of BAR 0, and BAR 3 without the table's page.
    assert_eq!(rig.port.mapped(), [0xc000_0000..0xc002_0000, 0xc002_1000..0xc002_4000]);
    let hit = rig.routes.find(Space::Memory, 0xc002_0010).expect("the table's page exits");
    assert_eq!((hit.function, hit.bar, hit.offset), (BDF, bar(3), 0x10));
    assert!(rig.routes.find(Space::Io, 0x1000).is_none(), "I/O is not enabled");
    rig.write(COMMAND, &[0, 0]);
    assert!(rig.port.mapped().is_empty());
}

#[test]
fn peers_reach_what_the_guest_reaches_directly() {
    let mut rig = rig(true);
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    assert_eq!(rig.dma.mapped(), rig.port.mapped());
    write(&mut rig, 0x10, 0xd000_0000);
    assert_eq!(rig.dma.mapped(), [BAR3_DIRECT, 0xd000_0000..0xd002_0000]);
    rig.write(COMMAND, &[0, 0]);
    assert!(rig.dma.mapped().is_empty());
}

#[test]
fn a_host_that_maps_no_bars_for_dma_still_gives_them_to_the_guest() {
    let mut rig = rig(true);
    rig.dma.refuse();
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    assert_eq!(rig.port.mapped().len(), 2);
    rig.write(COMMAND, &[0, 0]);
    assert!(rig.port.mapped().is_empty());
}

#[test]
fn bars_go_before_the_device_leaves_d0_and_come_after_it_is_back() {
    const POWER: u16 = 0x44;

    let mut rig = rig(true);
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    rig.journal.take();
    let [on, off] = shown_and_hidden();
    rig.write(POWER, &[3, 0]);
    assert_eq!(rig.journal.take(), [off, vec![told(POWER, 3)]].concat());
    rig.write(POWER, &[0, 0]);
    assert_eq!(rig.journal.take(), [vec![told(POWER, 0)], on].concat());
}

#[test]
fn a_device_stays_on_while_the_host_does_not_let_go_of_its_memory() {
    for (register, value) in [(COMMAND, 0), (0x44, 3)] {
        let mut rig = rig(true);
        rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
        let mapped = rig.port.mapped();
        rig.journal.take();
        rig.port.fail_next();
        rig.write(register, &[value, 0]);
        assert!(!rig.journal.take().contains(&told(register, value)), "{register:#x}");
        assert_eq!(rig.port.mapped(), mapped);
        assert!(rig.routes.find(Space::Memory, 0xc002_0000).is_some());
        rig.write(register, &[value, 0]);
        assert!(rig.port.mapped().is_empty());
        assert_eq!(rig.journal.take().last(), Some(&told(register, value)));
    }
}

#[test]
fn a_reset_leaves_memory_space_on_while_the_host_does_not_let_go_of_it() {
    let mut rig = rig(true);
    rig.write(COMMAND, &[(COMMAND_MEMORY | COMMAND_MASTER) as u8, 0]);
    rig.journal.take();
    rig.port.fail_next();
    rig.write(DEVICE_CONTROL, &[0x10, 0xa8]);
    let calls = rig.journal.take();
    assert!(calls.contains(&told(COMMAND, 2)), "no bus master, but memory: {calls:?}");
    rig.write(COMMAND, &[0, 0]);
    assert!(rig.port.mapped().is_empty());
}

#[test]
fn memory_that_the_guest_reaches_still_is_not_given_back() {
    let mut rig = rig(true);
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    let memory = rig.port.mapped_memory();
    let Rig { mut function, port, .. } = rig;
    // Neither the command register nor the end can take BAR 0 away.
    port.fail_next();
    let _: Freed = function.set_link(LinkState::Down);
    port.fail_next();
    drop(function);
    let still = port.mapped_memory();
    assert_eq!(still, memory[..1]);
    let (guest, host) = &still[0];
    let length = (guest.end - guest.start) as usize;
    // SAFETY: msync looks at page tables only, and says ENOMEM for what is not mapped.
    let synced = unsafe { libc::msync(*host as *mut libc::c_void, length, libc::MS_ASYNC) };
    assert_eq!(synced, 0, "the slot's memory is mapped");
}

#[test]
fn a_bar_follows_its_register() {
    let mut rig = rig(true);
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    rig.port.take_calls();
    write(&mut rig, 0x10, 0xd000_0000);
    let moved = KvmCall::Map { slot: 8, guest: 0xd000_0000, length: 0x2_0000 };
    assert_eq!(rig.port.take_calls(), [KvmCall::Unmap(8), moved]);
    // Sizing with decoding on, as some guests do: the BAR is nowhere for a moment.
    write(&mut rig, 0x10, !0);
    assert!(rig.routes.find(Space::Memory, 0xd000_0000).is_none());
    write(&mut rig, 0x10, 0xd000_0000);
    assert!(rig.routes.find(Space::Memory, 0xd000_0000).is_some());
}

#[test]
fn a_bar_on_top_of_another_waits_until_it_is_free() {
    let mut rig = rig(true);
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    write(&mut rig, 0x10, 0xc002_0000);
    assert_eq!(rig.port.mapped(), vec![BAR3_DIRECT]);
    write(&mut rig, 0x1c, 0xc100_0000);
    assert_eq!(rig.port.mapped(), [0xc002_0000..0xc004_0000, 0xc100_1000..0xc100_4000]);
}

#[test]
fn a_bar_over_ram_or_ecam_does_not_answer() {
    let mut rig = rig(true);
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    for address in [0, 0x10_0000, 0xbfff_0000, 0xe000_0000, 0xfee0_0000, 0xfffe_0000] {
        write(&mut rig, 0x10, address);
        assert_eq!(rig.port.mapped().len(), 1, "{address:#x}");
    }
}

#[test]
fn a_mapping_that_fails_is_undone() {
    let mut rig = rig(true);
    rig.port.fail_next();
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    assert!(rig.routes.find(Space::Memory, 0xc000_0000).is_none());
    assert!(rig.routes.find(Space::Memory, 0xc002_0000).is_some());
    rig.sync();
    assert!(rig.routes.find(Space::Memory, 0xc000_0000).is_some());
}

#[test]
fn vectors_are_bound_one_by_one_as_the_guest_unmasks_them() {
    let mut rig = rig(true);
    rig.device.take();
    rig.write(CONTROL, &0x8002u16.to_le_bytes());
    assert_eq!(rig.device.take(), [VfioCall::SetIrqs(IrqKind::Msix, 0, vec![false])]);
    unmask(&mut rig.function, 1);
    assert_eq!(rig.device.take(), [VfioCall::SetIrqs(IrqKind::Msix, 1, vec![true])]);
    let gsi = Gsi(25);
    assert_eq!(
        rig.port.take_calls(),
        [KvmCall::Routes(vec![(gsi, MESSAGE)]), KvmCall::Attach(gsi)]
    );
    rig.function.bar_write(bar(3), 28, &[1, 0, 0, 0]);
    assert_eq!(rig.port.take_calls(), [KvmCall::Detach(gsi)]);
    rig.function.bar_write(bar(3), 28, &[0, 0, 0, 0]);
    assert_eq!(rig.port.take_calls(), [KvmCall::Attach(gsi)]);
    assert!(rig.device.take().is_empty(), "masking does not reach the device");
}

#[test]
fn all_vectors_are_bound_at_once_where_none_can_be_added() {
    let mut rig = rig(false);
    rig.device.take();
    unmask(&mut rig.function, 2);
    rig.write(CONTROL, &0x8000u16.to_le_bytes());
    assert_eq!(rig.device.take(), [VfioCall::SetIrqs(IrqKind::Msix, 0, vec![true; 3])]);
    assert_eq!(rig.port.take_calls().last(), Some(&KvmCall::Attach(Gsi(26))));
    rig.write(CONTROL, &[0, 0]);
    assert_eq!(rig.device.take(), [VfioCall::DisableIrqs(IrqKind::Msix)]);
    let silent = [KvmCall::Detach(Gsi(26)), KvmCall::Routes(vec![])];
    assert_eq!(rig.port.take_calls(), silent);
}

#[test]
fn the_function_mask_holds_every_vector() {
    let mut rig = rig(true);
    unmask(&mut rig.function, 0);
    rig.write(CONTROL, &0xc000u16.to_le_bytes());
    assert!(rig.port.take_calls().is_empty());
    rig.write(CONTROL, &0x8000u16.to_le_bytes());
    assert_eq!(rig.port.take_calls().last(), Some(&KvmCall::Attach(Gsi(24))));
}

/// What is done to the device when it is dropped; a reset of it failed before, or none did.
fn given_back(reset_failed: bool) -> Vec<Call> {
    let mut rig = rig(true);
    rig.function.has_failed = reset_failed;
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    unmask(&mut rig.function, 0);
    rig.write(CONTROL, &0x8000u16.to_le_bytes());
    rig.journal.take();
    let Rig { function, journal, .. } = rig;
    drop(function);
    journal.take()
}

/// The kernel resets it when it is closed; to do that here before would only take time.
#[test]
fn the_device_is_given_back_silent_and_reset_where_that_has_failed_before() {
    let [_, hidden] = shown_and_hidden();
    let silenced = [
        Call::Vfio(VfioCall::DisableIrqs(IrqKind::Msix)),
        Call::Kvm(KvmCall::Detach(Gsi(24))),
        Call::Kvm(KvmCall::Routes(vec![])),
        told(COMMAND, 0),
    ];
    assert_eq!(given_back(false), [hidden.clone(), silenced.to_vec()].concat());
    let reset = vec![Call::Vfio(VfioCall::Reset)];
    assert_eq!(given_back(true), [hidden, silenced.to_vec(), reset].concat());
}

#[test]
fn the_plan_and_the_host_must_agree_on_sizes() {
    let profile = DeviceProfile { config: vec![0; 256], ..Default::default() };
    let journal = Journal::default();
    let port = Arc::new(FakePort::new(&journal));
    let routes = Arc::new(BarRoutes::new(vec![]));
    let router = MsiRouter::new(port.clone());
    let wiring = Wiring { port, router, routes, peers: PeerAccess::Alone };
    let kind = BarKind::Memory32 { prefetchable: false };
    let spec = BarSpec { bar: bar(0), kind, size: 4096, address: 0xc000_0000 };
    let place = FunctionSite {
        bdf: BDF,
        bars: vec![spec],
        multi_function: false,
        intx_gsi: None,
        rom: None,
        reset: RESET,
    };
    let device = Box::new(FakeDevice::new(profile, &journal).0);
    let refused = VfioFunction::new(device, &place, &mut (0..), wiring);
    assert!(matches!(refused, Err(FunctionError::BarSize { bar: 0, found: 0, planned: 4096 })));
}

fn read(function: &mut VfioFunction, bar: Bar, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    function.bar_read(bar, offset, &mut data);
    data
}

#[test]
fn a_bar_below_a_page_and_ports_exit_with_the_guests_own_sizes() {
    let mut rig = rig(true);
    rig.write(COMMAND, &[(COMMAND_MEMORY | COMMAND_IO) as u8, 0]);
    assert!(rig.port.mapped().iter().all(|mapped| !mapped.contains(&0xc004_0000)));
    for (space, address, answers) in [(Space::Memory, 0xc004_0000, 4), (Space::Io, 0x1000, 2)] {
        let hit = rig.routes.find(space, address).expect("it exits");
        assert_eq!((hit.bar, hit.offset), (bar(answers), 0));
        rig.device.take();
        for length in [1, 2, 4, 8] {
            assert_eq!(
                read(&mut rig.function, hit.bar, 8, length),
                [8, 9, 10, 11, 12, 13, 14, 15][..length]
            );
            rig.function.bar_write(hit.bar, 8, &vec![0x5a; length]);
            let write = VfioCall::Write(Region::Bar(hit.bar), 8, vec![0x5a; length]);
            assert_eq!(rig.device.take(), [write]);
        }
    }
}

#[test]
fn an_access_past_the_end_of_a_bar_is_cut_off_there() {
    let mut rig = rig(true);
    rig.write(COMMAND, &[(COMMAND_MEMORY | COMMAND_IO) as u8, 0]);
    rig.device.take();
    assert_eq!(
        read(&mut rig.function, bar(4), 0xfc, 8),
        [0xfc, 0xfd, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]
    );
    assert_eq!(read(&mut rig.function, bar(2), 0x1e, 4), [0x1e, 0x1f, 0xff, 0xff]);
    rig.function.bar_write(bar(4), 0xfc, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let write = VfioCall::Write(Region::Bar(bar(4)), 0xfc, vec![1, 2, 3, 4]);
    assert_eq!(rig.device.take(), [write]);
    assert!(rig.device.violations().is_empty());
}

#[test]
fn the_rom_answers_when_both_its_bit_and_memory_space_are_enabled() {
    let mut rig = Rig::new(Offers { rom: 0x1_0000, ..Offers::default() });
    write(&mut rig, ROM_ADDRESS, 0xc100_0000);
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    assert!(rig.routes.find(Space::Memory, 0xc100_0000).is_none());
    write(&mut rig, ROM_ADDRESS, 0xc100_0001);
    let hit = rig.routes.find(Space::Memory, 0xc100_0010).expect("the ROM answers");
    assert_eq!((hit.bar, hit.offset), (Bar::ROM, 0x10));
    rig.write(COMMAND, &[0, 0]);
    assert!(rig.routes.find(Space::Memory, 0xc100_0010).is_none());
    assert!(rig.port.mapped().is_empty(), "it is not mapped");
}

#[test]
fn the_rom_is_read_from_the_device_once_and_never_written() {
    // A region that is smaller than what the register can say.
    let mut rig = Rig::new(Offers { rom: 0x1_8000, ..Offers::default() });
    write(&mut rig, ROM_ADDRESS, 0xc100_0001);
    rig.device.take();
    let mut seen = vec![0; 4];
    rig.function.bar_read(Bar::ROM, 0, &mut seen);
    assert_eq!(seen, [0xff; 4], "memory space is off: the host's kernel refuses");
    rig.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
    rig.device.take();
    assert_eq!(read(&mut rig.function, Bar::ROM, 0x55, 2), [0x55, 0x56]);
    assert_eq!(read(&mut rig.function, Bar::ROM, 0x1_7fff, 4), [0xff; 4]);
    assert_eq!(read(&mut rig.function, Bar::ROM, 0x1_9000, 1), [0xff]);
    rig.function.bar_write(Bar::ROM, 0, &[1, 2, 3, 4]);
    assert_eq!(rig.device.take(), [VfioCall::ReadRom(0..0x1_8000)]);
    assert!(rig.device.violations().is_empty());
}
