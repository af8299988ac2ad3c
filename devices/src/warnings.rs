//! Warnings that a guest can cause, limited so that it cannot fill the operator's log.

use std::fmt;

/// How many one function may cause.
const LIMIT: u32 = 16;

/// A speaker that falls silent.
#[derive(Debug)]
pub struct Warnings {
    subject: String,
    left: u32,
}

impl Warnings {
    /// Each warning starts with its subject.
    pub fn about(subject: impl fmt::Display) -> Self {
        Self { subject: subject.to_string(), left: LIMIT }
    }

    /// Says it, or not any more.
    pub fn say(&mut self, message: fmt::Arguments<'_>) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        let last = if left == 0 { " (further warnings are not shown)" } else { "" };
        log::warn!("{}: {message}{last}", self.subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_silent() {
        let mut warnings = Warnings::about("0000:00:01.0");
        (0..100).for_each(|n| warnings.say(format_args!("{n}")));
        assert_eq!(warnings.left, 0);
    }
}
