//! Errors and requests of devices by their policies, against slots that answer as they are told.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;
use berth_devices::pci::HostBdf;

/// What happened to slots and devices, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    Pressed(GuestBdf),
    TookOut(GuestBdf),
    Unwatched(RawFd),
    Closed(GuestBdf),
}

type Log = Rc<RefCell<Vec<Did>>>;

/// Slots of which all have a button, and some are switched off.
struct FakeSlots {
    answer: Attention,
    off: BTreeSet<u8>,
    log: Log,
}

/// A device that says when it is closed.
struct FakeFunction(GuestBdf, Log);

impl Drop for FakeFunction {
    fn drop(&mut self) {
        self.1.borrow_mut().push(Did::Closed(self.0));
    }
}

impl Slots for FakeSlots {
    type Function = FakeFunction;

    fn press_button(&self, function: GuestBdf) -> Attention {
        self.log.borrow_mut().push(Did::Pressed(function));
        self.answer
    }

    fn take_out(&self, function: GuestBdf) -> Vec<FakeFunction> {
        if !self.off.contains(&function.bus()) {
            return Vec::new();
        }
        self.log.borrow_mut().push(Did::TookOut(function));
        vec![FakeFunction(function, self.log.clone())]
    }
}

fn slots(answer: Attention) -> FakeSlots {
    FakeSlots { answer, off: BTreeSet::new(), log: Log::default() }
}

/// `BUS:DEVICE.FUNCTION`, read as an address of the guest.
fn bdf(address: &str) -> GuestBdf {
    let host: HostBdf = address.parse().expect("an address");
    GuestBdf::new(host.bus(), host.device(), host.function()).expect("in range")
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).expect("an eventfd")
}

/// Devices at these addresses in the guest.
fn watch_at(guest: &[&str], on_error: OnError, on_removal: OnRemoval) -> Watch {
    let device = |guest: &&str| Watched {
        host: "0000:41:00.0".parse().expect("an address"),
        guest: bdf(guest),
        on_error,
        on_removal,
        notifications: Notifications { error: Some(eventfd()), request: Some(eventfd()) },
        asked: None,
    };
    Watch {
        devices: guest.iter().map(device).collect(),
        switched_off: eventfd(),
        timeout: Duration::from_secs(30),
    }
}

fn watch(on_error: OnError, on_removal: OnRemoval) -> Watch {
    watch_at(&["0000:01:00.0"], on_error, on_removal)
}

/// Lets `event` happen; what is unwatched goes into the slots' log.
fn happens(watch: &mut Watch, event: DeviceEvent, slots: &FakeSlots, now: Instant) -> Option<Exit> {
    let log = slots.log.clone();
    let mut unwatch = |fd: &EventFd| log.borrow_mut().push(Did::Unwatched(fd.as_raw_fd()));
    watch.handle(event, slots, now, &mut unwatch)
}

fn signal(fd: &Option<EventFd>) {
    fd.as_ref().expect("it is there").write(1).expect("an eventfd takes a signal");
}

#[test]
fn errors_follow_their_policy_and_are_seen_again() {
    for (policy, exit) in [
        (OnError::Stop, Some(Exit::DeviceLost)),
        (OnError::Reset, Some(Exit::ErrorReset)),
        (OnError::Log, None),
    ] {
        let mut watch = watch(policy, OnRemoval::Stop);
        let slots = slots(Attention::NoButton);
        for _ in 0..2 {
            signal(&watch.devices[0].notifications.error);
            let happened = happens(&mut watch, DeviceEvent::Error(0), &slots, Instant::now());
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
        let slots = slots(Attention::NoButton);
        let happened = happens(&mut watch, DeviceEvent::Request(0), &slots, Instant::now());
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

/// The kernel repeats its request every ten seconds, and the host must not wait for ever.
#[test]
fn asking_again_gives_the_guest_no_more_time() {
    let mut watch = watch(OnError::Stop, OnRemoval::Unplug);
    let (now, slots) = (Instant::now(), slots(Attention::Unheard));
    let deadline = now + watch.timeout;
    for seconds in [0, 10, 20] {
        let later = now + Duration::from_secs(seconds);
        assert_eq!(happens(&mut watch, DeviceEvent::Request(0), &slots, later), None);
        assert_eq!(watch.deadline(), Some(deadline), "after {seconds} s");
    }
    assert_eq!(slots.log.borrow().len(), 3, "a guest that does not listen is asked each time");
}

#[test]
fn a_guest_that_has_heard_is_not_asked_again() {
    // The second function of a card shares the button of the first.
    let guest = ["0000:01:00.0", "0000:01:00.1"];
    let mut watch = watch_at(&guest, OnError::Stop, OnRemoval::Unplug);
    let (now, slots) = (Instant::now(), slots(Attention::Heard));
    for index in [0, 0, 1] {
        assert_eq!(happens(&mut watch, DeviceEvent::Request(index), &slots, now), None);
    }
    assert_eq!(*slots.log.borrow(), [Did::Pressed(bdf(guest[0]))]);
    assert!(watch.devices.iter().all(|device| device.asked.is_some()));
}

#[test]
fn a_device_goes_when_the_guest_was_asked_for_it_and_has_let_go() {
    let guest = ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"];
    let mut watch = watch_at(&guest, OnError::Stop, OnRemoval::Unplug);
    let (now, mut slots) = (Instant::now(), slots(Attention::Heard));
    for index in [0, 1] {
        assert_eq!(happens(&mut watch, DeviceEvent::Request(index), &slots, now), None);
    }
    slots.log.borrow_mut().clear();
    let fds = [&watch.devices[0].notifications.error, &watch.devices[0].notifications.request];
    let fds = fds.map(|fd| fd.as_ref().expect("it is there").as_raw_fd());
    // The guest has not let go of the second. It has switched the third's slot off, for which
    // nobody has asked, and may switch it on again.
    slots.off = BTreeSet::from([1, 3]);
    assert_eq!(happens(&mut watch, DeviceEvent::SwitchedOff, &slots, now), None);
    let first = bdf(guest[0]);
    let unwatched = fds.map(Did::Unwatched);
    let order = [Did::TookOut(first), unwatched[0], unwatched[1], Did::Closed(first)];
    assert_eq!(*slots.log.borrow(), order, "nothing is to be said of a device that is closed");
    let asked = [false, true, false];
    assert_eq!(
        watch.devices.iter().map(|device| device.asked.is_some()).collect::<Vec<_>>(),
        asked
    );
}

#[test]
fn everything_is_waited_for_until_a_device_is_given_back() {
    let mut watch = watch(OnError::Stop, OnRemoval::Unplug);
    let (now, mut slots) = (Instant::now(), slots(Attention::SwitchedOff));
    let events = |watch: &Watch| -> Vec<DeviceEvent> {
        watch.sources().into_iter().map(|(event, _)| event).collect()
    };
    let all = [DeviceEvent::SwitchedOff, DeviceEvent::Error(0), DeviceEvent::Request(0)];
    assert_eq!(events(&watch), all);
    // Its slot is off already when the host wants it.
    slots.off.insert(1);
    assert_eq!(happens(&mut watch, DeviceEvent::Request(0), &slots, now), None);
    assert_eq!(events(&watch), [DeviceEvent::SwitchedOff]);
    assert_eq!((watch.deadline(), watch.expire(now + watch.timeout)), (None, None));
}
