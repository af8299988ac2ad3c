//! The guest's console: in a file, and on a terminal, which is as before when berth is gone,
//! however it went.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::{self, GuestConfig, Host, Process};

const LIMIT: Duration = Duration::from_secs(240);
const PORT: u16 = 2323;

#[test]
fn file_gets_the_guests_output_alone() -> Result<()> {
    let host = harness::host("nic");
    let file = format!("{}/console.log", host.scratch());
    let config = GuestConfig::new(&host).without_devices().set("/console", json!({"file": file}));
    let guest = host.run_guest(&config)?;
    guest.must_end(0, LIMIT)?;
    let text = host.read(&file)?;
    assert!(text.contains("L2: up") && text.contains("L2: poweroff"), "{text}");
    assert_eq!(guest.stdout()?, "", "the console is the file");
    assert_eq!(host.run(&format!("stat -c %a {file}"))?, "600", "guests may print secrets");
    Ok(())
}

/// First nobody reads it, then somebody does: the guest waits for neither.
#[test]
fn a_fifo_gets_what_its_reader_takes() -> Result<()> {
    let host = harness::host("nic");
    let fifo = format!("{}/console.fifo", host.scratch());
    let config = GuestConfig::new(&host).without_devices().set("/console", json!({"fifo": fifo}));
    let refused = host.run_guest(&config)?;
    refused.must_end(3, LIMIT)?;
    ensure!(refused.stderr()?.contains("does not exist"), "{}", refused.everything());
    host.run(&format!("mkfifo {fifo}"))?;
    let guest = host.run_guest(&config)?;
    let reader = host.spawn(&format!("cat {fifo}"))?;
    guest.must_end(0, LIMIT)?;
    reader.must_end(0, LIMIT)?;
    let text = reader.stdout()?;
    assert!(text.contains("L2: poweroff"), "{text}");
    Ok(())
}

/// berth in the foreground of a pseudo-terminal on the host; telnetd, of all programs there, makes
/// one.
struct Terminal<'host> {
    host: &'host Host,
    folder: String,
    keyboard: Process<'host>,
    _server: Process<'host>,
}

impl<'host> Terminal<'host> {
    /// Starts berth there and waits until the terminal is raw.
    fn start(host: &'host Host, verbs: &str) -> Result<Self> {
        let folder = format!("{}/terminal", host.scratch());
        let config =
            GuestConfig::new(host).without_devices().set("/shutdown_timeout_s", 0).verbs(verbs);
        let session = format!(
            "#!/bin/sh
             cd {folder} || exit
             tty >tty
             stty -a >before
             sh -c 'echo $$ >pid; exec {} run vm.json 2>stderr'
             echo $? >status.new
             stty -a >after
             mv status.new status
             exec sleep 1000",
            host.berth()?
        );
        host.run(&format!("rm -rf {folder}; mkdir {folder}; ip link set lo up"))?;
        host.write(&format!("{folder}/vm.json"), &config.to_string())?;
        host.write(&format!("{folder}/session"), &session)?;
        host.run(&format!("chmod 755 {folder}/session"))?;
        let server = host.spawn(&format!("telnetd -F -b 127.0.0.1:{PORT} -l {folder}/session"))?;
        host.run(&format!("until netstat -ltn | grep -q :{PORT}; do sleep 0.1; done"))?;
        let keyboard = host.spawn(&format!("nc 127.0.0.1 {PORT}"))?;
        let terminal = Self { host, folder, keyboard, _server: server };
        let raw = ["-icanon", "-echo", "-isig", "-icrnl"];
        terminal.wait_for_modes(|now| raw.iter().all(|mode| now.contains(mode)))?;
        Ok(terminal)
    }

    fn file(&self, name: &str) -> Result<String> {
        self.host.read(&format!("{}/{name}", self.folder))
    }

    fn wait_for_modes(&self, good: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let script = format!("cd {}; stty -a -F \"$(cat tty)\"", self.folder);
            let now = self.host.exec(&script)?;
            if good(&now.stdout) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the terminal never gets there; it is\n{}{}\nberth says {}\nand shows {}",
                now.stdout,
                now.stderr,
                self.file("stderr").unwrap_or_default(),
                self.keyboard.everything()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn signal(&self, name: &str) -> Result<()> {
        self.host.run(&format!("kill -{name} $(cat {}/pid)", self.folder)).map(drop)
    }

    /// berth ends with that code, and the terminal is as it was, at once or soon.
    fn must_end(&self, code: i32, at_once: bool) -> Result<()> {
        let wait = format!("cd {}; until [ -e status ]; do sleep 0.2; done", self.folder);
        self.host.exec_with(&wait, &[], LIMIT)?;
        let status = self
            .file("status")
            .map_err(|_| anyhow::anyhow!("berth does not end\n{}", self.keyboard.everything()))?;
        let shown = self.keyboard.everything();
        ensure!(status == code.to_string(), "exit code {status}, not {code}\n{shown}");
        let before = self.file("before")?;
        ensure!(before.contains(" icanon"), "the terminal was raw from the start: {before}");
        if at_once {
            let after = self.file("after")?;
            ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        }
        self.wait_for_modes(|now| now.trim_end() == before)
    }
}

#[test]
fn terminal_is_restored_when_the_guest_ends() -> Result<()> {
    let host = harness::host("nic");
    let terminal = Terminal::start(&host, "poweroff")?;
    terminal.must_end(0, true)?;
    ensure!(terminal.keyboard.stdout()?.contains("L2: up"), "{}", terminal.keyboard.everything());
    drop(terminal);
    Terminal::start(&host, "panic")?.must_end(11, true)
}

#[test]
fn terminal_is_restored_after_signals() -> Result<()> {
    let host = harness::host("nic");
    for (signal, code) in [("TERM", 14), ("INT", 14), ("HUP", 14)] {
        let terminal = Terminal::start(&host, "wait")?;
        terminal.signal(signal)?;
        terminal.must_end(code, true)?;
    }
    Ok(())
}

/// Berth can do nothing about these; its guard restores. SIGSYS is how a seccomp filter kills.
#[test]
fn terminal_is_restored_after_a_violent_death() -> Result<()> {
    let host = harness::host("nic");
    for (signal, code) in [("KILL", 128 + 9), ("SYS", 128 + 31), ("ABRT", 128 + 6)] {
        let terminal = Terminal::start(&host, "wait")?;
        terminal.signal(signal)?;
        terminal.must_end(code, false)?;
    }
    Ok(())
}

#[test]
fn keys_end_the_machine() -> Result<()> {
    let host = harness::host("nic");
    let terminal = Terminal::start(&host, "wait")?;
    terminal.keyboard.send("\x01x")?;
    terminal.must_end(15, true)
}

#[test]
fn guest_gets_what_is_typed() -> Result<()> {
    let host = harness::host("nic");
    let terminal = Terminal::start(&host, "wait")?;
    terminal.keyboard.wait_for("L2: waiting", LIMIT)?;
    // Ctrl-U is the guest's to handle, like every key.
    terminal.keyboard.send("nonsense\x15hello\r")?;
    terminal.keyboard.wait_for("L2: heard hello", LIMIT)?;
    terminal.keyboard.send("end\r")?;
    terminal.must_end(0, true)
}

/// A guest that prints to a reader that does not read, with input that waits for it, once kept
/// berth from its signals: only SIGKILL ended it.
#[test]
fn a_stalled_reader_does_not_keep_berth_from_its_end() -> Result<()> {
    let host = harness::host("nic");
    let folder = format!("{}/stalled", host.scratch());
    let config = GuestConfig::new(&host)
        .without_devices()
        .set("/memory/size_mib", 256)
        .set("/shutdown_timeout_s", 2)
        .verbs("wait");
    host.run(&format!("rm -rf {folder}; mkdir {folder}; mkfifo {folder}/out"))?;
    host.write(&format!("{folder}/vm.json"), &config.to_string())?;
    // The fifo holds 64 KiB and has room for a few words. Its other end is open in this shell, which
    // never reads.
    let script = format!(
        "cd {folder}
         exec 3<>out
         head -c 65500 /dev/zero >&3
         yes | sh -c 'echo $$ >pid; exec {} run vm.json 2>stderr' >&3",
        host.berth()?
    );
    host.write(&format!("{folder}/session"), &script)?;
    let session = host.spawn(&format!("sh {folder}/session"))?;
    // A vCPU that stays in write(2) (system call 1) has found nobody to read.
    let stalled = format!(
        "cd {folder}
         until [ -s pid ]; do sleep 0.1; done
         machine() {{
             awk -v parent=$(cat pid) '/^PPid:/ && $2 == parent {{print FILENAME}}' /proc/[0-9]*/status |
                 cut -d/ -f3
         }}
         stuck() {{ cut -c 1-2 $(machine | sed 's|.*|/proc/&/task|')/*/syscall | grep -q '^1 '; }}
         count=0
         while [ $count -lt 5 ]; do
             sleep 0.3
             if stuck; then count=$((count + 1)); else count=0; fi
         done
         kill -TERM $(cat pid)"
    );
    host.exec_with(&stalled, &[], LIMIT)?.success()?;
    session.must_end(14, Duration::from_secs(30))
}
