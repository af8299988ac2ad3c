//! Runs scripts on L1 through a virtio-serial port.
//!
//! We send `SECONDS SCRIPT_BYTES STDIN_BYTES\n`, the script and its standard input; `probe agent`
//! answers `STATUS STDOUT_BYTES STDERR_BYTES\n` and both outputs. One request at a time per port,
//! so a host has several.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Output;

/// One port, connected.
pub struct Agent {
    port: BufReader<UnixStream>,
}

impl Agent {
    /// Connects to QEMU's socket, which appears shortly after QEMU starts.
    pub fn connect(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => {
                    return Ok(Self { port: BufReader::new(stream) });
                }
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot connect to {}", socket.display()));
                }
            }
        }
    }

    /// Waits until L1 serves this port, and gives up early when `hopeless` says so.
    pub fn first_answer(&mut self, limit: Duration, hopeless: impl Fn() -> bool) -> Result<()> {
        self.port.get_mut().write_all(b"5 0 0\n")?;
        let deadline = Instant::now() + limit;
        let mut answer = String::new();
        self.port.get_mut().set_read_timeout(Some(Duration::from_secs(1)))?;
        while let Err(error) = self.port.read_line(&mut answer) {
            ensure!(error.kind() == ErrorKind::WouldBlock, "L1 is gone: {error}");
            ensure!(!hopeless(), "its CPUs have stalled");
            ensure!(Instant::now() < deadline, "no answer within {limit:?}");
        }
        ensure!(answer == "0 0 0\n", "L1 went away, or answered nonsense: {answer:?}");
        Ok(())
    }

    /// Runs a shell script to its end. L1 kills it after `limit`; hearing nothing for long after
    /// that means that L1 itself is gone.
    pub fn run(&mut self, script: &str, stdin: &[u8], limit: Duration) -> Result<Output> {
        let stream = self.port.get_mut();
        stream.set_read_timeout(Some(limit + Duration::from_secs(60)))?;
        let header = format!("{} {} {}\n", limit.as_secs().max(1), script.len(), stdin.len());
        stream.write_all(header.as_bytes())?;
        stream.write_all(script.as_bytes())?;
        stream.write_all(stdin)?;

        let mut answer = String::new();
        self.port.read_line(&mut answer).context("L1 does not answer")?;
        let numbers: Vec<usize> =
            answer.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [status, stdout, stderr] = numbers[..] else {
            bail!("L1 went away, or answered nonsense: {answer:?}");
        };
        let status = i32::try_from(status)?;
        Ok(Output { status, stdout: self.text(stdout)?, stderr: self.text(stderr)? })
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let mut bytes = vec![0; length];
        self.port.read_exact(&mut bytes).context("L1 stopped in the middle of an answer")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
