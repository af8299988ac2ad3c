//! What the host's kernel says of the assigned devices, and what follows by the config's policies.
//!
//! An error ends the machine, resets it or is only said. A device that the host wants back ends
//! the machine, or the guest is asked to let go of it: the attention button of its slot is
//! pressed. The kernel repeats its wish every ten seconds, so that a guest which does not listen
//! yet is asked again. One that has not let go in time loses the whole machine: the host's removal
//! waits for the device, and must not wait for ever.

use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use berth_devices::pci::{Attention, Bdf, GuestBdf, Segment};
use berth_devices::vfio::Notifications;
use vmm_sys_util::eventfd::EventFd;

use crate::config::{OnError, OnRemoval};
use crate::exit::Exit;

/// An assigned device.
pub struct Watched {
    /// Its address on the host.
    pub host: Bdf,
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
    pub fn sources(&self) -> Vec<(DeviceEvent, RawFd)> {
        let mut sources = vec![(DeviceEvent::SwitchedOff, self.switched_off.as_raw_fd())];
        for (index, Watched { notifications, .. }) in self.devices.iter().enumerate() {
            let Notifications { error, request } = notifications;
            sources.extend(error.iter().map(|fd| (DeviceEvent::Error(index), fd.as_raw_fd())));
            sources.extend(request.iter().map(|fd| (DeviceEvent::Request(index), fd.as_raw_fd())));
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

    /// What follows from an event. The machine ends, or goes on.
    pub fn handle(&mut self, event: DeviceEvent, segment: &Segment, now: Instant) -> Option<Exit> {
        match event {
            DeviceEvent::Error(index) => self.error(index),
            DeviceEvent::Request(index) => self.request(index, segment, now),
            DeviceEvent::SwitchedOff => {
                forget(Some(&self.switched_off));
                for index in 0..self.devices.len() {
                    if self.devices[index].asked.is_some() {
                        self.give_back(index, segment);
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
                Some(Exit::Reset)
            }
            OnError::Log => {
                log::warn!("{host}: {WHAT}; the guest goes on");
                None
            }
        }
    }

    fn request(&mut self, index: usize, segment: &Segment, now: Instant) -> Option<Exit> {
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
        let pressed = segment.press_button(guest);
        self.devices[index].asked = Some(Asked { deadline, heard: pressed == Attention::Heard });
        match pressed {
            Attention::Heard => {
                log::warn!("{host}: the host wants the device back; the guest is asked for it");
            }
            Attention::Unheard if before.is_none() => log::warn!(
                "{host}: the host wants the device back; nobody in the guest listens so far"
            ),
            Attention::Unheard => {}
            Attention::SwitchedOff => self.give_back(index, segment),
            Attention::NoButton => {
                log::error!("{host}: the host wants the device back, and it has no slot");
                return Some(Exit::DeviceLost);
            }
        }
        None
    }

    /// Gives back a device, and its siblings, if the guest has let go of it.
    fn give_back(&mut self, index: usize, segment: &Segment) {
        let guest = self.devices[index].guest;
        let functions = segment.take_out(guest);
        if functions.is_empty() {
            return;
        }
        // The eventfds go first: nothing is to be said of a device that is closed.
        for sibling in self.devices.iter_mut().filter(|other| other.guest.bus() == guest.bus()) {
            sibling.asked = None;
            sibling.notifications = Notifications::default();
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
mod tests {
    use std::sync::Arc;

    use berth_devices::pci::BarRoutes;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn segment() -> Segment {
        Segment::new([], [], vec![], Arc::new(BarRoutes::new(vec![])))
    }

    fn eventfd() -> EventFd {
        EventFd::new(EFD_NONBLOCK).expect("an eventfd")
    }

    fn watch(on_error: OnError, on_removal: OnRemoval) -> Watch {
        let device = Watched {
            host: "0000:41:00.0".parse().expect("an address"),
            guest: GuestBdf::new(1, 0, 0).expect("a device"),
            on_error,
            on_removal,
            notifications: Notifications { error: Some(eventfd()), request: Some(eventfd()) },
            asked: None,
        };
        let timeout = Duration::from_secs(30);
        Watch { devices: vec![device], switched_off: eventfd(), timeout }
    }

    fn signal(fd: &Option<EventFd>) {
        fd.as_ref().expect("it is there").write(1).expect("an eventfd takes a signal");
    }

    #[test]
    fn errors_follow_their_policy_and_are_seen_again() {
        for (policy, exit) in [
            (OnError::Stop, Some(Exit::DeviceLost)),
            (OnError::Reset, Some(Exit::Reset)),
            (OnError::Log, None),
        ] {
            let mut watch = watch(policy, OnRemoval::Stop);
            for _ in 0..2 {
                signal(&watch.devices[0].notifications.error);
                let happened = watch.handle(DeviceEvent::Error(0), &segment(), Instant::now());
                assert_eq!(happened, exit);
                let error = watch.devices[0].notifications.error.as_ref();
                assert!(error.expect("it is there").read().is_err(), "the signal is taken");
            }
        }
    }

    #[test]
    fn a_device_that_is_wanted_back_ends_the_machine() {
        // With nothing to unplug it from, too: the host must not wait for ever.
        for policy in [OnRemoval::Stop, OnRemoval::Unplug] {
            let mut watch = watch(OnError::Stop, policy);
            let happened = watch.handle(DeviceEvent::Request(0), &segment(), Instant::now());
            assert_eq!(happened, Some(Exit::DeviceLost), "{policy:?}");
        }
    }

    #[test]
    fn the_guest_has_its_time_and_no_more() {
        let mut watch = watch(OnError::Stop, OnRemoval::Unplug);
        let now = Instant::now();
        assert_eq!((watch.deadline(), watch.expire(now)), (None, None));
        let deadline = now + watch.timeout;
        for heard in [true, false] {
            watch.devices[0].asked = Some(Asked { deadline, heard });
            assert_eq!(watch.deadline(), Some(deadline));
            assert_eq!(watch.expire(deadline - Duration::from_millis(1)), None);
            assert_eq!(watch.expire(deadline), Some(Exit::DeviceLost));
        }
    }

    #[test]
    fn a_guest_that_has_heard_is_not_asked_again() {
        let mut watch = watch(OnError::Stop, OnRemoval::Unplug);
        let now = Instant::now();
        watch.devices[0].asked = Some(Asked { deadline: now, heard: true });
        // There is no button here: a press would end the machine.
        assert_eq!(watch.handle(DeviceEvent::Request(0), &segment(), now), None);
    }

    #[test]
    fn everything_is_waited_for_until_a_device_is_given_back() {
        let mut watch = watch(OnError::Stop, OnRemoval::Unplug);
        assert_eq!(watch.sources().len(), 3);
        watch.devices[0].notifications = Notifications::default();
        let events: Vec<_> = watch.sources().into_iter().map(|(event, _)| event).collect();
        assert_eq!(events, [DeviceEvent::SwitchedOff]);
    }
}
