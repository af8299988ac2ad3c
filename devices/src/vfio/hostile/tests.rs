//! What proptest comes up with.

use proptest::prelude::*;

use super::super::rig::{DEVICE_CONTROL, MSI, MSIX_CONTROL};
use super::{APART, Machine, PORT, Step};
use crate::pci::Space;
use crate::pci::regs::{COMMAND, ROM_ADDRESS};

/// Registers of the port on which much depends.
fn port_register() -> impl Strategy<Value = (u16, u32)> {
    prop_oneof![
        // Bus numbers, bus reset, link disable, power state.
        (Just(0x18), prop::sample::select(vec![0x0001_0100, 0, 0x00ff_0000, 0x0002_0200])),
        (Just(0x3e), prop::sample::select(vec![0, 0x40])),
        (Just(0x50), prop::sample::select(vec![0, 0x10])),
        (Just(0x80), 0u32..4),
        // Slot control: all interrupts, switched on or off; and status.
        (Just(0x58), prop::sample::select(vec![0x1129, 0x1529, 0x100, 0x500, 0])),
        (Just(0x5a), any::<u32>()),
        // MSI.
        (Just(0x86), 0u32..2),
        (prop::sample::select(vec![0x88u16, 0x8c, 0x90]), any::<u32>()),
    ]
}

/// A few places, so that BARs meet each other, in the windows and around them: above all those
/// where BARs are in the beginning, table and small BAR among them.
fn address() -> impl Strategy<Value = u64> {
    let first = [0u64, 0x2_0000, 0x2_1000, 0x2_2000, 0x4_0000];
    let start = (prop::sample::select(first.to_vec()), 0..3u64);
    prop_oneof![
        4 => start.prop_map(|(bar, function)| 0xc000_0000 + bar + function * APART),
        2 => (0u64..0x150).prop_map(|page| 0xc000_0000 + page * 0x1000),
        1 => prop::sample::select(vec![
            0, 0x1000, 0x9_f000, 0xbfff_f000, 0xdfff_f000, 0xe000_0000, 0xfee0_0000, 0xffff_f000,
            0x1_0000_0000, u64::MAX - 0xfff,
        ]),
    ]
}

/// Registers on which much depends, and values that mean something to them.
fn register() -> impl Strategy<Value = (u16, u32)> {
    prop_oneof![
        (Just(COMMAND), 0u32..8),
        // Power state.
        (Just(0x44), 0u32..4),
        (Just(DEVICE_CONTROL), prop::sample::select(vec![0x8000, 0x2810])),
        (prop::sample::select(vec![0x10u16, 0x1c, 0x20, ROM_ADDRESS]), address())
            .prop_map(|(register, address)| (register, address as u32 | 1)),
        (Just(0x18), (0u32..0x10).prop_map(|port| 0xff0 + port * 0x10)),
        (Just(MSIX_CONTROL), prop::sample::select(vec![0, 0x8000, 0xc000, 0x4000])),
        (Just(MSI + 2), (0u32..8, 0u32..2).prop_map(|(vectors, on)| vectors << 4 | on)),
        (prop::sample::select(vec![MSI, MSI + 4, MSI + 8, MSI + 12, MSI + 16]), any::<u32>()),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..9)
}

fn window() -> impl Strategy<Value = (Space, u64)> {
    // The MSI-X table and the registers after it, and what lies around the end of a small BAR.
    let offset = prop_oneof![0u64..0x40, 0xf8u64..0x108];
    let memory =
        (address(), offset).prop_map(|(page, offset)| (Space::Memory, page.saturating_add(offset)));
    prop_oneof![3 => memory, 1 => (0xff0u64..0x10c0).prop_map(|port| (Space::Io, port))]
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 1u8..5;
    let meant = (device(), register(), prop::sample::select(vec![2usize, 4])).prop_map(
        |(device, (offset, value), length)| {
            Step::ConfigWrite(device, offset, value.to_le_bytes()[..length].to_vec())
        },
    );
    let port = port_register().prop_map(|(offset, value): (u16, u32)| {
        Step::ConfigWrite(PORT, offset, value.to_le_bytes()[..4 - usize::from(offset % 4)].to_vec())
    });
    let offset = || prop_oneof![2 => 0u16..0x80, 1 => 0u16..0x1000];
    let write =
        (device(), offset(), bytes()).prop_map(|(d, at, data)| Step::ConfigWrite(d, at, data));
    let read =
        (device(), offset(), 0usize..9).prop_map(|(d, at, length)| Step::ConfigRead(d, at, length));
    prop_oneof![
        6 => meant,
        4 => port,
        1 => Just(Step::Unplug),
        3 => write,
        2 => read,
        4 => (window(), bytes()).prop_map(|((space, at), data)| Step::Write(space, at, data)),
        2 => (window(), 0usize..9).prop_map(|((space, at), n)| Step::Read(space, at, n)),
    ]
}

proptest! {
    #[test]
    fn one_vcpu(
        steps in prop::collection::vec(prop_oneof![30 => step(), 1 => Just(Step::Fail)], 0..80)
    ) {
        let machine = Machine::new();
        for step in &steps {
            machine.apply(step);
            machine.check();
        }
        machine.end();
    }

    #[test]
    fn two_vcpus(
        first in prop::collection::vec(step(), 0..80),
        second in prop::collection::vec(step(), 0..80),
    ) {
        let machine = Machine::new();
        let run = |steps: &[Step]| steps.iter().for_each(|step| machine.apply(step));
        std::thread::scope(|scope| {
            scope.spawn(|| run(&first));
            scope.spawn(|| run(&second));
        });
        machine.end();
    }
}
