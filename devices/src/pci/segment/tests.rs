//! Functions on root buses and behind ports, reached as a guest reaches them.

use super::*;
use crate::pci::root_port::{PortWindows, RootPort, RootPortConfig};
use crate::pci::{Bar, DmaGate, HostBridge, Link, LinkSpeed, LinkWidth, Payload};

const WIDTH: LinkWidth = LinkWidth { speed: LinkSpeed::Gt8, lanes: 8 };
const LINK: Link = Link {
    negotiated: WIDTH,
    capable: WIDTH,
    payload_supported: Payload::from_code(2),
    payload: Payload::from_code(1),
};

/// A function that says which one it is.
struct Named(GuestBdf);

impl PciFunction for Named {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        let id = [self.0.bus(), self.0.device(), self.0.function(), 0];
        for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = id.get(at).copied().unwrap_or(0);
        }
    }

    fn config_write(&mut self, _offset: u16, _data: &[u8]) -> Freed {
        Freed::Nothing
    }

    fn bar_read(&mut self, _bar: Bar, _offset: u64, _data: &mut [u8]) {}

    fn bar_write(&mut self, _bar: Bar, _offset: u64, _data: &[u8]) {}

    fn sync(&mut self) -> Freed {
        Freed::Nothing
    }

    fn set_link(&mut self, _link: LinkState) -> Freed {
        Freed::Nothing
    }

    fn reset(&mut self, _cause: ResetCause, _done: &mut ResetBuses) {}
}

fn bdf(bus: u8, device: u8, function: u8) -> GuestBdf {
    GuestBdf::new(bus, device, function).expect("a device and a function")
}

/// Two roots: buses 0 to 2 with two ports, and buses 3 to 4 with one. Behind each port a device
/// with functions 0 and 2; an endpoint on the first root bus.
fn segment() -> Segment {
    let mut functions: Vec<(GuestBdf, Box<dyn PciFunction>)> = vec![
        (bdf(0, 0, 0), Box::new(HostBridge::default())),
        (bdf(0, 3, 0), Box::new(Named(bdf(0, 3, 0)))),
    ];
    let (mut roots, mut all_ports) = (Vec::new(), Vec::new());
    for (buses, devices) in [(0..=2, vec![1, 2]), (3..=4, vec![1])] {
        let primary = *buses.start();
        let mut ports = Vec::new();
        for device in devices {
            let secondary = primary + device;
            let config = RootPortConfig {
                primary,
                secondary,
                slot: secondary,
                link: LINK,
                windows: PortWindows::default(),
            };
            let port = RootPort::new(&config, None);
            ports.push(port.buses());
            all_ports.push((bdf(primary, device, 0), port));
            for function in [0, 2] {
                let name = bdf(secondary, 0, function);
                functions.push((name, Box::new(Named(name))));
            }
        }
        roots.push(RootBus::new(buses, ports));
    }
    Segment::new(functions, all_ports, roots, Arc::new(BarRoutes::new(vec![])))
}

fn ecam(bdf: GuestBdf) -> u64 {
    u64::from(bdf.bus()) << 20 | u64::from(bdf.device()) << 15 | u64::from(bdf.function()) << 12
}

/// The first dword of a function.
fn id(segment: &Segment, bdf: GuestBdf) -> u32 {
    let mut data = [0; 4];
    segment.ecam_read(ecam(bdf), &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn an_address_reaches_its_function() {
    let segment = segment();
    assert_eq!(id(&segment, bdf(0, 0, 0)), 0x0008_1b36);
    assert_eq!(id(&segment, bdf(0, 1, 0)), 0x000c_1b36);
    assert_eq!(id(&segment, bdf(0, 3, 0)), 0x0000_0300);
    assert_eq!(id(&segment, bdf(2, 0, 2)), 0x0002_0002);
    let mut class = [0; 2];
    segment.ecam_read(0xa, &mut class);
    assert_eq!(u16::from_le_bytes(class), 0x0600);
}

#[test]
fn nothing_reads_as_ones() {
    let segment = segment();
    for absent in [(0, 4, 0), (1, 1, 0), (1, 0, 1), (3, 0, 0), (5, 0, 0), (255, 31, 7)] {
        let (bus, device, function) = absent;
        assert_eq!(id(&segment, bdf(bus, device, function)), !0, "{absent:?}");
    }
    for (offset, length) in [(0x2, 4), (0xfff, 2), (0, 8), (u64::MAX, 1)] {
        let mut data = vec![0; length];
        segment.ecam_read(offset, &mut data);
        assert!(data.iter().all(|b| *b == 0xff), "{offset:#x}");
        segment.ecam_write(offset, &data);
    }
}

#[test]
fn functions_follow_their_bus_number() {
    let segment = segment();
    let renumber = |port: GuestBdf, secondary: u8, subordinate: u8| {
        segment.ecam_write(ecam(port) + 0x19, &[secondary]);
        segment.ecam_write(ecam(port) + 0x1a, &[subordinate]);
    };
    // The two change places, one after the other as a guest must.
    renumber(bdf(0, 1, 0), 0, 0);
    assert_eq!(id(&segment, bdf(1, 0, 0)), !0);
    renumber(bdf(0, 2, 0), 1, 1);
    renumber(bdf(0, 1, 0), 2, 2);
    assert_eq!(id(&segment, bdf(1, 0, 0)), 0x0000_0002);
    assert_eq!(id(&segment, bdf(2, 0, 2)), 0x0002_0001);
    // A host bridge forwards its own buses only, and a port never its root bus.
    renumber(bdf(0, 1, 0), 4, 4);
    assert_eq!(id(&segment, bdf(4, 0, 0)), 0x0000_0004);
    renumber(bdf(0, 1, 0), 0, 255);
    assert_eq!(id(&segment, bdf(0, 3, 0)), 0x0000_0300);
    assert_eq!(id(&segment, bdf(3, 1, 0)), 0x000c_1b36);
}

/// A vCPU that waits holds no other up, not even at the same function.
#[test]
fn a_bus_master_to_be_waits_at_the_gate_and_holds_no_lock() {
    let gate = Arc::new(DmaGate::closed());
    let segment = Arc::new(segment().with_gate(gate.clone()));
    let name = bdf(2, 0, 2);
    let waiting = segment.clone();
    let writer = std::thread::spawn(move || waiting.ecam_write(ecam(name) + 4, &[0x06, 0x00]));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!writer.is_finished());
    assert_eq!(id(&segment, name), 0x0002_0002);
    // A port does no DMA of its own.
    segment.ecam_write(ecam(bdf(0, 2, 0)) + 4, &[0x06, 0x00]);
    gate.open();
    writer.join().expect("it does not panic");
}
