//! How commands print: as JSON for programs or as text for people.

use std::fmt;
use std::io::{self, Write};

use berth::error::Error;
use berth::exit::Outcome;
use berth::units::Failure;
use serde::Serialize;

/// What a command prints as JSON, on standard output, in place of its result.
#[derive(Serialize)]
pub struct Refused {
    pub error: Failure,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error.message)
    }
}

/// As JSON or as text for people.
pub fn print<T: Serialize + ToString>(value: &T, json: bool) -> Result<Outcome, Error> {
    if json {
        let json = serde_json::to_string_pretty(value);
        return write(&(json.map_err(|error| Error::Output(error.into()))? + "\n"));
    }
    write(&value.to_string())
}

/// To standard output, in colour on a terminal.
pub fn write(text: &str) -> Result<Outcome, Error> {
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        // A reader such as `head` that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Done),
        result => result.map(|()| Outcome::Done).map_err(Error::Output),
    }
}
