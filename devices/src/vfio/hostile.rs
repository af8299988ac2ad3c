//! A guest that does anything, and a host that fails now and then: what must hold all the same.
//!
//! - Nothing panics, and an access is always answered.
//! - What is mapped into the guest lies in the host bridge's windows, and is mapped once.
//! - VFIO and KVM are asked for nothing that they would call a bug: the fakes keep count.
//! - When the machine is gone, nothing is mapped, no interrupt is enabled, no irqfd attached.

use std::sync::Arc;

use proptest::prelude::*;

use super::dma::PeerAccess;
use super::function::{Place, VfioFunction, Wiring};
use super::rig::{MSI, MSIX_CONTROL, Offers, WINDOWS, bars, profile};
use crate::fake::{DeviceLog, FakeDevice, FakeDma, FakePort, PortCall};
use crate::irq::{Gsi, MsiRouter};
use crate::pci::regs::{COMMAND, ROM_ADDRESS};
use crate::pci::{BarRoutes, Bdf, PciFunction, RootBus, Segment, Space};

#[derive(Clone, Debug)]
enum Step {
    /// Device, offset and bytes.
    ConfigWrite(u8, u16, Vec<u8>),
    ConfigRead(u8, u16, usize),
    /// Through the ports: where, value of CONFIG_ADDRESS or CONFIG_DATA.
    Port(u16, Vec<u8>),
    Write(Space, u64, Vec<u8>),
    Read(Space, u64, usize),
    /// The host's KVM fails the next call.
    Fail,
}

/// How far apart the functions' BARs start.
const APART: u64 = 0x8_0000;

/// A few places, so that BARs meet each other, in the windows and around them: above all those
/// where BARs are in the beginning, table and small BAR among them.
fn address() -> impl Strategy<Value = u64> {
    let first = [0u64, 0x2_0000, 0x2_1000, 0x2_2000, 0x4_0000];
    let start = (prop::sample::select(first.to_vec()), 0..2u64);
    prop_oneof![
        4 => start.prop_map(|(bar, function)| 0xc000_0000 + bar + function * APART),
        2 => (0u64..0xd0).prop_map(|page| 0xc000_0000 + page * 0x1000),
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
    let device = || 1u8..4;
    let meant = (device(), register(), prop::sample::select(vec![2usize, 4])).prop_map(
        |(device, (offset, value), length)| {
            Step::ConfigWrite(device, offset, value.to_le_bytes()[..length].to_vec())
        },
    );
    let offset = || prop_oneof![2 => 0u16..0x80, 1 => 0u16..0x1000];
    let write =
        (device(), offset(), bytes()).prop_map(|(d, at, data)| Step::ConfigWrite(d, at, data));
    let read =
        (device(), offset(), 0usize..9).prop_map(|(d, at, length)| Step::ConfigRead(d, at, length));
    // CONFIG_ADDRESS of the first function and those behind it.
    let select = (0u32..0x400).prop_map(|word| 0x8000_0800 | (word << 2));
    prop_oneof![
        6 => meant,
        3 => write,
        2 => read,
        1 => (0u16..8, bytes()).prop_map(|(port, data)| Step::Port(port, data)),
        1 => select.prop_map(|address| Step::Port(0, address.to_le_bytes().to_vec())),
        4 => (window(), bytes()).prop_map(|((space, at), data)| Step::Write(space, at, data)),
        2 => (window(), 0usize..9).prop_map(|((space, at), n)| Step::Read(space, at, n)),
    ]
}

struct Machine {
    segment: Segment,
    port: Arc<FakePort>,
    dma: Arc<FakeDma>,
    devices: Vec<DeviceLog>,
}

impl Machine {
    /// Two functions, one whose MSI-X can grow and one whose cannot.
    fn new() -> Self {
        let (port, routes) =
            (Arc::new(FakePort::default()), Arc::new(BarRoutes::new(WINDOWS.to_vec())));
        let router = MsiRouter::new(port.clone());
        let dma = Arc::new(FakeDma::default());
        let peers = PeerAccess::Iommu(dma.clone());
        let wiring = Wiring { port: port.clone(), router, routes: routes.clone(), peers };
        let (mut slots, mut devices) = (8.., Vec::new());
        let functions: Vec<(Bdf, Box<dyn PciFunction>)> = (1..3)
            .map(|device| {
                let bdf = Bdf::new(0, 0, device, 0).expect("a device number");
                let (fake, log) = FakeDevice::new(profile(&Offers::everything(device == 1)));
                devices.push(log);
                let place = Place {
                    bdf,
                    bars: bars(u64::from(device - 1) * APART),
                    multi_function: false,
                    intx_gsi: Some(Gsi(16 + u32::from(device))),
                    rom: Some(0),
                };
                let function =
                    VfioFunction::new(Box::new(fake), &place, &mut slots, wiring.clone());
                let function: Box<dyn PciFunction> = Box::new(function.expect("sound devices"));
                (bdf, function)
            })
            .collect();
        Self {
            segment: Segment::new(functions, vec![RootBus::new(0..=0, vec![])], routes),
            port,
            dma,
            devices,
        }
    }

    fn apply(&self, step: &Step) {
        let ecam = |device: u8, offset: u16| u64::from(device) << 15 | u64::from(offset);
        match step {
            Step::ConfigWrite(device, offset, data) => {
                self.segment.ecam_write(ecam(*device, *offset), data);
            }
            Step::ConfigRead(device, offset, length) => {
                self.segment.ecam_read(ecam(*device, *offset), &mut vec![0; *length]);
            }
            Step::Port(port, data) => {
                self.segment.port_write(*port, data);
                self.segment.port_read(*port, &mut data.clone());
            }
            Step::Write(space, address, data) => {
                self.segment.window_write(*space, *address, data);
            }
            Step::Read(space, address, length) => {
                self.segment.window_read(*space, *address, &mut vec![0; *length]);
            }
            Step::Fail => self.port.fail_next(),
        }
    }

    /// What holds at any time.
    fn check(&self) -> Result<(), TestCaseError> {
        for call in self.port.take_calls() {
            if let PortCall::Map { guest, length, .. } = call {
                let inside = WINDOWS.iter().any(|(space, window)| {
                    *space == Space::Memory && window.start <= guest && guest + length <= window.end
                });
                prop_assert!(inside, "{length:#x} bytes at {guest:#x}");
            }
        }
        prop_assert_eq!(self.port.violations(), Vec::<String>::new());
        for device in &self.devices {
            prop_assert_eq!(device.violations(), Vec::<String>::new());
            device.take();
        }
        Ok(())
    }

    /// What holds when it is gone.
    fn end(self) -> Result<(), TestCaseError> {
        self.check()?;
        let Self { segment, port, dma, devices } = self;
        drop(segment);
        prop_assert_eq!(port.mapped(), vec![]);
        prop_assert_eq!(dma.mapped(), vec![]);
        prop_assert_eq!(port.attached(), vec![]);
        prop_assert_eq!(port.violations(), Vec::<String>::new());
        for device in devices {
            prop_assert_eq!(device.enabled(), None);
            prop_assert_eq!(device.violations(), Vec::<String>::new());
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn one_vcpu(
        steps in prop::collection::vec(prop_oneof![30 => step(), 1 => Just(Step::Fail)], 0..80)
    ) {
        let machine = Machine::new();
        for step in &steps {
            machine.apply(step);
            machine.check()?;
        }
        machine.port.heal();
        machine.end()?;
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
        machine.end()?;
    }
}
