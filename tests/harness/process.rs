//! A command in the background of a host.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Host;

/// A command in the background of a host; dropping it kills its whole session.
///
/// Its folder on the host holds `pid`, `session`, `stdout`, `stderr`, the fifo `stdin`, and
/// `status` once it has ended.
pub struct Process<'host> {
    host: &'host Host,
    folder: String,
    pid: u32,
}

impl<'host> Process<'host> {
    pub(super) fn start(host: &'host Host, folder: &str, command: &str) -> Result<Self> {
        // The fifo is opened for reading and writing, so that neither end ever blocks or sees an
        // end of file. `exec` makes the recorded pid the command's own.
        let script = format!(
            "mkdir -p {folder} && cd {folder} && mkfifo stdin || exit
             cat >command
             cat >session.sh <<'END'
echo $$ >session
sh -c 'echo $$ >pid; exec sh ./command' 0<>stdin >stdout 2>stderr
echo $? >status.new
mv status.new status
END
             setsid sh session.sh </dev/null >/dev/null 2>&1 &
             until [ -s pid ]; do sleep 0.05; done
             cat pid"
        );
        let command = format!("exec {command}\n");
        let output = host.exec_with(&script, command.as_bytes(), Duration::from_secs(30))?;
        let pid = output.success()?.parse().context("the pid of a background command")?;
        Ok(Self { host, folder: folder.to_owned(), pid })
    }

    /// Process id on the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Process id on the host of the machine, which is a child of the berth that was started. It has
    /// to be there by now.
    pub fn machine(&self) -> Result<u32> {
        let script = format!(
            "awk '/^Name:/ {{n = $2}} /^PPid:/ {{if (n == \"berth\" && $2 == {}) print FILENAME}}' \
                 /proc/[0-9]*/status 2>/dev/null | cut -d/ -f3",
            self.pid
        );
        let found = self.host.run(&script)?;
        found.trim().parse().with_context(|| format!("a machine: {found:?}\n{}", self.everything()))
    }

    /// What it printed so far; for berth this is the guest's console.
    pub fn stdout(&self) -> Result<String> {
        self.host.run(&format!("cat {}/stdout", self.folder))
    }

    /// What it complained about so far; for berth these are its own messages.
    pub fn stderr(&self) -> Result<String> {
        self.host.run(&format!("cat {}/stderr", self.folder))
    }

    /// Types something on its standard input.
    pub fn send(&self, text: &str) -> Result<()> {
        let script = format!("cat >{}/stdin", self.folder);
        self.host.exec_with(&script, text.as_bytes(), Duration::from_secs(10))?.success().map(drop)
    }

    /// Sends a signal by name, such as `TERM`. After `KILL` the machine, which the kernel kills with
    /// the berth that was started, is waited for: it has its devices until it is gone.
    pub fn signal(&self, name: &str) -> Result<()> {
        let script = format!(
            "machine=$(awk '/^Name:/ {{n = $2}} /^PPid:/ {{if (n == \"berth\" && $2 == {0}) print FILENAME}}' \
                 /proc/[0-9]*/status 2>/dev/null | cut -d/ -f3)
             kill -{name} {0} || exit
             [ {name} = KILL ] || exit 0
             n=0
             while [ -n \"$machine\" ] && [ -e /proc/$machine ] && [ $n -lt 200 ]; do
                 n=$((n + 1)); usleep 50000
             done",
            self.pid
        );
        self.host.run(&script).map(drop)
    }

    /// The exit status if it has ended; 128 + N for signal N.
    pub fn status(&self) -> Result<Option<i32>> {
        let text = self.host.run(&format!("cat {}/status 2>/dev/null || true", self.folder))?;
        Ok(if text.is_empty() { None } else { Some(text.parse()?) })
    }

    /// Waits for a text on standard output and returns all of that output. Fails early when the
    /// process ends without it.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String> {
        match self.wait_for_output(text, limit)? {
            0 => self.stdout(),
            3 => bail!("ended before {text:?}\n{}", self.everything()),
            _ => bail!("no {text:?} within {limit:?}\n{}", self.everything()),
        }
    }

    /// Waits for its end; the exit status.
    pub fn wait(&self, limit: Duration) -> Result<i32> {
        self.wait_for_output("", limit)?;
        match self.status()? {
            Some(status) => Ok(status),
            None => bail!("still running after {limit:?}\n{}", self.everything()),
        }
    }

    fn wait_for_output(&self, text: &str, limit: Duration) -> Result<i32> {
        let script = format!("exec {} wait-for-output {}", self.host.probe()?, self.folder);
        Ok(self.host.exec_with(&script, text.as_bytes(), limit)?.status)
    }

    /// Waits for its end, which must have that exit status.
    pub fn must_end(&self, status: i32, limit: Duration) -> Result<()> {
        let ended = self.wait(limit)?;
        ensure!(ended == status, "exit status {ended}, not {status}\n{}", self.everything());
        Ok(())
    }

    /// Types a command for a guest whose verb is `commands`; what it printed. The command must
    /// succeed.
    pub fn in_guest(&self, command: &str, limit: Duration) -> Result<String> {
        let answers = |text: &str| text.matches("L2: did ").count();
        let before = self.stdout()?;
        self.send(&format!("{command}\n"))?;
        let answer = format!("L2: did {} ", answers(&before) + 1);
        let after = self.wait_for(&answer, limit)?.replace('\r', "");
        let (said, status) = after.rsplit_once(&answer).context("an answer with a status")?;
        let said = match said.rfind("L2: did ").or_else(|| said.rfind("L2: takes commands")) {
            Some(previous) => said[previous..].split_once('\n').map_or("", |(_, said)| said),
            None => said,
        };
        ensure!(status.lines().next() == Some("0"), "in the guest, {command}: {status}{said}");
        Ok(said.trim_end().to_owned())
    }

    /// Both outputs, for a failure message.
    pub fn everything(&self) -> String {
        let part = |text: Result<String>| text.unwrap_or_else(|error| format!("({error})"));
        format!("stdout:\n{}\nstderr:\n{}", part(self.stdout()), part(self.stderr()))
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        // Without a status it may still run; a session that is gone is no reason to complain. A
        // dead process keeps its device until its last thread is gone: the next test waits for
        // that.
        let script = format!(
            "cd {0} && [ ! -e status ] && kill -KILL -- \"-$(cat session)\"
             dead() {{ awk '/^State:.*Z/ {{z = 1}} /^Threads:/ && $2 > 1 {{z = 0}} END {{exit !z}}' \"$1\"; }}
             while [ -e /proc/{1}/status ] && ! dead /proc/{1}/status; do sleep 0.1; done",
            self.folder, self.pid
        );
        let _ = self.host.exec(&script);
    }
}
