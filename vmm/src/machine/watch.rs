//! What the host's kernel says of the assigned devices, and what follows by the config's policies.
//!
//! An error ends the machine, resets it or is only said. A device that the host wants back ends
//! the machine, or the guest is asked to let go of it: the attention button of its slot is
//! pressed. The kernel repeats its wish every ten seconds, so that a guest which does not listen
//! yet is asked again. One that has not let go in time loses the whole machine: the host's removal
//! waits for the device, and must not wait for ever.

use std::time::{Duration, Instant};

use berth_devices::pci::{Attention, GuestBdf, HostBdf, PciFunction, Segment};
use berth_devices::vfio::Notifications;
use vmm_sys_util::eventfd::EventFd;

use crate::config::{OnError, OnRemoval};
use crate::exit::Exit;

/// An assigned device.
pub struct Watched {
    /// Its address on the host.
    pub host: HostBdf,
    /// Its address in the guest.
    pub guest: GuestBdf,
    /// What follows when it reports an uncorrectable error.
    pub on_error: OnError,
    /// What follows when the host wants it back.
    pub on_removal: OnRemoval,
    /// What the host's kernel speaks through; empty when the device is given back.
    pub notifications: Notifications,
    /// The guest is asked to let go of it.
    pub asked: Option<Asked>,
}

/// A guest that is asked to let go of a device.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// When the machine ends.
    deadline: Instant,
    /// The guest's driver was there to hear it.
    heard: bool,
}

/// Something that happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The device of this index reports an error.
    Error(usize),
    /// The host wants the device of this index back.
    Request(usize),
    /// The guest has switched a slot off.
    SwitchedOff,
}

/// The guest's slots, as far as a device's way out of them needs.
pub trait Slots {
    /// What is taken out of a slot; the device is given back when it is dropped.
    type Function;

    /// Presses the attention button of the slot that `function` is in.
    fn press_button(&self, function: GuestBdf) -> Attention;

    /// Takes `function` and its siblings out of their slot, if the guest has switched it off and
    /// they are there still.
    fn take_out(&self, function: GuestBdf) -> Vec<Self::Function>;
}

impl Slots for Segment {
    type Function = Box<dyn PciFunction>;

    fn press_button(&self, function: GuestBdf) -> Attention {
        self.press_button(function)
    }

    fn take_out(&self, function: GuestBdf) -> Vec<Self::Function> {
        self.take_out(function)
    }
}

/// All assigned devices.
pub struct Watch {
    /// In the order of the plan.
    pub devices: Vec<Watched>,
    /// Rung by hot-plug slots that the guest switches off.
    pub switched_off: EventFd,
    /// How long the guest has to let go of a device.
    pub timeout: Duration,
}

impl Watch {
    /// What to wait for.
    pub fn sources(&self) -> Vec<(DeviceEvent, &EventFd)> {
        let mut sources = vec![(DeviceEvent::SwitchedOff, &self.switched_off)];
        for (index, Watched { notifications, .. }) in self.devices.iter().enumerate() {
            let Notifications { error, request } = notifications;
            sources.extend(error.iter().map(|fd| (DeviceEvent::Error(index), fd)));
            sources.extend(request.iter().map(|fd| (DeviceEvent::Request(index), fd)));
        }
        sources
    }

    /// When the first guest's time is up.
    pub fn deadline(&self) -> Option<Instant> {
        self.devices.iter().filter_map(|device| Some(device.asked?.deadline)).min()
    }

    /// What follows from time alone.
    pub fn expire(&self, now: Instant) -> Option<Exit> {
        let late = |device: &&Watched| device.asked.is_some_and(|asked| asked.deadline <= now);
        let Watched { host, asked, .. } = self.devices.iter().find(late)?;
        let seconds = self.timeout.as_secs();
        if asked.is_some_and(|asked| asked.heard) {
            log::error!("{host}: the guest has not let go of the device in {seconds} s");
        } else {
            log::error!("{host}: in {seconds} s nobody in the guest has listened");
        }
        Some(Exit::DeviceLost)
    }

    /// What follows from an event. The machine ends, or goes on. `unwatch` gets each eventfd that
    /// is waited for no longer, before it is closed.
    pub fn handle(
        &mut self,
        event: DeviceEvent,
        slots: &impl Slots,
        now: Instant,
        unwatch: &mut dyn FnMut(&EventFd),
    ) -> Option<Exit> {
        match event {
            DeviceEvent::Error(index) => self.error(index),
            DeviceEvent::Request(index) => self.request(index, slots, now, unwatch),
            DeviceEvent::SwitchedOff => {
                forget(Some(&self.switched_off));
                for index in 0..self.devices.len() {
                    if self.devices[index].asked.is_some() {
                        self.give_back(index, slots, unwatch);
                    }
                }
                None
            }
        }
    }

    fn error(&self, index: usize) -> Option<Exit> {
        const WHAT: &str = "the device reports an uncorrectable error";
        let Watched { host, on_error, notifications, .. } = &self.devices[index];
        forget(notifications.error.as_ref());
        match on_error {
            OnError::Stop => {
                log::error!("{host}: {WHAT}");
                Some(Exit::DeviceLost)
            }
            OnError::Reset => {
                log::error!("{host}: {WHAT}; the machine is reset");
                Some(Exit::ErrorReset)
            }
            OnError::Log => {
                log::warn!("{host}: {WHAT}; the guest goes on");
                None
            }
        }
    }

    fn request(
        &mut self,
        index: usize,
        slots: &impl Slots,
        now: Instant,
        unwatch: &mut dyn FnMut(&EventFd),
    ) -> Option<Exit> {
        let Watched { host, guest, on_removal, notifications, .. } = &self.devices[index];
        let (host, guest) = (*host, *guest);
        forget(notifications.request.as_ref());
        if *on_removal == OnRemoval::Stop {
            log::error!("{host}: the host wants the device back");
            return Some(Exit::DeviceLost);
        }
        // A second press within 5 s takes the first one back, and siblings share the button.
        let siblings = self.devices.iter().filter(|other| other.guest.bus() == guest.bus());
        let asked = siblings.filter_map(|sibling| sibling.asked).find(|asked| asked.heard);
        if asked.is_some() {
            self.devices[index].asked = asked;
            return None;
        }
        let before = self.devices[index].asked;
        let deadline = before.map_or(now + self.timeout, |asked| asked.deadline);
        let pressed = slots.press_button(guest);
        self.devices[index].asked = Some(Asked { deadline, heard: pressed == Attention::Heard });
        match pressed {
            Attention::Heard => {
                log::warn!("{host}: the host wants the device back; the guest is asked for it");
            }
            Attention::Unheard if before.is_none() => log::warn!(
                "{host}: the host wants the device back; nobody in the guest listens so far"
            ),
            Attention::Unheard => {}
            Attention::SwitchedOff => self.give_back(index, slots, unwatch),
            Attention::NoButton => {
                log::error!("{host}: the host wants the device back, and it has no slot");
                return Some(Exit::DeviceLost);
            }
        }
        None
    }

    /// Gives back a device, and its siblings, if the guest has let go of it.
    fn give_back(&mut self, index: usize, slots: &impl Slots, unwatch: &mut dyn FnMut(&EventFd)) {
        let guest = self.devices[index].guest;
        let functions = slots.take_out(guest);
        if functions.is_empty() {
            return;
        }
        // The eventfds go first: nothing is to be said of a device that is closed.
        for sibling in self.devices.iter_mut().filter(|other| other.guest.bus() == guest.bus()) {
            sibling.asked = None;
            let Notifications { error, request } = std::mem::take(&mut sibling.notifications);
            error.iter().chain(&request).for_each(&mut *unwatch);
            log::warn!(
                "{}: the guest has let go of the device; the host has it back",
                sibling.host
            );
        }
        drop(functions);
    }
}

/// Takes the signal away, so that the next one is seen.
fn forget(eventfd: Option<&EventFd>) {
    if let Some(eventfd) = eventfd {
        // Nothing to read means that it was taken already.
        let _ = eventfd.read();
    }
}

#[cfg(test)]
mod tests;
