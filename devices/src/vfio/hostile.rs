//! A guest that does anything, and a host that fails now and then: what must hold all the same.
//!
//! - Nothing panics, and an access is always answered.
//! - What is mapped into the guest, or for the DMA of other devices, is the device's own memory,
//!   at the very address where its BAR answers, in the host bridge's windows, and once.
//! - VFIO and KVM are asked for nothing that they would call a bug: the fakes keep count.
//! - When the machine is gone, nothing is mapped, no interrupt is enabled, no irqfd attached.
//!
//! The tests beside this try it with what proptest comes up with, and the fuzz targets of
//! `devices/fuzz` with what covers new code.

use std::ops::Range;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::dma::PeerAccess;
use super::function::VfioFunction;
use super::rig::{Offers, RESET, WINDOWS, bars, profile};
use super::wiring::{FunctionSite, Wiring};
use crate::fake::{DeviceLog, FakeDevice, FakeDma, FakePort, Journal};
use crate::irq::{Gsi, MsiRouter};
use crate::pci::{
    BarRoutes, GuestBdf, HotPlug, Link, LinkSpeed, LinkWidth, Payload, PciFunction, PortWindows,
    RootBus, RootPort, RootPortConfig, Segment, Space,
};

/// What a guest, or its host, does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes configuration space through ECAM: device, offset and bytes.
    ConfigWrite(u8, u16, Vec<u8>),
    /// Reads it: device, offset and length.
    ConfigRead(u8, u16, usize),
    /// Writes where BARs can be.
    Write(Space, u64, Vec<u8>),
    /// Reads where BARs can be.
    Read(Space, u64, usize),
    /// The host's KVM fails the next call.
    Fail,
    /// The host wants the function behind the port back, and takes it if it may.
    Unplug,
}

/// The port.
pub const PORT: u8 = 3;
/// The function behind the port, as steps know it.
pub const BEHIND: u8 = 4;

/// How far apart the functions' BARs start.
pub const APART: u64 = 0x8_0000;

fn on_root(device: u8) -> GuestBdf {
    GuestBdf::new(0, device, 0).expect("a device number")
}

fn behind() -> GuestBdf {
    GuestBdf::new(1, 0, 0).expect("a device number")
}

/// A port with a hot-plug slot.
fn root_port(router: &Arc<MsiRouter>) -> RootPort {
    let width = LinkWidth { speed: LinkSpeed::Gt8, lanes: 1 };
    let payload = Payload::default();
    let link = Link { negotiated: width, capable: width, payload_supported: payload, payload };
    let windows = PortWindows::default();
    let config = RootPortConfig { primary: 0, secondary: 1, slot: 1, link, windows };
    let hot_plug = HotPlug {
        route: router.allocate().expect("a GSI"),
        switched_off: EventFd::new(EFD_NONBLOCK).expect("an eventfd"),
    };
    RootPort::new(&config, Some(hot_plug))
}

/// A machine with three assigned functions, one of them behind a port, and fakes behind their doors.
pub struct Machine {
    segment: Segment,
    routes: Arc<BarRoutes>,
    port: Arc<FakePort>,
    dma: Arc<FakeDma>,
    devices: Vec<DeviceLog>,
}

impl Machine {
    /// Two functions, one whose MSI-X can grow and one whose cannot, and one behind a port.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a machine under test is no plain value")]
    pub fn new() -> Self {
        Self::with_config(&[]).expect("sound devices")
    }

    /// The same with a first function that has other bytes in its configuration space, at these
    /// offsets; `None` when such a device is refused.
    #[must_use]
    pub fn with_config(bytes: &[(u16, u8)]) -> Option<Self> {
        let journal = Journal::default();
        let port = Arc::new(FakePort::new(&journal));
        let routes = Arc::new(BarRoutes::new(WINDOWS.to_vec()));
        let router = MsiRouter::new(port.clone());
        let port_above = root_port(&router);
        let buses = vec![port_above.buses()];
        let dma = Arc::new(FakeDma::new(&journal));
        let peers = PeerAccess::Iommu { port: dma.clone(), largest: 1 << 16 };
        let wiring = Wiring { port: port.clone(), router, routes: routes.clone(), peers };
        let (mut slots, mut devices) = (8.., Vec::new());
        let functions: Option<Vec<(GuestBdf, Box<dyn PciFunction>)>> = (1..4u8)
            .map(|device| {
                let bdf = if device == PORT { behind() } else { on_root(device) };
                let mut profile = profile(&Offers::everything(device == 1));
                if device == 1 {
                    for (offset, byte) in bytes {
                        let at = usize::from(*offset) % profile.config.len();
                        profile.config[at] = *byte;
                    }
                }
                let (fake, log) = FakeDevice::new(profile, &journal);
                devices.push(log);
                let place = FunctionSite {
                    bdf,
                    bars: bars(u64::from(device - 1) * APART),
                    multi_function: false,
                    intx_gsi: Some(Gsi(16 + u32::from(device))),
                    rom: Some(0),
                    reset: RESET,
                };
                let function =
                    VfioFunction::new(Box::new(fake), &place, &mut slots, wiring.clone()).ok()?;
                let function: Box<dyn PciFunction> = Box::new(function);
                Some((bdf, function))
            })
            .collect();
        let functions = functions?;
        Some(Self {
            segment: Segment::new(
                functions,
                [(on_root(PORT), port_above)],
                vec![RootBus::new(0..=2, buses)],
                routes.clone(),
            ),
            routes,
            port,
            dma,
            devices,
        })
    }

    /// Does it. Two threads may, as two vCPUs.
    pub fn apply(&self, step: &Step) {
        let ecam = |device: u8, offset: u16| match device {
            BEHIND => 1 << 20 | u64::from(offset),
            device => u64::from(device) << 15 | u64::from(offset),
        };
        match step {
            Step::ConfigWrite(device, offset, data) => {
                self.segment.ecam_write(ecam(*device, *offset), data);
            }
            Step::ConfigRead(device, offset, length) => {
                self.segment.ecam_read(ecam(*device, *offset), &mut vec![0; *length]);
            }
            Step::Write(space, address, data) => {
                self.segment.window_write(*space, *address, data);
            }
            Step::Read(space, address, length) => {
                self.segment.window_read(*space, *address, &mut vec![0; *length]);
            }
            Step::Fail => self.port.fail_next(),
            Step::Unplug => {
                self.segment.press_button(behind());
                let functions = self.segment.take_out(behind());
                // As at the machine's end: who closes a device has no second try.
                self.port.heal();
                drop(functions);
            }
        }
    }

    /// What holds at any time.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check(&self) {
        for (guest, host) in self.port.mapped_memory().into_iter().chain(self.dma.mapped_memory()) {
            self.check_mapping(guest, host);
        }
        self.port.take_calls();
        assert_eq!(self.port.violations(), Vec::<String>::new());
        for device in &self.devices {
            assert_eq!(device.violations(), Vec::<String>::new());
            device.take();
        }
    }

    /// At these addresses of the guest a BAR answers, and this is its memory.
    fn check_mapping(&self, guest: Range<u64>, host: u64) {
        let inside = WINDOWS.iter().any(|(space, window)| {
            *space == Space::Memory && window.start <= guest.start && guest.end <= window.end
        });
        assert!(inside, "{guest:#x?} is outside of the windows");
        let hit = self.routes.find(Space::Memory, guest.start);
        let hit = hit.unwrap_or_else(|| panic!("nobody answers at {guest:#x?}"));
        let device = if hit.function == behind() { PORT } else { hit.function.device() };
        let log = &self.devices[usize::from(device) - 1];
        let part = hit.offset..hit.offset + (guest.end - guest.start);
        let own = log.mappings().contains(&(hit.bar, part, host));
        assert!(own, "{guest:#x?} is not what {hit:?} has");
    }

    /// What holds when it is gone, on a host that fails no more.
    ///
    /// # Panics
    /// It does not hold.
    pub fn end(self) {
        self.port.heal();
        self.check();
        let Self { segment, port, dma, devices, .. } = self;
        drop(segment);
        assert_eq!(port.mapped(), vec![]);
        assert_eq!(dma.mapped(), vec![]);
        assert_eq!(port.attached(), vec![]);
        assert_eq!(port.violations(), Vec::<String>::new());
        for device in devices {
            assert_eq!(device.enabled(), None);
            assert_eq!(device.violations(), Vec::<String>::new());
        }
    }
}

#[cfg(test)]
mod tests;
