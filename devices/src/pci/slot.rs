//! The hot-plug half of a root port: the slot's registers, and the interrupt with which the port
//! calls the guest's driver.
//!
//! ```text
//! the host wants the device back -> attention button pressed, interrupt -> the guest's driver
//! waits 5 s for a second press, removes the device, powers the slot off -> the device is given
//! back, the slot is empty
//! ```
//!
//! Commands take effect at once, which "no command completed support" says: a guest then waits
//! for none of them. There is no surprise removal, since a device never goes before the guest has
//! let go of it. Section numbers are those of PCI Express Base 6.0.

use vmm_sys_util::eventfd::EventFd;

use super::ConfigSpace;
use crate::irq::{MsiMessage, MsiRoute};
use crate::warnings::Warnings;

/// Slot capabilities (section 7.5.3.9), in the PCI Express capability.
pub const CAPABILITIES: u16 = 0x14;
/// Slot control (section 7.5.3.10).
pub const CONTROL: u16 = 0x18;
/// Slot status (section 7.5.3.11).
pub const STATUS: u16 = 0x1a;

/// Capabilities: neither hot-plug nor anything to control, so no commands that complete.
pub const NO_COMMAND_COMPLETED: u32 = 1 << 18;
/// Capabilities: attention button, power controller, power indicator, hot-plug.
const HOT_PLUG: u32 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 6;

/// Control: interrupts.
const INTERRUPT_ENABLE: u16 = 1 << 5;
/// Control: power indicator on, as it is while the slot is.
const INDICATOR_ON: u16 = 1 << 8;
/// Control: the slot is switched off.
const POWER_OFF: u16 = 1 << 10;
/// Control: interrupts when the data link layer changes.
const LINK_ENABLE: u16 = 1 << 12;
/// Control: enables of events, attention indicator, power indicator, power, interlock.
const CONTROL_WRITABLE: u16 = 0x1fff;

/// Status: the attention button was pressed.
const ATTENTION: u16 = 1 << 0;
/// Status: presence has changed.
const PRESENCE_CHANGED: u16 = 1 << 3;
/// Status: a device is in the slot.
pub const PRESENCE: u16 = 1 << 6;
/// Status: the data link layer has changed.
const LINK_CHANGED: u16 = 1 << 8;
/// Events, whose bits a one clears.
const EVENTS: u16 = ATTENTION | PRESENCE_CHANGED | LINK_CHANGED;

/// How a pressed attention button was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// The guest's driver was interrupted.
    Heard,
    /// Nobody in the guest listens, at least not yet.
    Unheard,
    /// The slot is switched off already.
    SwitchedOff,
    /// There is no button: the function is on a root bus, or its slot is no hot-plug slot.
    NoButton,
}

/// What makes a slot a hot-plug slot, opened before the guest runs.
pub struct HotPlug {
    /// The port's one MSI vector.
    pub route: MsiRoute,
    /// Rung when the guest switches the slot off.
    pub switched_off: EventFd,
}

/// A slot of a port whose PCI Express capability starts at `express`.
pub struct PortSlot {
    express: u16,
    hot_plug: Option<HotPlug>,
    /// The condition for an interrupt holds: a message is sent each time it begins to (section
    /// 6.7.3.4).
    interrupting: bool,
}

impl PortSlot {
    /// An occupied slot that is switched on.
    pub fn new(
        config: &mut ConfigSpace,
        express: u16,
        number: u8,
        hot_plug: Option<HotPlug>,
    ) -> Self {
        let number = u32::from(number) << 19;
        let mut capabilities = NO_COMMAND_COMPLETED | number;
        if hot_plug.is_some() {
            capabilities |= HOT_PLUG;
            let writable = CONTROL_WRITABLE.to_le_bytes();
            config.emulate(express + CONTROL, &INDICATOR_ON.to_le_bytes(), &writable);
        }
        config.fix(express + CAPABILITIES, &capabilities.to_le_bytes());
        config.fix(express + STATUS, &PRESENCE.to_le_bytes());
        Self { express, hot_plug, interrupting: false }
    }

    /// The guest keeps the slot switched on.
    pub fn is_on(&self, config: &ConfigSpace) -> bool {
        config.half(self.express + CONTROL) & POWER_OFF == 0
    }

    /// A device is in it.
    pub fn is_occupied(&self, config: &ConfigSpace) -> bool {
        self.status(config) & PRESENCE != 0
    }

    fn status(&self, config: &ConfigSpace) -> u16 {
        config.half(self.express + STATUS)
    }

    fn set_status(&self, config: &mut ConfigSpace, status: u16) {
        config.set(self.express + STATUS, &status.to_le_bytes());
    }

    fn is_hot_plug(&self) -> bool {
        self.hot_plug.is_some()
    }

    /// Clears the events that a write of `data` at `offset` acknowledges.
    pub fn acknowledge(&self, config: &mut ConfigSpace, offset: u16, data: &[u8]) {
        let mut status = self.status(config).to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            let index = at.checked_sub(self.express + STATUS).map(usize::from);
            if let Some(index) = index.filter(|index| *index < 2) {
                status[index] &= !(byte & EVENTS.to_le_bytes()[index]);
            }
        }
        self.set_status(config, u16::from_le_bytes(status));
    }

    /// Notes that the link came or went.
    pub fn link_changed(&self, config: &mut ConfigSpace) {
        if self.is_hot_plug() {
            self.set_status(config, self.status(config) | LINK_CHANGED);
        }
    }

    /// Somebody presses the button.
    pub fn press_button(&mut self, config: &mut ConfigSpace) -> Attention {
        if !self.is_hot_plug() {
            return Attention::NoButton;
        }
        if !self.is_on(config) {
            return Attention::SwitchedOff;
        }
        let enabled = ATTENTION | INTERRUPT_ENABLE;
        if config.half(self.express + CONTROL) & enabled != enabled {
            // A driver that comes later would find an old event, and clears it unseen.
            return Attention::Unheard;
        }
        self.set_status(config, self.status(config) | ATTENTION);
        Attention::Heard
    }

    /// The device is gone.
    pub fn vacate(&self, config: &mut ConfigSpace) {
        self.set_status(config, self.status(config) & !PRESENCE | PRESENCE_CHANGED);
    }

    /// Tells whoever gives devices back that the guest has switched the slot off.
    pub fn ring(&self, warnings: &mut Warnings) {
        if let Some(hot_plug) = &self.hot_plug
            && let Err(error) = hot_plug.switched_off.write(1)
        {
            warnings.say(format_args!("nobody learns that the slot is off: {error}"));
        }
    }

    /// Interrupts when there is a new reason to. `message` is what the guest has programmed,
    /// while the port may send it.
    pub fn sync(
        &mut self,
        config: &ConfigSpace,
        message: Option<MsiMessage>,
        warnings: &mut Warnings,
    ) {
        let Some(HotPlug { route, .. }) = &mut self.hot_plug else { return };
        let programmed = match message {
            Some(message) => route.deliver(message),
            None => route.clear(),
        };
        if let Err(error) = programmed {
            warnings.say(format_args!("the slot's interrupt cannot be switched: {error}"));
        }
        let control = config.half(self.express + CONTROL);
        let status = config.half(self.express + STATUS);
        // All but one are enabled by the bit of control at their own place.
        let link_enabled = if control & LINK_ENABLE != 0 { LINK_CHANGED } else { 0 };
        let enabled = control & (ATTENTION | PRESENCE_CHANGED) | link_enabled;
        let reason = message.is_some() && control & INTERRUPT_ENABLE != 0 && status & enabled != 0;
        let before = std::mem::replace(&mut self.interrupting, reason);
        if reason
            && !before
            && let Err(error) = route.irqfd().write(1)
        {
            warnings.say(format_args!("the slot cannot interrupt: {error}"));
        }
    }
}
