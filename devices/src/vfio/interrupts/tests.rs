//! From one way to interrupt to another, against fake doors that refuse what VFIO refuses.

use crate::fake::{Call, KvmCall, VfioCall};
use crate::irq::{Gsi, MsiMessage};
use crate::pci::PciFunction;
use crate::pci::regs::{COMMAND, INTERRUPT_PIN, MSI_64_BIT, MSI_ENABLE, MSI_MASKABLE};
use crate::vfio::IrqKind;
use crate::vfio::rig::{MSI, MSIX_CONTROL, Offers, PIN, Rig, bar};

const ADDRESS: u64 = 0xfee0_1000;
/// Control of eight vectors with 64-bit address and masks.
const EIGHT: u16 = 3 << 1 | MSI_64_BIT | MSI_MASKABLE;
const MASK: u16 = MSI + 16;
const PENDING: u16 = MSI + 20;

fn half(rig: &mut Rig, offset: u16, value: u16) {
    rig.write(offset, &value.to_le_bytes());
}

fn word(rig: &mut Rig, offset: u16, value: u32) {
    rig.write(offset, &value.to_le_bytes());
}

fn read(rig: &mut Rig, offset: u16) -> u32 {
    let mut data = [0; 4];
    rig.function.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn message(data: u32) -> MsiMessage {
    MsiMessage { address: ADDRESS, data }
}

/// Address and data of MSI, and two to the power of `exponent` vectors, enabled.
fn enable_msi(rig: &mut Rig, data: u16, exponent: u16) {
    word(rig, MSI + 4, ADDRESS as u32);
    half(rig, MSI + 12, data);
    half(rig, MSI + 2, MSI_ENABLE | exponent << 4);
}

fn all() -> Offers {
    Offers { pin: true, msi: Some(EIGHT), msix: 3, msix_grows: true, ..Offers::default() }
}

/// A function, after what was done to set it up.
fn rig(offers: Offers) -> Rig {
    let rig = Rig::new(offers);
    rig.device.take();
    rig.port.take_calls();
    rig
}

/// Device calls, then port calls, since the last time.
fn calls(rig: &Rig) -> (Vec<VfioCall>, Vec<KvmCall>) {
    assert_eq!((rig.device.violations(), rig.port.violations()), (vec![], vec![]));
    (rig.device.take(), rig.port.take_calls())
}

fn pin_on() -> [VfioCall; 2] {
    [VfioCall::SetIrqs(IrqKind::Intx, 0, vec![true]), VfioCall::UnmaskIntx]
}

#[test]
fn a_function_starts_with_its_pin() {
    let mut rig = Rig::new(all());
    let (device, port) = calls(&rig);
    assert_eq!(device, pin_on());
    assert_eq!(port, [KvmCall::AttachLevel(PIN)]);
    assert_eq!(read(&mut rig, INTERRUPT_PIN & !3).to_be_bytes()[2], 1);
    drop(rig.function);
    assert_eq!(rig.device.take()[0], VfioCall::DisableIrqs(IrqKind::Intx));
    assert_eq!(rig.port.take_calls(), [KvmCall::Detach(PIN)]);
}

#[test]
fn a_function_without_a_pin_has_none() {
    let mut rig = Rig::new(Offers { pin: false, ..all() });
    assert_eq!(calls(&rig), (vec![], vec![]));
    assert_eq!(read(&mut rig, INTERRUPT_PIN & !3).to_be_bytes()[2], 0);
}

#[test]
fn a_line_that_cannot_be_had_is_not_shown() {
    let mut rig = Rig::new(Offers { pin_is_taken: true, ..all() });
    let (device, port) = calls(&rig);
    assert_eq!(device, [VfioCall::Refused(IrqKind::Intx)]);
    assert_eq!(port, [KvmCall::AttachLevel(PIN), KvmCall::Detach(PIN)]);
    assert_eq!(read(&mut rig, INTERRUPT_PIN & !3).to_be_bytes()[2], 0);
    // MSI-X is none the worse for it, also when it is given back.
    half(&mut rig, MSIX_CONTROL, 0x8000);
    half(&mut rig, MSIX_CONTROL, 0);
    assert_eq!(
        calls(&rig).0,
        [VfioCall::SetIrqs(IrqKind::Msix, 0, vec![false]), VfioCall::DisableIrqs(IrqKind::Msix)]
    );
}

#[test]
fn a_driver_that_comes_and_goes_switches_to_msix_and_back() {
    let mut rig = rig(all());
    for _ in 0..2 {
        half(&mut rig, MSIX_CONTROL, 0x8000);
        let (device, port) = calls(&rig);
        let msix = VfioCall::SetIrqs(IrqKind::Msix, 0, vec![false]);
        assert_eq!(device, [VfioCall::DisableIrqs(IrqKind::Intx), msix]);
        assert_eq!(port, [KvmCall::Detach(PIN)]);
        half(&mut rig, MSIX_CONTROL, 0);
        let (device, port) = calls(&rig);
        assert_eq!(device[0], VfioCall::DisableIrqs(IrqKind::Msix));
        assert_eq!(device[1..], pin_on());
        assert_eq!(port, [KvmCall::AttachLevel(PIN)]);
    }
}

#[test]
fn msi_takes_as_many_vectors_as_the_guest_enables() {
    let mut rig = rig(all());
    enable_msi(&mut rig, 0x4047, 2);
    let (device, port) = calls(&rig);
    let four = VfioCall::SetIrqs(IrqKind::Msi, 0, vec![true; 4]);
    assert_eq!(device, [VfioCall::DisableIrqs(IrqKind::Intx), four]);
    // The lowest two bits of data are the vector's; the GSIs of eight vectors start at 24.
    let routes = (0..4).map(|n| (Gsi(24 + n), message(0x4044 + n))).collect();
    let attached = (24..28).map(|gsi| KvmCall::Attach(Gsi(gsi)));
    let expected = [KvmCall::Detach(PIN), KvmCall::Routes(routes)].into_iter().chain(attached);
    assert_eq!(port, expected.collect::<Vec<_>>());
    half(&mut rig, MSI + 2, 0);
    let (device, port) = calls(&rig);
    assert_eq!(device[0], VfioCall::DisableIrqs(IrqKind::Msi));
    assert_eq!(device[1..], pin_on());
    assert_eq!(port.last(), Some(&KvmCall::AttachLevel(PIN)));
    assert_eq!(rig.port.attached(), [PIN]);
}

#[test]
fn msi_follows_its_message_without_the_device() {
    let mut rig = rig(all());
    enable_msi(&mut rig, 0x31, 0);
    calls(&rig);
    // As a guest's kernel does when it moves an interrupt to another CPU.
    word(&mut rig, MSI + 4, ADDRESS as u32 | 0x2000);
    half(&mut rig, MSI + 12, 0x32);
    let at = |address, data| KvmCall::Routes(vec![(Gsi(24), MsiMessage { address, data })]);
    assert_eq!(calls(&rig), (vec![], vec![at(0xfee0_3000, 0x31), at(0xfee0_3000, 0x32)]));
}

#[test]
fn another_number_of_msi_vectors_is_another_start() {
    let mut rig = rig(all());
    enable_msi(&mut rig, 0x40, 0);
    calls(&rig);
    half(&mut rig, MSI + 2, MSI_ENABLE | 1 << 4);
    let two = VfioCall::SetIrqs(IrqKind::Msi, 0, vec![true; 2]);
    assert_eq!(calls(&rig).0, [VfioCall::DisableIrqs(IrqKind::Msi), two]);
}

#[test]
fn a_masked_msi_vector_is_held_and_shown_as_pending() {
    let mut rig = rig(all());
    enable_msi(&mut rig, 0x40, 1);
    calls(&rig);
    word(&mut rig, MASK, 0b10);
    assert_eq!(calls(&rig), (vec![], vec![KvmCall::Detach(Gsi(25))]));
    assert_eq!(read(&mut rig, PENDING), 0);
    rig.device.signal(IrqKind::Msi, 1);
    assert_eq!((read(&mut rig, PENDING), read(&mut rig, PENDING)), (0b10, 0b10));
    word(&mut rig, MASK, 0);
    assert_eq!(calls(&rig), (vec![], vec![KvmCall::Attach(Gsi(25))]));
}

#[test]
fn a_host_with_fewer_msi_vectors_gives_what_it_has() {
    let mut rig = rig(all());
    rig.device.limit_msi(2);
    enable_msi(&mut rig, 0x40, 3);
    let refused = VfioCall::Refused(IrqKind::Msi);
    let two = VfioCall::SetIrqs(IrqKind::Msi, 0, vec![true; 2]);
    let disabled = VfioCall::DisableIrqs(IrqKind::Intx);
    assert_eq!(calls(&rig).0, [disabled, refused.clone(), refused, two]);
    assert_eq!(rig.port.attached(), [Gsi(24), Gsi(25)]);
}

#[test]
fn only_a_host_with_fewer_vectors_is_asked_for_fewer() {
    let mut rig = rig(all());
    rig.device.refuse_irqs(IrqKind::Msi, libc::EIO);
    enable_msi(&mut rig, 0x40, 3);
    let disabled = VfioCall::DisableIrqs(IrqKind::Intx);
    assert_eq!(calls(&rig).0, [disabled, VfioCall::Refused(IrqKind::Msi)]);
}

/// Programs the first `vectors` of MSI-X, which is off.
fn program_msix(rig: &mut Rig, vectors: u64) {
    for vector in 0..vectors {
        rig.function.bar_write(bar(3), vector * 16, &ADDRESS.to_le_bytes());
        rig.function.bar_write(bar(3), vector * 16 + 8, &(0x40 + vector).to_le_bytes());
    }
}

#[test]
fn kvm_lets_go_of_what_the_device_signals_after_the_device_was_switched_off() {
    let mut rig = rig(all());
    program_msix(&mut rig, 1);
    half(&mut rig, MSIX_CONTROL, 0x8000);
    rig.journal.take();
    half(&mut rig, MSIX_CONTROL, 0);
    let to_the_pin = [
        Call::Vfio(VfioCall::DisableIrqs(IrqKind::Msix)),
        Call::Kvm(KvmCall::Detach(Gsi(32))),
        Call::Kvm(KvmCall::Routes(vec![])),
        Call::Kvm(KvmCall::AttachLevel(PIN)),
        Call::Vfio(VfioCall::SetIrqs(IrqKind::Intx, 0, vec![true])),
        Call::Vfio(VfioCall::UnmaskIntx),
    ];
    assert_eq!(rig.journal.take(), to_the_pin);
    enable_msi(&mut rig, 0x40, 0);
    let to_msi = [
        Call::Vfio(VfioCall::DisableIrqs(IrqKind::Intx)),
        Call::Kvm(KvmCall::Detach(PIN)),
        Call::Vfio(VfioCall::SetIrqs(IrqKind::Msi, 0, vec![true])),
        Call::Kvm(KvmCall::Routes(vec![(Gsi(24), message(0x40))])),
        Call::Kvm(KvmCall::Attach(Gsi(24))),
    ];
    assert_eq!(rig.journal.take(), to_msi);
    half(&mut rig, MSI + 2, 0);
    let off = [
        Call::Vfio(VfioCall::DisableIrqs(IrqKind::Msi)),
        Call::Kvm(KvmCall::Detach(Gsi(24))),
        Call::Kvm(KvmCall::Routes(vec![])),
    ];
    assert_eq!(rig.journal.take()[..3], off);
}

#[test]
fn all_vectors_of_a_function_change_kvms_table_once() {
    let mut rig = rig(Offers { msix: 128, ..all() });
    program_msix(&mut rig, 128);
    let updates = |rig: &Rig| {
        let calls = rig.port.take_calls().into_iter();
        let sizes = calls.filter_map(|call| match call {
            KvmCall::Routes(routes) => Some(routes.len()),
            _ => None,
        });
        sizes.collect::<Vec<_>>()
    };
    half(&mut rig, MSIX_CONTROL, 0x8000);
    assert_eq!(updates(&rig), [128]);
    half(&mut rig, MSIX_CONTROL, 0);
    assert_eq!(updates(&rig), [0]);
}

#[test]
fn msix_goes_before_msi() {
    let mut rig = rig(all());
    enable_msi(&mut rig, 0x40, 0);
    calls(&rig);
    half(&mut rig, MSIX_CONTROL, 0x8000);
    let msix = VfioCall::SetIrqs(IrqKind::Msix, 0, vec![false]);
    assert_eq!(calls(&rig).0, [VfioCall::DisableIrqs(IrqKind::Msi), msix]);
    half(&mut rig, MSIX_CONTROL, 0);
    let msi = VfioCall::SetIrqs(IrqKind::Msi, 0, vec![true]);
    assert_eq!(calls(&rig).0, [VfioCall::DisableIrqs(IrqKind::Msix), msi]);
}

#[test]
fn what_was_refused_is_asked_for_once() {
    let mut rig = rig(all());
    half(&mut rig, MSIX_CONTROL, 0x8000);
    calls(&rig);
    rig.device.refuse_irqs(IrqKind::Intx, libc::EBUSY);
    half(&mut rig, MSIX_CONTROL, 0);
    let refused = VfioCall::Refused(IrqKind::Intx);
    assert_eq!(calls(&rig).0, [VfioCall::DisableIrqs(IrqKind::Msix), refused]);
    half(&mut rig, COMMAND, 0);
    assert!(!calls(&rig).0.contains(&VfioCall::Refused(IrqKind::Intx)));
    enable_msi(&mut rig, 0x40, 0);
    assert_eq!(rig.device.enabled(), Some(IrqKind::Msi));
}

#[test]
fn a_port_that_fails_leaves_the_device_alone() {
    let mut rig = rig(all());
    half(&mut rig, MSIX_CONTROL, 0x8000);
    calls(&rig);
    // The pin's irqfd, the only call to KVM on this way.
    rig.port.fail_next();
    half(&mut rig, MSIX_CONTROL, 0);
    assert_eq!(calls(&rig).0, [VfioCall::DisableIrqs(IrqKind::Msix)]);
    assert_eq!(rig.device.enabled(), None);
}

#[test]
fn a_vector_that_cannot_be_let_go_keeps_no_other() {
    let mut rig = rig(all());
    enable_msi(&mut rig, 0x40, 2);
    calls(&rig);
    rig.port.fail_next();
    half(&mut rig, MSI + 2, 0);
    assert_eq!(calls(&rig).0, [VfioCall::DisableIrqs(IrqKind::Msi)]);
    assert_eq!(rig.port.attached(), [Gsi(24)]);
    half(&mut rig, COMMAND, 0);
    assert_eq!(rig.device.enabled(), Some(IrqKind::Intx));
    enable_msi(&mut rig, 0x40, 2);
    assert_eq!(rig.port.attached(), [24, 25, 26, 27].map(Gsi));
    calls(&rig);
}

#[test]
fn what_was_pending_is_forgotten_with_the_driver_it_was_for() {
    let mut rig = rig(all());
    half(&mut rig, MSIX_CONTROL, 0x8000);
    let unmask = |rig: &mut Rig| {
        rig.function.bar_write(bar(3), 0, &ADDRESS.to_le_bytes());
        rig.function.bar_write(bar(3), 8, &0x31u64.to_le_bytes());
    };
    unmask(&mut rig);
    rig.function.bar_write(bar(3), 12, &1u32.to_le_bytes());
    rig.device.signal(IrqKind::Msix, 0);
    let pending = |rig: &mut Rig| {
        let mut data = [0];
        rig.function.bar_read(bar(3), 0x2000, &mut data);
        data[0]
    };
    assert_eq!(pending(&mut rig), 1);
    half(&mut rig, MSIX_CONTROL, 0);
    half(&mut rig, MSIX_CONTROL, 0x8000);
    assert_eq!(pending(&mut rig), 0);
}

#[test]
fn a_write_to_the_capabilitys_first_word_stays_here() {
    let mut rig = rig(all());
    word(&mut rig, MSI, 0xffff_ffff);
    let (device, _) = calls(&rig);
    assert!(!device.iter().any(|call| matches!(call, VfioCall::Write(..))), "{device:?}");
    assert_eq!(rig.device.enabled(), Some(IrqKind::Msi));
}

#[test]
fn interrupts_refused_to_a_sleeping_device_are_enabled_when_it_wakes() {
    const POWER: u16 = 0x44;

    let mut rig = rig(all());
    half(&mut rig, POWER, 3);
    half(&mut rig, MSIX_CONTROL, 0x8000);
    assert_eq!(rig.device.enabled(), None);
    half(&mut rig, POWER, 0);
    assert_eq!(rig.device.enabled(), Some(IrqKind::Msix));
    assert_eq!((rig.device.violations(), rig.port.violations()), (vec![], vec![]));
}
