use super::*;
use crate::pci::capability::{capabilities, extended_capabilities};
use crate::pci::{LinkSpeed, LinkWidth, Payload};

fn port() -> RootPort {
    RootPort::new(&config(), None)
}

fn config() -> RootPortConfig {
    RootPortConfig {
        primary: 0,
        secondary: 3,
        slot: 3,
        link: Link {
            negotiated: LinkWidth { speed: LinkSpeed::Gt8, lanes: 8 },
            capable: LinkWidth { speed: LinkSpeed::Gt16, lanes: 16 },
            payload_supported: Payload::from_code(2),
            payload: Payload::from_code(1),
        },
        windows: PortWindows {
            io: Some(0x3000..0x5000),
            memory: Some(0xc010_0000..0xc030_0000),
            prefetchable: Some(0x20_0000_0000..0x30_0000_0000),
        },
    }
}

fn read(port: &mut RootPort, offset: u16) -> u32 {
    let mut data = [0; 4];
    port.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

/// What Linux makes of the windows (`pci_read_bridge_bases`, drivers/pci/probe.c).
fn decoded(port: &mut RootPort) -> [Option<Range<u64>>; 3] {
    let [io, memory, prefetchable] = [0x1c, 0x20, 0x24].map(|offset| read(port, offset));
    let [upper_base, upper_limit] = [0x28, 0x2c].map(|offset| u64::from(read(port, offset)) << 32);
    let window = |base: u64, limit: u64, step: u64| (base <= limit).then(|| base..limit + step);
    let memory_part = |register: u32| u64::from(register & 0xfff0) << 16;
    [
        window(u64::from(io & 0xf0) << 8, u64::from(io >> 8 & 0xf0) << 8, 0x1000),
        window(memory_part(memory), memory_part(memory >> 16), 1 << 20),
        window(
            memory_part(prefetchable) | upper_base,
            memory_part(prefetchable >> 16) | upper_limit,
            1 << 20,
        ),
    ]
}

#[test]
fn starts_as_firmware_leaves_a_port() {
    let mut port = port();
    assert_eq!(read(&mut port, 0x00), 0x000c_1b36);
    assert_eq!(read(&mut port, 0x08), 0x0604_0000);
    assert_eq!(read(&mut port, 0x0c) >> 16, 1);
    assert_eq!(read(&mut port, 0x18), 0x0003_0300);
    assert_eq!(
        decoded(&mut port),
        [
            Some(0x3000..0x5000),
            Some(0xc010_0000..0xc030_0000),
            Some(0x20_0000_0000..0x30_0000_0000)
        ]
    );
    // 16-bit I/O and 64-bit prefetchable addresses.
    assert_eq!((read(&mut port, 0x1c) & 0x0f0f, read(&mut port, 0x24) & 0xf_000f), (0, 0x1_0001));
    assert_eq!(port.buses().get(), (3, 3));
}

/// At ones a guest's search for extended capabilities ends.
#[test]
fn there_is_nothing_behind_the_first_256_bytes() {
    let mut port = port();
    assert_eq!([0x100, 0x104, 0xffc].map(|offset| read(&mut port, offset)), [!0; 3]);
    port.config_write(0x100, &[0; 4]);
    assert_eq!(read(&mut port, 0x100), !0);
    assert_ne!(read(&mut port, 0xfc), !0);
}

#[test]
fn closed_windows_are_implemented() {
    let (link, windows) = (port_link(), PortWindows::default());
    let closed = RootPortConfig { primary: 0, secondary: 1, slot: 1, link, windows };
    let mut port = RootPort::new(&closed, None);
    assert_eq!(decoded(&mut port), [None, None, None]);
    // Linux takes zero for a window that is not there, and tries to write it.
    assert!([0x1c, 0x24].map(|offset| read(&mut port, offset) & 0xffff).iter().all(|r| *r != 0));
}

fn port_link() -> Link {
    let width = LinkWidth { speed: LinkSpeed::Gt2_5, lanes: 1 };
    let payload = Payload::default();
    Link { negotiated: width, capable: width, payload_supported: payload, payload }
}

#[test]
fn windows_and_bus_numbers_are_the_guests() {
    let mut port = port();
    for offset in (0x10..0x40).step_by(4) {
        port.config_write(offset, &[0xff; 4]);
    }
    let seen: Vec<u32> = (0x10..0x40).step_by(4).map(|offset| read(&mut port, offset)).collect();
    let expected =
        [0, 0, 0x00ff_ffff, 0xf0f0, 0xfff0_fff0, 0xfff1_fff1, !0, !0, 0, 0x40, 0, 0x005f_00ff];
    assert_eq!(seen, expected);
    assert_eq!(port.buses().get(), (0xff, 0xff));
    port.config_write(0x1c, &[0x10, 0x20]);
    assert_eq!(read(&mut port, 0x1c) & 0xffff, 0x2010);
}

#[test]
fn capabilities_say_what_the_host_has() {
    let mut port = port();
    let mut config = vec![0; EXTENDED_CONFIG_SIZE];
    port.config_read(0, &mut config);
    let ids: Vec<u8> = capabilities(&config).iter().map(|c| c.id).collect();
    assert_eq!(ids, [CAP_EXPRESS, CAP_POWER, CAP_MSI]);
    assert!(extended_capabilities(&config).is_empty());
    // Version 2, root port, slot.
    assert_eq!(read(&mut port, 0x40) >> 16, 0x0142);
    // 512 bytes supported, 256 set.
    assert_eq!((read(&mut port, 0x44) & 7, read(&mut port, 0x48) >> 5 & 7), (2, 1));
    // x16 at 16 GT/s, port 3; trained to x8 at 8 GT/s, active.
    assert_eq!(read(&mut port, 0x4c), 0x0350_0104);
    assert_eq!(read(&mut port, 0x50) >> 16, 0x3083);
    // Slot 3, not hot-pluggable, presence detected.
    assert_eq!(read(&mut port, 0x54), 3 << 19 | 1 << 18);
    assert_eq!(read(&mut port, 0x58) >> 16, 0x40);
    assert_eq!(read(&mut port, 0x6c), 0b11110);
}

#[test]
fn only_d0_and_d3_are_taken() {
    let mut port = port();
    for (written, state) in [(3, 3), (1, 3), (0, 0), (2, 0)] {
        port.config_write(0x80, &[written, 0]);
        assert_eq!(read(&mut port, 0x80) & 3, state);
    }
}

#[test]
fn device_control_starts_with_the_devices_payload_and_is_the_guests_but_for_the_reset() {
    let mut port = port();
    // Relaxed ordering, payload of 256 bytes, no-snoop, read requests of 512 bytes.
    assert_eq!(read(&mut port, EXPRESS + 0x08) & 0xffff, 0x2830);
    port.config_write(EXPRESS + 0x08, &[0xff; 2]);
    assert_eq!(read(&mut port, EXPRESS + 0x08) & 0xffff, 0x78ff);
}
