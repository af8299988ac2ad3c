//! `berth snapshot`: what berth reads of this host, as an archive.

use std::io::{self, IsTerminal, Write};

use berth::error::Error;
use berth::exit::Outcome;
use berth::host::{Root, Snapshot};

/// Writes the archive to standard output.
pub fn run() -> Result<Outcome, Error> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        return Err(Error::SnapshotToTerminal);
    }
    let snapshot = Snapshot::take(Root::live())?;
    snapshot.write(&mut out).and_then(|()| out.flush()).map_err(Error::Output)?;
    Ok(Outcome::Done)
}
