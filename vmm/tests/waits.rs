//! A berth that waits for another one says so, and ends when it is told to.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

#[test]
fn a_berth_that_waits_for_a_lock_ends_by_sigterm() {
    for (lock, arguments) in
        [("placement.lock", &["run", "vm.json"][..]), ("lock", &["restore"][..])]
    {
        let state = tempfile::tempdir().expect("a folder");
        let path = state.path().join(lock);
        fs::write(&path, "4711 berth bind 0000:41:00.0").expect("a file");
        let held = File::open(&path).expect("the file");
        held.lock().expect("nobody else has it");
        let mut berth = Command::new(env!("CARGO_BIN_EXE_berth"))
            .args(arguments)
            .env("BERTH_STATE_DIR", state.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("berth starts");
        let stderr = berth.stderr.take().expect("it is piped");
        let first = BufReader::new(stderr).lines().next().expect("a line").expect("text");
        assert!(first.contains("`berth bind 0000:41:00.0` (process 4711)"), "{first}");
        let process = i32::try_from(berth.id()).expect("a process ID");
        // SAFETY: signals the child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(process, libc::SIGTERM) }, 0);
        let status = berth.wait().expect("it ends");
        assert_eq!(status.signal(), Some(libc::SIGTERM), "{status}");
    }
}
