//! This machine as the host: what the server of L1 does, without L1.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::Output;

/// Runs a script. Its ends are files, not pipes: a background process that it leaves behind would
/// keep a pipe open.
pub fn run(scratch: &str, script: &str, stdin: &[u8], limit: Duration) -> Result<Output> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let base = format!("{scratch}.exec-{serial}");
    let [input, stdout, stderr] = ["in", "out", "err"].map(|end| format!("{base}.{end}"));
    std::fs::write(&input, stdin)?;
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &limit.as_secs().max(1).to_string(), "sh", "-c", script]);
    command.stdin(Stdio::from(File::open(&input)?));
    let status = command.stdout(File::create(&stdout)?).stderr(File::create(&stderr)?).status()?;
    let output = Output {
        status: status.code().unwrap_or(137),
        stdout: String::from_utf8_lossy(&std::fs::read(&stdout)?).into_owned(),
        stderr: String::from_utf8_lossy(&std::fs::read(&stderr)?).into_owned(),
    };
    for file in [input, stdout, stderr] {
        let _ = std::fs::remove_file(file);
    }
    Ok(output)
}

/// The MAC of a NIC, if a network driver has it right now; else empty.
pub fn mac_of(address: &str) -> String {
    let interfaces = PathBuf::from(format!("/sys/bus/pci/devices/{address}/net"));
    std::fs::read_dir(interfaces)
        .ok()
        .and_then(|mut entries| entries.next()?.ok())
        .and_then(|entry| std::fs::read_to_string(entry.path().join("address")).ok())
        .map_or_else(String::new, |mac| mac.trim().to_owned())
}
