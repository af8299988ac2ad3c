//! Connects this terminal with a lab host's console.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Relays until the host's side ends, which is when its shell is left.
pub fn attach(socket: &Path) -> Result<()> {
    let mut console = UnixStream::connect(socket).context("cannot reach the console")?;
    let raw = RawTerminal::enter();
    let mut keyboard = console.try_clone()?;
    // A newline makes the waiting shell print its prompt. The thread ends with the process: a
    // read of the keyboard cannot be interrupted.
    keyboard.write_all(b"\n")?;
    std::thread::spawn(move || {
        let mut typed = [0; 256];
        while let Ok(length @ 1..) = std::io::stdin().read(&mut typed) {
            if keyboard.write_all(&typed[..length]).is_err() {
                return;
            }
        }
        // End of a script that was piped in: leave the shell.
        let _ = keyboard.write_all(b"exit\n");
    });
    let mut shown = [0; 4096];
    loop {
        match console.read(&mut shown) {
            Ok(0) => break,
            Ok(length) => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&shown[..length])?;
                stdout.flush()?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    drop(raw);
    println!();
    Ok(())
}

/// Passes every key on while it lives; nothing happens without a terminal.
struct RawTerminal {
    saved: Option<String>,
}

impl RawTerminal {
    fn enter() -> Self {
        let saved = stty(&["-g"]).map(|settings| settings.trim().to_owned());
        if saved.is_some() {
            stty(&["raw", "-echo"]);
        }
        Self { saved }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            stty(&[saved]);
        }
    }
}

fn stty(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("stty");
    command.args(arguments).stdin(Stdio::inherit()).stderr(Stdio::null());
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
