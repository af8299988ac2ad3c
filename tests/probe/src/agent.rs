//! Runs scripts that come through virtio-serial ports; `tests/harness/agent.rs` is the other end.
//!
//! A request is `SECONDS SCRIPT_BYTES STDIN_BYTES\n`, the script and its standard input; the answer
//! is `STATUS STDOUT_BYTES STDERR_BYTES\n` and both outputs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};

/// Serves these ports, each one request at a time, for good.
pub fn serve(ports: &[&str]) -> Result<()> {
    let servers: Vec<_> = ports
        .iter()
        .map(|port| {
            let port = PathBuf::from(port);
            std::thread::spawn(move || serve_port(&port))
        })
        .collect();
    for server in servers {
        server.join().expect("a server does not panic")?;
    }
    Ok(())
}

fn serve_port(path: &Path) -> Result<()> {
    let name = path.file_name().context("a port has a name")?;
    let work = Path::new("/run/agent").join(name);
    std::fs::create_dir_all(&work)?;
    let mut port = File::options().read(true).write(true).open(path)?;
    loop {
        let header = read_line(&mut port)?;
        let numbers: Vec<u64> =
            header.split(' ').filter_map(|number| number.parse().ok()).collect();
        let &[seconds, script, stdin] = &numbers[..] else {
            // A peer that is gone may have left part of a request.
            continue;
        };
        for (file, length) in [("script", script), ("stdin", stdin)] {
            let mut bytes = vec![0; length as usize];
            port.read_exact(&mut bytes)?;
            std::fs::write(work.join(file), bytes)?;
        }
        let status = run(&work, Duration::from_secs(seconds))?;
        let [stdout, stderr] = ["stdout", "stderr"].map(|file| std::fs::read(work.join(file)));
        let (stdout, stderr) = (stdout?, stderr?);
        let mut answer = format!("{status} {} {}\n", stdout.len(), stderr.len()).into_bytes();
        answer.extend(stdout);
        answer.extend(stderr);
        port.write_all(&answer)?;
    }
}

/// A line without its end. The port reads as ended while nobody is connected.
fn read_line(port: &mut File) -> Result<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match port.read(&mut byte)? {
            0 => std::thread::sleep(Duration::from_millis(20)),
            _ if byte[0] == b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            _ => line.push(byte[0]),
        }
    }
}

/// Runs the script; its exit status, 128 + N for signal N. Its outputs are files, because a
/// process that it leaves behind would keep a pipe open.
fn run(work: &Path, limit: Duration) -> Result<i32> {
    let mut command = Command::new("sh");
    command.arg(work.join("script")).stdin(File::open(work.join("stdin"))?);
    command.stdout(File::create(work.join("stdout"))?);
    command.stderr(File::create(work.join("stderr"))?);
    // SAFETY: setsid is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let mut child = command.spawn()?;
    let status = wait(&mut child, limit)?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
}

/// Waits for a process, and kills its whole session when its time is over.
fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let session = i32::try_from(child.id())?;
    let (ended, end) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(limit).is_err() {
                // SAFETY: kill has no effect on this process's memory; the session is the child's.
                unsafe { libc::kill(-session, libc::SIGKILL) };
            }
        });
        let status = child.wait();
        let _ = ended.send(());
        Ok(status?)
    })
}
