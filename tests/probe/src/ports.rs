//! I/O ports, four bytes at a time.

use std::arch::asm;
use std::io;

use anyhow::{Context, Result};

/// Lets this process use them, and its later threads.
pub fn allow() -> Result<()> {
    // SAFETY: the process is allowed to use ports; nothing else changes.
    let failed = unsafe { libc::iopl(3) } != 0;
    let failed = failed.then(io::Error::last_os_error);
    failed.map_or(Ok(()), Err).context("no I/O ports: only root has them")
}

/// Writes a port.
pub fn write(port: u16, value: u32) {
    // SAFETY: a PCI function's ports change no memory of this process.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}

/// Reads a port.
pub fn read(port: u16) -> u32 {
    let value;
    // SAFETY: as for writing.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
    value
}
