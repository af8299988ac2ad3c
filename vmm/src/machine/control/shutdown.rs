//! How a machine that is asked to end does end: decisions only.

use std::time::{Duration, Instant};

use crate::exit::Exit;

/// What a subscriber asks the control thread for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The machine has ended, or has to end now.
    End(Exit),
    /// A signal asks for an end. Another one after it does not wait for the guest.
    Terminate,
    /// Somebody presses the guest's power button.
    PowerButton,
}

/// What the control thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The machine ends.
    End(Exit),
    /// The guest's power button is pressed.
    PressButton,
}

/// A guest's way from its power button to its end.
#[derive(Clone, Copy, Debug)]
pub struct Shutdown {
    timeout: Duration,
    deadline: Option<Instant>,
}

impl Shutdown {
    /// The guest has `timeout` from the first time that its button is pressed.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, deadline: None }
    }

    /// When the guest's time is up, once it runs.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What follows from time alone.
    pub fn expire(&self, now: Instant) -> Option<Exit> {
        self.deadline.is_some_and(|deadline| deadline <= now).then_some(Exit::Forced)
    }

    /// What follows from `request`.
    pub fn follow(&mut self, request: Request, now: Instant) -> Action {
        match (request, self.deadline) {
            (Request::End(exit), _) => Action::End(exit),
            (Request::Terminate, Some(_)) => Action::End(Exit::Killed),
            (Request::Terminate | Request::PowerButton, deadline) => {
                self.deadline = deadline.or(Some(now + self.timeout));
                Action::PressButton
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn a_signal_presses_the_button_and_gives_the_guest_its_time() {
        let (mut shutdown, now) = (Shutdown::new(TIMEOUT), Instant::now());
        assert_eq!((shutdown.deadline(), shutdown.expire(now + TIMEOUT)), (None, None));
        assert_eq!(shutdown.follow(Request::Terminate, now), Action::PressButton);
        assert_eq!(shutdown.deadline(), Some(now + TIMEOUT));
        assert_eq!(shutdown.expire(now + TIMEOUT - Duration::from_millis(1)), None);
        assert_eq!(shutdown.expire(now + TIMEOUT), Some(Exit::Forced));
    }

    #[test]
    fn a_second_signal_ends_at_once_whatever_pressed_the_button_first() {
        for first in [Request::Terminate, Request::PowerButton] {
            let (mut shutdown, now) = (Shutdown::new(TIMEOUT), Instant::now());
            assert_eq!(shutdown.follow(first, now), Action::PressButton);
            assert_eq!(shutdown.follow(Request::Terminate, now), Action::End(Exit::Killed));
        }
    }

    #[test]
    fn pressing_the_button_again_gives_no_more_time() {
        let (mut shutdown, now) = (Shutdown::new(TIMEOUT), Instant::now());
        shutdown.follow(Request::PowerButton, now);
        let later = now + Duration::from_secs(10);
        assert_eq!(shutdown.follow(Request::PowerButton, later), Action::PressButton);
        assert_eq!(shutdown.deadline(), Some(now + TIMEOUT));
    }

    #[test]
    fn an_end_is_an_end_at_any_time() {
        let (mut shutdown, now) = (Shutdown::new(TIMEOUT), Instant::now());
        for exit in [Exit::PowerOff, Exit::DeviceLost, Exit::Killed] {
            assert_eq!(shutdown.follow(Request::End(exit), now), Action::End(exit));
            shutdown.follow(Request::PowerButton, now);
        }
    }

    #[test]
    fn a_guest_without_time_is_ended_when_it_is_asked() {
        let (mut shutdown, now) = (Shutdown::new(Duration::ZERO), Instant::now());
        shutdown.follow(Request::Terminate, now);
        assert_eq!(shutdown.expire(now), Some(Exit::Forced));
    }
}
