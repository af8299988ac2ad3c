//! How commands print: as JSON for programs or as text for people.

use std::io::{self, Write};

use berth::error::Error;
use berth::exit::Outcome;
use serde::Serialize;

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
