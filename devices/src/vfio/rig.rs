//! A function under test, with fakes behind its doors.

use std::sync::Arc;

use super::backend::{DeviceProfile, IrqKind, RegionProfile};
use super::dma::PeerAccess;
use super::function::VfioFunction;
use super::reset::{FunctionReset, ResetMethod};
use super::wiring::{FunctionSite, Wiring};
use crate::fake::{DeviceLog, FakeDevice, FakeDma, FakePort, Journal};
use crate::irq::{Gsi, MsiRouter};
use crate::pci::regs::{MSI_64_BIT, MSI_MASKABLE};
use crate::pci::{Bar, BarKind, BarRoutes, BarSpec, Freed, GuestBdf, HostBdf, PciFunction, Space};

/// Where it is.
pub const BDF: GuestBdf = GuestBdf::new(0, 1, 0).expect("device 1, function 0");
/// Where it is on the host.
pub const HOST: HostBdf = HostBdf::new(0, 0x41, 0, 0).expect("device 0, function 0");
/// The MSI capability.
pub const MSI: u16 = 0x50;
/// MSI-X message control.
pub const MSIX_CONTROL: u16 = 0x72;
/// How it is reset: by itself, as configuration space says too.
pub const RESET: FunctionReset = FunctionReset {
    host: HOST,
    method: ResetMethod::Flr,
    alone: ResetMethod::Flr,
    hot_at_port: true,
    on_close: false,
};
/// Device control of its PCI Express capability.
pub const DEVICE_CONTROL: u16 = 0xa8;
/// Where its pin ends.
pub const PIN: Gsi = Gsi(17);
/// Addresses behind which BARs can answer.
pub const WINDOWS: [(Space, std::ops::Range<u64>); 2] =
    [(Space::Memory, 0xc000_0000..0xe000_0000), (Space::Io, 0x1000..0x1_0000)];

/// What the device has beside its BARs.
#[derive(Clone, Debug, Default)]
pub struct Offers {
    pub pin: bool,
    /// Message control of an MSI capability.
    pub msi: Option<u16>,
    /// Vectors of MSI-X; 0 for none.
    pub msix: u16,
    pub msix_grows: bool,
    /// Bytes of expansion ROM.
    pub rom: u64,
    /// The host's line cannot be had.
    pub pin_is_taken: bool,
    /// How it is reset instead of by FLR.
    pub reset: Option<ResetMethod>,
}

impl Offers {
    /// Everything at once.
    pub fn everything(msix_grows: bool) -> Self {
        // Eight vectors with 64-bit address and masks.
        let msi = 3 << 1 | MSI_64_BIT | MSI_MASKABLE;
        Self { pin: true, msi: Some(msi), msix: 3, msix_grows, rom: 0x8000, ..Self::default() }
    }
}

/// A function and what is behind it.
pub struct Rig {
    pub function: VfioFunction,
    pub journal: Journal,
    pub device: DeviceLog,
    pub port: Arc<FakePort>,
    pub routes: Arc<BarRoutes>,
    pub dma: Arc<FakeDma>,
}

/// A BAR by its number.
pub fn bar(index: u8) -> Bar {
    Bar::new(index).expect("below 6")
}

/// Like an 82576: registers in BAR 0, ports in BAR 2, the MSI-X table alone in a page of BAR 3,
/// power management; and a BAR 4 below a page.
pub fn profile(offers: &Offers) -> DeviceProfile {
    let mut config = vec![0; 4096];
    config[0x06] = 0x10;
    config[0x18] = 0x01;
    config[0x34] = 0x40;
    config[0x3d] = u8::from(offers.pin);
    config[0x40..0x42].copy_from_slice(&[0x01, 0]);
    let mut last = 0x40;
    if let Some(control) = offers.msi {
        (config[last + 1], last) = (MSI as u8, MSI.into());
        config[last..last + 2].copy_from_slice(&[0x05, 0]);
        config[last + 2..last + 4].copy_from_slice(&control.to_le_bytes());
    }
    if offers.msix > 0 {
        config[last + 1] = 0x70;
        config[0x70..0x7c].copy_from_slice(&[0x11, 0, 0, 0, 3, 0, 0, 0, 3, 0x20, 0, 0]);
        config[0x72..0x74].copy_from_slice(&(offers.msix - 1).to_le_bytes());
        last = 0x70;
    }
    // PCI Express, with FLR.
    config[last + 1] = 0xa0;
    config[0xa0..0xa8].copy_from_slice(&[0x10, 0, 2, 0, 0, 0, 0, 0x10]);
    let mut profile = DeviceProfile {
        config,
        has_intx: offers.pin,
        msi_vectors: offers.msi.map_or(0, |control| 1 << (control >> 1 & 7)),
        msix_vectors: offers.msix.into(),
        msix_grows: offers.msix_grows,
        can_be_reset: true,
        ..Default::default()
    };
    for (index, size) in [(0, 0x2_0000u64), (2, 0x20), (3, 0x4000), (4, 0x100)] {
        // The host's kernel can map a small BAR that has its page for itself.
        let mappable = if index == 2 { vec![] } else { std::iter::once(0..size).collect() };
        profile.bars[index] = RegionProfile { size, mappable };
    }
    profile.bars[Bar::ROM.index()].size = offers.rom;
    profile
}

/// Its BARs, `base` bytes into the windows.
pub fn bars(base: u64) -> Vec<BarSpec> {
    let memory = BarKind::Memory32 { prefetchable: false };
    let spec = |index, kind, size, address| BarSpec { bar: bar(index), kind, size, address };
    vec![
        spec(0, memory, 0x2_0000, 0xc000_0000 + base),
        spec(2, BarKind::Io, 0x20, 0x1000 + base / 0x1000),
        spec(3, memory, 0x4000, 0xc002_0000 + base),
        spec(4, memory, 0x100, 0xc004_0000 + base),
    ]
}

impl Rig {
    /// A function on bus 0.
    pub fn new(offers: Offers) -> Self {
        let journal = Journal::default();
        let port = Arc::new(FakePort::new(&journal));
        let routes = Arc::new(BarRoutes::new(WINDOWS.to_vec()));
        let router = MsiRouter::new(port.clone());
        let dma = Arc::new(FakeDma::new(&journal));
        let peers = PeerAccess::Iommu { port: dma.clone(), largest: 1 << 17 };
        let wiring = Wiring { port: port.clone(), router, routes: routes.clone(), peers };
        let (device, log) = FakeDevice::new(profile(&offers), &journal);
        if offers.pin_is_taken {
            log.refuse_irqs(IrqKind::Intx, libc::EBUSY);
        }
        let place = FunctionSite {
            bdf: BDF,
            bars: bars(0),
            multi_function: false,
            intx_gsi: Some(PIN),
            rom: Some(0),
            reset: offers.reset.map_or(RESET, |method| FunctionReset { method, ..RESET }),
        };
        let function = VfioFunction::new(Box::new(device), &place, &mut (8..), wiring)
            .expect("a sound device");
        Self { function, journal, device: log, port, routes, dma }
    }

    /// The guest writes configuration space. No other function waits for addresses.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let _: Freed = self.function.config_write(offset, data);
    }

    /// As when another function has given up addresses.
    pub fn sync(&mut self) {
        let _: Freed = self.function.sync();
    }
}
