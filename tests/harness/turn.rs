//! One test process at a time has lab hosts: two would emulate them at half the speed each.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::cache;

/// Waits until no other process has lab hosts; they are then ours until this process ends, and
/// with it the lock, however that happens.
pub fn take() -> Result<()> {
    static TAKEN: Mutex<Option<File>> = Mutex::new(None);

    let mut taken = TAKEN.lock().expect("no panic while held");
    if taken.is_none() {
        *taken = Some(wait()?);
    }
    Ok(())
}

fn wait() -> Result<File> {
    let path = cache()?.join("hosts.lock");
    let readable = || format!("cannot lock {}", path.display());
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
    let mut file = options.open(&path).with_context(readable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            eprintln!("waiting for the lab, which {} has", holder.trim_end());
            file.lock().with_context(readable)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(readable),
    }
    let command: Vec<String> = std::env::args().collect();
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {} ({})", std::process::id(), command.join(" "))?;
    Ok(file)
}
