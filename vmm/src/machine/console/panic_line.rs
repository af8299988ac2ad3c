//! A kernel panic that shows on the serial console only.
//!
//! A guest's kernel reports a panic through pvpanic once it has the driver, which distributions
//! load as a module: a panic before that, such as one for want of a root file system, ends in a
//! reset like any other. What is left of it is the line that Linux prints at its highest level
//! (`vpanic` in kernel/panic.c), so that no `quiet` hides it.

/// How a kernel begins the line.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// Bytes that may follow it before the reset: registers, a call trace, modules. What comes later
/// was printed by a kernel that runs.
const AFTERMATH: usize = 16 << 10;

/// Longest beginning of a line that is kept: a time stamp with a caller, and the words.
const LINE: usize = 96;

/// Reads what the guest prints.
#[derive(Debug, Default)]
pub struct PanicLine {
    line: Vec<u8>,
    /// Bytes since the line.
    since: Option<usize>,
}

impl PanicLine {
    /// The guest prints `bytes`.
    pub fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.since = self.since.map(|since| since + 1).filter(|since| *since <= AFTERMATH);
            match byte {
                b'\n' | b'\r' => self.line.clear(),
                byte if self.line.len() < LINE => {
                    self.line.push(*byte);
                    if after_stamps(&self.line) == PANIC {
                        self.since = Some(0);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether a reset that comes now follows a panic.
    pub fn is_recent(&self) -> bool {
        self.since.is_some()
    }
}

/// The line without `[    1.234567]` and `[    T1]`, as kernels put before it if they are told to.
fn after_stamps(line: &[u8]) -> &[u8] {
    let mut rest = line;
    while let Some(stamp) = rest.strip_prefix(b"[") {
        let Some(end) = stamp.iter().position(|byte| *byte == b']') else { return rest };
        rest = stamp[end + 1..].trim_ascii_start();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &[&str]) -> bool {
        let mut line = PanicLine::default();
        text.iter().for_each(|part| line.read(part.as_bytes()));
        line.is_recent()
    }

    #[test]
    fn a_panic_is_known_by_its_line_however_it_is_stamped() {
        const VFS: &str =
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n";
        for stamp in ["", "[    1.234567] ", "[    1.234567][    T1] "] {
            assert!(
                after(&["Booting\r\n", stamp, VFS, "CPU: 0 PID: 1 Comm: swapper/0\r\n"]),
                "{stamp}"
            );
        }
        assert!(after(&["[  1.2] Kernel pan", "ic - not sync", "ing: x"]), "in parts");
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for text in [
            "",
            "grep: Kernel panic - not syncing: found in dmesg\n",
            "the guest says Kernel panic - not syncing\n",
            "Kernel panic\n - not syncing\n",
        ] {
            assert!(!after(&[text]), "{text}");
        }
    }

    #[test]
    fn a_guest_that_prints_on_has_not_panicked() {
        let mut line = PanicLine::default();
        line.read(b"Kernel panic - not syncing: no\n");
        line.read(&[b'.'; AFTERMATH / 2]);
        assert!(line.is_recent());
        line.read(&[b'.'; AFTERMATH]);
        assert!(!line.is_recent());
    }
}
