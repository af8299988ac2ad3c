//! An assigned function on the guest's PCI bus.

use std::io;

use vmm_sys_util::eventfd::EventFd;

use crate::eventfd;

use super::backend::{IrqKind, Region, VfioPort};
use super::bars::FunctionBars;
use super::config_space::FunctionConfig;
use super::interrupts::Interrupts;
use super::reset::{DeviceState, FlrBit, FunctionReset, ResetMethod};
use super::rom::Rom;
use super::wiring::{FunctionError, FunctionSite, Wiring};
use crate::pci::regs::{COMMAND, COMMAND_MEMORY, INTERRUPT_PIN, POWER_CONTROL, POWER_STATE};
use crate::pci::{
    Bar, BarDecode, BarSpec, ConfigSpace, Freed, LinkState, PciFunction, ResetBuses, ResetCause,
};
use crate::warnings::Warnings;

/// Eventfds with which the host's kernel speaks of the device.
#[derive(Debug, Default)]
pub struct Notifications {
    /// An uncorrectable error.
    pub error: Option<EventFd>,
    /// The host wants the device back.
    pub request: Option<EventFd>,
}

/// An assigned function: the device behind a virtual configuration space.
pub struct VfioFunction {
    config: ConfigSpace,
    power: Option<u16>,
    flr: Vec<FlrBit>,
    /// Before `device`, whose memory they map.
    bars: FunctionBars,
    interrupts: Interrupts,
    rom: Rom,
    device: Box<dyn VfioPort>,
    /// Spaces that the device answers in, from its command register.
    command: u16,
    /// The device is in D0; in any other power state its BARs do not answer.
    awake: bool,
    /// Nothing reaches the device unless its link is up.
    link: LinkState,
    reset: FunctionReset,
    /// Nobody used the device since it was reset.
    clean: bool,
    /// A reset of it has failed.
    has_failed: bool,
    warnings: Warnings,
    /// Of resets that the guest causes.
    reset_warnings: Warnings,
}

impl VfioFunction {
    /// Puts an opened device, which has been reset, onto the bus. `slots` are memory slots that
    /// nobody else uses; one is taken per directly mapped part of a BAR.
    ///
    /// # Errors
    /// The plan and the host disagree over a BAR, it cannot be mapped, its interrupts cannot be
    /// prepared, or the device does not answer. An interrupt pin that cannot be had is no error.
    pub fn new(
        device: Box<dyn VfioPort>,
        place: &FunctionSite,
        slots: &mut impl Iterator<Item = u32>,
        wiring: Wiring,
    ) -> Result<Self, FunctionError> {
        let profile = device.profile();
        for BarSpec { bar, size: planned, .. } in &place.bars {
            let (bar, planned) = (bar.index(), *planned);
            let found = profile.bars[bar].size;
            if found != planned {
                return Err(FunctionError::BarSize { bar, found, planned });
            }
        }
        let config = FunctionConfig::new(profile, place);
        let specs = place.bars.iter().copied().chain(config.rom);
        let bars =
            FunctionBars::new(&*device, place.bdf, specs, config.msix.as_ref(), slots, &wiring)?;
        let interrupts = Interrupts::new(&config, place, &wiring).map_err(FunctionError::Irq)?;
        let mut function = Self {
            config: config.space,
            power: config.power,
            flr: config.flr,
            bars,
            interrupts,
            rom: Rom::default(),
            device,
            command: 0,
            awake: true,
            link: LinkState::Up,
            reset: place.reset,
            clean: false,
            has_failed: false,
            warnings: Warnings::about(place.bdf),
            reset_warnings: Warnings::about(place.reset.host),
        };
        function.refresh().map_err(FunctionError::Access)?;
        function.connect_pin();
        Ok(function)
    }

    /// Enables INTx, which is how a function interrupts until its driver wants otherwise. A
    /// device whose line on the host cannot be had is none the less of use with MSI, so that the
    /// guest is shown no pin then.
    fn connect_pin(&mut self) {
        if let Err(error) = self.interrupts.sync(&self.config, &*self.device) {
            self.warnings.say(format_args!("the guest finds no interrupt pin: {error}"));
            self.interrupts.forget_intx();
            self.config.fix(INTERRUPT_PIN, &[0]);
        }
    }

    /// Asks the host's kernel to speak up when the device fails or is wanted back.
    ///
    /// # Errors
    /// An eventfd cannot be made, or VFIO does not take it.
    pub fn notifications(&self) -> io::Result<Notifications> {
        let bind = |kind, present: bool| {
            let bound = || {
                let fd = eventfd()?;
                self.device.set_irqs(kind, 0, &[Some(&fd)])?;
                Ok::<_, io::Error>(fd)
            };
            present.then(bound).transpose()
        };
        let profile = self.device.profile();
        Ok(Notifications {
            error: bind(IrqKind::Error, profile.has_error_irq)?,
            request: bind(IrqKind::Request, profile.has_request_irq)?,
        })
    }

    /// Where each BAR should answer, from the registers.
    fn decode(&self) -> BarDecode {
        let answers = self.awake && self.link == LinkState::Up;
        self.bars.decode(&self.config, if answers { self.command } else { 0 })
    }

    /// How much of an access to a BAR the device takes; what runs past its end meets nothing.
    fn inside(&self, bar: Bar, offset: u64, length: usize) -> usize {
        let room = self.device.profile().bars[bar.index()].size.saturating_sub(offset);
        usize::try_from(room).map_or(length, |room| room.min(length))
    }

    /// Reads from the device what decides over its BARs.
    fn refresh(&mut self) -> io::Result<()> {
        let half = |offset: u16| {
            let mut data = [0; 2];
            self.device.read(Region::Config, offset.into(), &mut data)?;
            Ok::<_, io::Error>(u16::from_le_bytes(data))
        };
        let command = half(COMMAND)?;
        let awake = match self.power {
            Some(power) => half(power + POWER_CONTROL)? & POWER_STATE == 0,
            None => true,
        };
        (self.command, self.awake) = (command, awake);
        Ok(())
    }

    /// Takes away at once what a write is about to switch off: a BAR whose device no longer
    /// answers must not be mapped, or a guest access would fail KVM_RUN (the host's fault
    /// handler for the BAR raises SIGBUS then). What a write switches on follows after it.
    fn before_write(&mut self, offset: u16, data: &[u8]) -> Freed {
        let written = |register: u16, old: u16| merge(old, register, offset, data);
        self.command &= written(COMMAND, self.command);
        if let Some(power) = self.power {
            self.awake &= written(power + POWER_CONTROL, 0) & POWER_STATE == 0;
        }
        self.sync()
    }

    /// Takes everything away from the guest that a reset takes: BARs, interrupts, and what it has
    /// written to emulated registers. The device may do no DMA any more. A reset by the kernel
    /// then restores the command register as it is found here, switched off.
    fn silence(&mut self) -> Freed {
        self.command = 0;
        let freed = self.sync();
        if let Err(error) = self.interrupts.disable(&*self.device) {
            self.warnings.say(format_args!("its interrupts cannot be switched off: {error}"));
        }
        self.clear_command();
        self.config.clear_writable();
        self.interrupts.forget();
        freed
    }

    /// Takes bus mastering from the device, and all spaces in which the guest does not reach it.
    fn clear_command(&mut self) {
        // What the guest reaches still must answer.
        let stuck = self.bars.is_stuck(&BarDecode::default());
        let command = if stuck { COMMAND_MEMORY } else { 0 };
        if let Err(error) =
            self.device.write(Region::Config, COMMAND.into(), &command.to_le_bytes())
        {
            self.warnings.say(format_args!("its command register cannot be cleared: {error}"));
        }
    }

    /// After a write or a reset: where BARs and interrupts should be by now.
    fn follow(&mut self) -> Freed {
        if let Err(error) = self.refresh() {
            self.warnings.say(format_args!("its command register cannot be read: {error}"));
        }
        if let Err(error) = self.interrupts.sync(&self.config, &*self.device) {
            self.warnings.say(format_args!("its interrupts cannot be switched: {error}"));
        }
        self.sync()
    }

    /// The guest has the function reset itself. The host's kernel does it when it sees the bit,
    /// and keeps the registers over it, which a function does not; what is kept here goes.
    fn reset_itself(&mut self, offset: u16, data: &[u8]) -> Freed {
        let freed = self.silence();
        if let Err(error) = self.device.write(Region::Config, offset.into(), data) {
            self.warnings.say(format_args!("it cannot reset itself: {error}"));
        }
        freed | self.follow()
    }
}

/// `old`, a 16-bit register at `register`, with the bytes of a write at `offset` over it.
fn merge(old: u16, register: u16, offset: u16, data: &[u8]) -> u16 {
    let mut bytes = old.to_le_bytes();
    for (at, byte) in (offset..).zip(data) {
        if let Some(target) = at.checked_sub(register).and_then(|i| bytes.get_mut(usize::from(i))) {
            *target = *byte;
        }
    }
    u16::from_le_bytes(bytes)
}

impl PciFunction for VfioFunction {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if self.link != LinkState::Up {
            return data.fill(0xff);
        }
        if !self.config.is_emulated(offset, data.len())
            && let Err(error) = self.device.read(Region::Config, offset.into(), data)
        {
            data.fill(0xff);
            self.warnings
                .say(format_args!("configuration space at {offset:#x} cannot be read: {error}"));
        }
        self.interrupts.show_pending(&mut self.config, offset, data.len());
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) -> Freed {
        if self.link != LinkState::Up {
            return Freed::Nothing;
        }
        if self.flr.iter().any(|bit| bit.is_set_by(offset, data)) {
            return self.reset_itself(offset, data);
        }
        self.config.write(offset, data);
        let mut freed = Freed::Nothing;
        if !self.config.is_emulated(offset, data.len()) {
            let was_awake = self.awake;
            freed = self.before_write(offset, data);
            let forwarded = if self.bars.is_stuck(&self.decode()) {
                Err(io::Error::other("a BAR cannot be taken from the guest"))
            } else {
                self.device.write(Region::Config, offset.into(), data)
            };
            // Not only command and power state move BARs: so can what the device does by itself.
            if let Err(error) = forwarded.and(self.refresh()) {
                self.warnings.say(format_args!(
                    "configuration space at {offset:#x} cannot be written: {error}"
                ));
            }
            if self.awake && !was_awake {
                self.interrupts.retry();
            }
        }
        if let Err(error) = self.interrupts.sync(&self.config, &*self.device) {
            self.warnings.say(format_args!("its interrupts cannot be switched: {error}"));
        }
        freed | self.sync()
    }

    fn bar_read(&mut self, bar: Bar, offset: u64, data: &mut [u8]) {
        if self.link != LinkState::Up {
            return data.fill(0xff);
        }
        if self.interrupts.bar_read(bar, offset, data) {
            return;
        }
        data.fill(0xff);
        let length = self.inside(bar, offset, data.len());
        let data = &mut data[..length];
        let read = match bar {
            Bar::ROM => self.rom.read(offset, data, &*self.device),
            _ => self.device.read(Region::Bar(bar), offset, data),
        };
        if let Err(error) = read {
            data.fill(0xff);
            self.warnings
                .say(format_args!("BAR {} at {offset:#x} cannot be read: {error}", bar.index()));
        }
    }

    fn bar_write(&mut self, bar: Bar, offset: u64, data: &[u8]) {
        if self.link != LinkState::Up {
            return;
        }
        let data = &data[..self.inside(bar, offset, data.len())];
        let written = match self.interrupts.bar_write(bar, offset, data, &*self.device) {
            Some(written) => written,
            None if bar == Bar::ROM => Ok(()),
            None => self.device.write(Region::Bar(bar), offset, data),
        };
        if let Err(error) = written {
            self.warnings
                .say(format_args!("BAR {} at {offset:#x} cannot be written: {error}", bar.index()));
        }
    }

    fn sync(&mut self) -> Freed {
        let wanted = self.decode();
        self.bars.sync(&wanted, &mut self.warnings)
    }

    fn set_link(&mut self, link: LinkState) -> Freed {
        let was = std::mem::replace(&mut self.link, link);
        match link {
            LinkState::Up => {
                self.clean = false;
                self.follow()
            }
            LinkState::Asleep => self.sync(),
            // What it was silenced for is over, or not yet.
            LinkState::Down if was == LinkState::Down => Freed::Nothing,
            LinkState::Down => self.silence(),
        }
    }

    fn reset(&mut self, cause: ResetCause, done: &mut ResetBuses) {
        if self.clean {
            return;
        }
        // What the guest has used up of its warnings is not missing at the end.
        let mut last_words = Warnings::about(self.reset.host);
        let warnings = match cause {
            ResetCause::Port => &mut self.reset_warnings,
            ResetCause::Start | ResetCause::End => &mut last_words,
        };
        let (device, has_failed) = (&*self.device, self.has_failed);
        let state = match cause {
            ResetCause::End => self.reset.run_at_end(device, has_failed, warnings, done),
            ResetCause::Start | ResetCause::Port => self.reset.run(device, cause, warnings, done),
        };
        // A reset that failed is tried again: at the next one, at the end, and on drop.
        self.clean = state != DeviceState::Unknown;
        self.has_failed |= !self.clean;
        // It is off whatever half a reset has left of it.
        if state == DeviceState::Unknown {
            self.clear_command();
        }
    }
}

impl Drop for VfioFunction {
    /// Gives the device back. It was reset before, unless something went wrong; then that is tried
    /// again, and closing the device does what can be done, as when berth is killed.
    fn drop(&mut self) {
        if self.clean {
            return;
        }
        // Who takes a function out of the segment syncs the others.
        let _: Freed = self.set_link(LinkState::Down);
        // The others of its bus may be closed by now, or still at work.
        if self.reset.alone == ResetMethod::None {
            return;
        }
        let alone = FunctionReset { method: self.reset.alone, ..self.reset };
        let warnings = &mut Warnings::about(self.reset.host);
        let done = &mut ResetBuses::default();
        alone.run_at_end(&*self.device, self.has_failed, warnings, done);
    }
}

#[cfg(test)]
mod tests;
