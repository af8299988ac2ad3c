//! How a failure is told: what failed, each cause once, what to do about it.

use std::error::Error;
use std::io::{self, Write};

use serde::Serialize;

use super::visible;

/// What a command prints in place of its result. Serialized field names are for scripts; they
/// stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What failed, as scripts see it.
    pub code: &'static str,
    /// What failed.
    pub message: String,
    /// What caused it, the nearest cause first.
    pub causes: Vec<String>,
    /// What to do about it, step by step; commands stand in backticks.
    pub help: Vec<String>,
}

impl Failure {
    /// Of `error`, with all that caused it.
    pub fn new(code: &'static str, error: &dyn Error, help: Vec<String>) -> Self {
        let mut causes = Vec::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        Self { code, message: error.to_string(), causes, help }
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let shown = |text: &str| visible(text).replace('\n', "\n  ");
        writeln!(out, "error[{}]: {}", self.code, shown(&self.message))?;
        for cause in &self.causes {
            writeln!(out, "  caused by: {}", shown(cause))?;
        }
        for (index, step) in self.help.iter().enumerate() {
            let label = if index == 0 { "help: " } else { "      " };
            writeln!(out, "  {label}{}", visible(step).replace('\n', "\n        "))?;
        }
        Ok(())
    }
}
