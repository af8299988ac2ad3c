//! A PCI Express root port: the bridge between a root bus and one slot.
//!
//! Guests look at the port above a device: for its link, for the payload it may use, for windows
//! that its BARs lie in. The port starts as firmware leaves one, with bus numbers and windows in
//! place, so that a guest which trusts firmware changes nothing.
//!
//! The windows are registers and no more. A BAR answers where its own register says: behind a
//! real bridge a closed window could only take that away, which no guest relies on.
//!
//! A bus reset, a disabled link and a slot that is switched off reach what is behind the port: its
//! functions are reset, and do not answer meanwhile. Nor do they while the port sleeps. Its MSI is
//! raised for hot-plug, on a slot that has it. There is no advanced error reporting: what a device
//! reports comes to the host's port, and the host's kernel has handled it when berth learns of it.
//!
//! Section numbers are those of PCI Express Base 6.0.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::config::ConfigSpace;
use super::regs::{
    CAP_EXPRESS, CAP_MSI, CAP_POWER, CAPABILITY_POINTER, COMMAND, COMMAND_MASTER, CONFIG_SIZE,
    EXTENDED, EXTENDED_CONFIG_SIZE, HEADER_TYPE, INTERRUPT_LINE, MSI_64_BIT, MSI_ADDRESS,
    MSI_CONTROL, MSI_ENABLE, MSI_ENABLED, POWER_CONTROL, POWER_NO_SOFT_RESET, POWER_STATE, STATUS,
    STATUS_CAPABILITY_LIST,
};
use super::root_bus::BusNumbers;
use super::slot::{Attention, HotPlug, PortSlot};
use super::{Link, LinkState};
use crate::irq::MsiMessage;
use crate::warnings::Warnings;

/// Red Hat's vendor ID and its generic root port, which any guest takes for a root port without
/// quirks (QEMU docs/specs/pci-ids.rst).
const IDENTITY: [u8; 4] = [0x36, 0x1b, 0x0c, 0x00];
/// Revision 0, interface 0 (no subtractive decode), subclass 4, class 6: PCI-to-PCI bridge.
const CLASS: [u8; 4] = [0, 0, 4, 6];
/// Header type 1.
const TYPE1: u8 = 1;

/// Type 1 header (section 7.5.1.3).
const PRIMARY_BUS: u16 = 0x18;
const SECONDARY_BUS: u16 = 0x19;
const IO_BASE: u16 = 0x1c;
const MEMORY_BASE: u16 = 0x20;
const PREFETCHABLE_BASE: u16 = 0x24;
const PREFETCHABLE_BASE_UPPER: u16 = 0x28;
const BRIDGE_CONTROL: u16 = 0x3e;
/// Bridge control: the bus behind is in reset.
const BUS_RESET: u16 = 1 << 6;

/// Capabilities. The list is short on purpose: kernels walk it a dozen times while they look for
/// capabilities that are not there, and each step is an exit or two.
const EXPRESS: u16 = 0x40;
const POWER: u16 = 0x7c;
const MSI: u16 = 0x84;

/// Link control (section 7.5.3.7).
const LINK_CONTROL: u16 = EXPRESS + 0x10;
/// Link control: no link.
const LINK_DISABLE: u16 = 1 << 4;
/// Link status (section 7.5.3.8).
const LINK_STATUS: u16 = EXPRESS + 0x12;
/// Link status: data link layer active.
const LINK_ACTIVE: u16 = 1 << 13;

/// What a root port is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPortConfig {
    /// Number of the root bus that it is on.
    pub primary: u8,
    /// Number of the bus behind it.
    pub secondary: u8,
    /// Number of its slot, which is also the number of its port; a machine has each once.
    pub slot: u8,
    /// The link to the device behind it.
    pub link: Link,
    /// What it forwards.
    pub windows: PortWindows,
}

/// Addresses that a port forwards to the bus behind it; `None` for a closed window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortWindows {
    /// I/O ports, in steps of 4 KiB.
    pub io: Option<Range<u64>>,
    /// Memory below 4 GiB, in steps of 1 MiB.
    pub memory: Option<Range<u64>>,
    /// Prefetchable memory anywhere, in steps of 1 MiB.
    pub prefetchable: Option<Range<u64>>,
}

/// A root port with one device behind it.
pub struct RootPort {
    config: ConfigSpace,
    buses: Arc<BusNumbers>,
    slot: PortSlot,
    link: LinkState,
    warnings: Warnings,
}

impl RootPort {
    /// A port as firmware leaves it, with a hot-plug slot if there is what one needs.
    #[must_use]
    pub fn new(port: &RootPortConfig, hot_plug: Option<HotPlug>) -> Self {
        let mut config = ConfigSpace::default();
        // No extended capabilities. A header of zeros would say so by the book (section 7.6.1), to a
        // guest that looks for one after the other there: more than thirty exits of a boot of Linux.
        // Ones say that nothing is there at all, as below a bridge that forwards 256 bytes only.
        config.fix(0, &[0; CONFIG_SIZE]);
        config.fix(EXTENDED, &[0xff; EXTENDED_CONFIG_SIZE - CONFIG_SIZE]);
        header(&mut config, port);
        windows(&mut config, &port.windows);
        express(&mut config, port);
        power(&mut config);
        msi(&mut config);
        let slot = PortSlot::new(&mut config, EXPRESS, port.slot, hot_plug);
        Self {
            config,
            buses: Arc::new(BusNumbers::new(port.secondary)),
            slot,
            link: LinkState::Up,
            warnings: Warnings::about(format_args!("the port of slot {}", port.slot)),
        }
    }

    /// The bus numbers behind it, which follow the guest's writes.
    #[must_use]
    pub fn buses(&self) -> Arc<BusNumbers> {
        self.buses.clone()
    }

    /// Reads configuration space. The access stays inside it.
    pub fn config_read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        self.config.read(offset, data);
    }

    /// Writes configuration space. Returns what the functions behind it have to follow.
    pub fn config_write(&mut self, offset: u16, data: &[u8]) -> Option<LinkState> {
        let power = self.config.half(POWER + POWER_CONTROL);
        let was_on = self.slot.is_on(&self.config);
        self.slot.acknowledge(&mut self.config, offset, data);
        self.config.write(offset, data);
        // A state that is not supported is not taken (section 7.5.2.2).
        if matches!(self.config.half(POWER + POWER_CONTROL) & POWER_STATE, 1 | 2) {
            self.config.write(POWER + POWER_CONTROL, &power.to_le_bytes());
        }
        let [secondary, subordinate] = self.config.half(SECONDARY_BUS).to_le_bytes();
        self.buses.set(secondary, subordinate);
        let changed = self.follow();
        if was_on && !self.slot.is_on(&self.config) {
            self.slot.ring(&mut self.warnings);
        }
        changed
    }

    /// Presses the slot's attention button.
    pub fn press_button(&mut self) -> Attention {
        let pressed = self.slot.press_button(&mut self.config);
        self.follow();
        pressed
    }

    /// Whether the guest keeps the slot switched on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.slot.is_on(&self.config)
    }

    /// The device is taken out of the slot, for good.
    pub fn vacate(&mut self) {
        self.slot.vacate(&mut self.config);
        self.follow();
    }

    /// Brings link and interrupt to what the registers say. Returns the link if it has changed.
    fn follow(&mut self) -> Option<LinkState> {
        let link = self.wanted_link();
        let changed = std::mem::replace(&mut self.link, link) != link;
        let status = self.config.half(LINK_STATUS);
        let active = if link == LinkState::Down { 0 } else { LINK_ACTIVE };
        if status & LINK_ACTIVE != active {
            self.config.set(LINK_STATUS, &(status & !LINK_ACTIVE | active).to_le_bytes());
            self.slot.link_changed(&mut self.config);
        }
        self.slot.sync(&self.config, self.message(), &mut self.warnings);
        changed.then_some(link)
    }

    fn wanted_link(&self) -> LinkState {
        let set = |register, bit| self.config.half(register) & bit != 0;
        if set(BRIDGE_CONTROL, BUS_RESET)
            || set(LINK_CONTROL, LINK_DISABLE)
            || !self.slot.is_on(&self.config)
            || !self.slot.is_occupied(&self.config)
        {
            LinkState::Down
        } else if set(POWER + POWER_CONTROL, POWER_STATE) {
            LinkState::Asleep
        } else {
            LinkState::Up
        }
    }

    /// The message of its vector, while it may send one.
    fn message(&self) -> Option<MsiMessage> {
        let enabled = self.config.half(MSI + MSI_CONTROL) & MSI_ENABLE != 0;
        let master = self.config.half(COMMAND) & COMMAND_MASTER != 0;
        let word = |register| u64::from(self.config.word(MSI + register));
        (enabled && master).then(|| MsiMessage {
            address: word(MSI_ADDRESS) | word(MSI_ADDRESS + 4) << 32,
            data: self.config.half(MSI + MSI_ADDRESS + 8).into(),
        })
    }
}

fn header(config: &mut ConfigSpace, port: &RootPortConfig) {
    /// I/O, memory, bus master, parity error response, SERR#, interrupt disable (section
    /// 7.5.1.1.3).
    const COMMAND_WRITABLE: u16 = 0x0547;
    /// Firmware leaves bridges on, so that what it set up below them works.
    const COMMAND_INITIAL: u16 = 0x0007;
    /// Parity error response, SERR#, ISA, VGA, VGA 16-bit, secondary bus reset (section
    /// 7.5.1.3.13).
    const BRIDGE_CONTROL_WRITABLE: u8 = 0x5f;

    config.fix(0, &IDENTITY);
    let (initial, writable) = (COMMAND_INITIAL.to_le_bytes(), COMMAND_WRITABLE.to_le_bytes());
    config.emulate(COMMAND, &initial, &writable);
    config.fix(STATUS, &STATUS_CAPABILITY_LIST.to_le_bytes());
    config.fix(8, &CLASS);
    config.fix(HEADER_TYPE, &[TYPE1]);
    config.emulate(PRIMARY_BUS, &[port.primary, port.secondary, port.secondary], &[0xff; 3]);
    config.fix(CAPABILITY_POINTER, &EXPRESS.to_le_bytes()[..1]);
    // No pin: MSI is all it has.
    config.emulate(INTERRUPT_LINE, &[0xff], &[0xff]);
    config.emulate(BRIDGE_CONTROL, &[0], &[BRIDGE_CONTROL_WRITABLE]);
}

/// Base and limit registers (sections 7.5.1.3.6 to 7.5.1.3.10). In a closed window the base is
/// above the limit.
fn windows(config: &mut ConfigSpace, windows: &PortWindows) {
    /// 64-bit addresses.
    const PREFETCHABLE_64: u16 = 1;

    let bounds = |window: &Option<Range<u64>>, closed: u64| match window {
        Some(window) => (window.start, window.end - 1),
        None => (closed, 0),
    };
    // I/O addresses of 16 bits, which is all that x86 has: the upper halves stay zero.
    let (base, limit) = bounds(&windows.io, 0xf000);
    config.emulate(
        IO_BASE,
        &[base, limit].map(|address| address.to_le_bytes()[1] & 0xf0),
        &[0xf0; 2],
    );

    let pair = |base: u64, limit: u64, kind: u16| {
        let [base, limit] = [base, limit].map(|address| {
            let [_, _, low, high, ..] = address.to_le_bytes();
            u16::from_le_bytes([low, high]) & 0xfff0 | kind
        });
        (u32::from(base) | u32::from(limit) << 16).to_le_bytes()
    };
    let writable = [0xf0, 0xff, 0xf0, 0xff];
    let (base, limit) = bounds(&windows.memory, 0xfff0_0000);
    config.emulate(MEMORY_BASE, &pair(base, limit, 0), &writable);
    let (base, limit) = bounds(&windows.prefetchable, 0xfff0_0000);
    config.emulate(PREFETCHABLE_BASE, &pair(base, limit, PREFETCHABLE_64), &writable);
    for (register, address) in
        [(PREFETCHABLE_BASE_UPPER, base), (PREFETCHABLE_BASE_UPPER + 4, limit)]
    {
        config.emulate(register, &((address >> 32) as u32).to_le_bytes(), &[0xff; 4]);
    }
}

/// The PCI Express capability (section 7.5.3) but for its slot registers.
fn express(config: &mut ConfigSpace, port: &RootPortConfig) {
    let Link { negotiated, capable, payload_supported, payload } = port.link;
    let link = |speed: u8, lanes: u8| u16::from(speed) | u16::from(lanes) << 4;

    // Version 2, root port, slot implemented.
    config.fix(EXPRESS, &[CAP_EXPRESS, POWER.to_le_bytes()[0]]);
    config.fix(EXPRESS + 0x02, &(2u16 | 4 << 4 | 1 << 8).to_le_bytes());
    // Device: role-based error reporting, which is required.
    let supported = u32::from(payload_supported.code()) | 1 << 15;
    config.fix(EXPRESS + 0x04, &supported.to_le_bytes());
    // Relaxed ordering and no-snoop enabled as at reset, read requests of up to 512 bytes. The
    // payload is the device's: kernels set both ends to the same, and then need not.
    let control = u16::from(payload.code()) << 5 | 1 << 4 | 1 << 11 | 2 << 12;
    config.emulate(EXPRESS + 0x08, &control.to_le_bytes(), &0x78ffu16.to_le_bytes());
    // Link: reports data link layer activity, ASPM optionality compliance; no ASPM.
    let capabilities = u32::from(link(capable.speed.code(), capable.lanes))
        | 1 << 20
        | 1 << 22
        | u32::from(port.slot) << 24;
    config.fix(EXPRESS + 0x0c, &capabilities.to_le_bytes());
    // ASPM, link disable, common clock, extended synch; retrain always reads zero.
    config.emulate(LINK_CONTROL, &[0; 2], &[0xd3, 0]);
    // Slot clock; data link layer active.
    let status = link(negotiated.speed.code(), negotiated.lanes) | 1 << 12 | LINK_ACTIVE;
    config.fix(LINK_STATUS, &status.to_le_bytes());
    // Root: system errors and PME interrupt; no software visibility of configuration retries,
    // since the host's kernel waits for the device.
    config.emulate(EXPRESS + 0x1c, &[0], &[0x0f]);
    // Completion timeout: can be disabled, as is required.
    config.fix(EXPRESS + 0x24, &(1u32 << 4).to_le_bytes());
    config.emulate(EXPRESS + 0x28, &[0], &[1 << 4]);
    // Link 2: slower speeds too; the target is the highest.
    config.fix(EXPRESS + 0x2c, &(u32::from(capable.speed.vector()) << 1).to_le_bytes());
    config.emulate(EXPRESS + 0x30, &[capable.speed.code()], &[0x0f]);
}

/// Power management (section 7.5.2), which every function has: version 3, D0 and D3 only, no PME.
fn power(config: &mut ConfigSpace) {
    config.fix(POWER, &[CAP_POWER, MSI.to_le_bytes()[0], 3, 0]);
    let writable = POWER_STATE.to_le_bytes();
    config.emulate(POWER + POWER_CONTROL, &POWER_NO_SOFT_RESET.to_le_bytes(), &writable);
}

/// MSI with a 64-bit address and one vector (section 7.7.1): port drivers bind only where their
/// services have an interrupt. Multiple message enable takes any value; only one vector is there.
fn msi(config: &mut ConfigSpace) {
    config.fix(MSI, &[CAP_MSI, 0]);
    let writable = (MSI_ENABLE | MSI_ENABLED).to_le_bytes();
    config.emulate(MSI + MSI_CONTROL, &MSI_64_BIT.to_le_bytes(), &writable);
    config.emulate(
        MSI + MSI_ADDRESS,
        &[0; 10],
        &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    );
}

#[cfg(test)]
mod tests;
