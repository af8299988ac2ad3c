//! How a failure is told: what failed, each cause once, what to do about it.

use std::error::Error;
use std::io::{self, Write};

/// Writes an error with what caused it and the remedy.
///
/// # Errors
/// `out` takes no more.
pub fn write_failure(
    out: &mut impl Write,
    error: &dyn Error,
    remedy: Option<&str>,
) -> io::Result<()> {
    writeln!(out, "error: {error}")?;
    let mut cause = error.source();
    while let Some(error) = cause {
        writeln!(out, "  caused by: {error}")?;
        cause = error.source();
    }
    if let Some(remedy) = remedy {
        writeln!(out, "  help: {}", remedy.replace('\n', "\n        "))?;
    }
    Ok(())
}
