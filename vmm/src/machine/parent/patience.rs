//! How long a machine that was asked to end is waited for: decisions only.

use std::time::{Duration, Instant};

/// What the machine's own process gets for its end beyond its guest's time: a device's reset at its
/// close alone may take seconds, and so may the release of much memory.
const GRACE: Duration = Duration::from_secs(30);

/// A machine ends by itself in its guest's time. One that a bug or a hostile guest keeps from
/// serving signals is killed after that, so that what asks for an end gets one.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    shutdown_timeout: Duration,
    deadline: Option<Instant>,
    over: bool,
}

impl Patience {
    /// The guest has `shutdown_timeout` from the first signal.
    pub fn new(shutdown_timeout: Duration) -> Self {
        Self { shutdown_timeout, deadline: None, over: false }
    }

    /// A signal asks for an end. A second one does not wait for the guest.
    pub fn asked(&mut self, now: Instant) {
        let time = match self.deadline {
            None => self.shutdown_timeout + GRACE,
            Some(_) => GRACE,
        };
        let deadline = now + time;
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
    }

    /// Time until it is over; `None` when nothing was asked for, or what follows has been done.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let deadline = self.deadline.filter(|_| !self.over)?;
        Some(deadline.saturating_duration_since(now))
    }

    /// Whether it is over now; says so once.
    pub fn ends(&mut self, now: Instant) -> bool {
        let ends = self.left(now).is_some_and(|left| left.is_zero());
        self.over |= ends;
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nobody_is_killed_unasked() {
        let mut patience = Patience::new(SECOND);
        let now = Instant::now();
        assert_eq!(patience.left(now + 1000 * GRACE), None);
        assert!(!patience.ends(now + 1000 * GRACE));
    }

    #[test]
    fn the_guest_has_its_time_and_the_machine_its_own() {
        let mut patience = Patience::new(10 * SECOND);
        let now = Instant::now();
        patience.asked(now);
        let deadline = now + 10 * SECOND + GRACE;
        assert_eq!(patience.left(now), Some(10 * SECOND + GRACE));
        assert!(!patience.ends(deadline - SECOND));
        assert!(patience.ends(deadline));
        // Once: nothing is left to be done but to wait.
        assert!(!patience.ends(deadline + SECOND));
        assert_eq!(patience.left(deadline), None);
    }

    #[test]
    fn a_second_signal_does_not_wait_for_the_guest_and_more_give_no_time() {
        let mut patience = Patience::new(600 * SECOND);
        let now = Instant::now();
        patience.asked(now);
        patience.asked(now + SECOND);
        assert_eq!(patience.left(now + SECOND), Some(GRACE));
        patience.asked(now + 20 * SECOND);
        assert_eq!(patience.left(now + 20 * SECOND), Some(GRACE - 19 * SECOND));
    }
}
