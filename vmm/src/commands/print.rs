//! How commands print: as JSON for programs or as text for people.

use std::fmt;
use std::io::{self, Write};

use berth::error::Error;
use berth::exit::Outcome;
use berth::units::{Failure, visible_but_for};
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

/// What berth itself colours its texts with: reset, bold, dimmed, red, green, yellow, cyan.
const STYLES: [&str; 7] =
    ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"];

/// To standard output, in colour on a terminal.
pub fn write(text: &str) -> Result<Outcome, Error> {
    let text = visible_but_for(text, &STYLES);
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        // A reader such as `head` that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Done),
        result => result.map(|()| Outcome::Done).map_err(Error::Output),
    }
}
