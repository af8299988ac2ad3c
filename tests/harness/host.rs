//! A host to run berth on: an L1, or this machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::here;
use super::l1::L1;
use super::pcap::{self, Frame};
use super::profile::{Nic, Profile};
use super::{GuestConfig, Output, Process, artefacts, turn};

/// Long enough for any script that does not wait for a guest.
const SCRIPT_LIMIT: Duration = Duration::from_secs(30);

enum Place {
    Lab(L1),
    ThisMachine,
}

/// A host to run berth on. Everything it does on the host is a shell script, so that both kinds
/// of host run the very same commands.
pub struct Host {
    place: Place,
    nic: Nic,
    /// A folder on the host that each test finds empty.
    scratch: String,
    berth: OnceLock<String>,
    serial: AtomicU32,
}

impl Host {
    pub(super) fn new(profile: &str) -> Result<Self> {
        let (place, nic, scratch) = match std::env::var("BERTH_TEST_DEVICE") {
            Ok(address) => {
                if profile != "nic" {
                    bail!("the profile {profile} exists in the lab only: unset BERTH_TEST_DEVICE");
                }
                let scratch = std::env::temp_dir().join(format!("berth-{}", std::process::id()));
                let mac = here::mac_of(&address);
                let scratch = scratch.display().to_string();
                std::fs::create_dir_all(&scratch)?;
                (Place::ThisMachine, Nic { address, mac }, scratch)
            }
            Err(_) => {
                let profile_data = Profile::load(profile)?;
                turn::take()?;
                eprintln!("booting the lab host {profile}: {}", profile_data.description);
                let l1 = L1::boot(&profile_data, run_folder(profile)?, &tool(PROBE)?)?;
                eprintln!("lab host {profile} is up after {:.1?}", l1.boot_time);
                (Place::Lab(l1), profile_data.nic, "/tmp/test".to_owned())
            }
        };
        Ok(Self { place, nic, scratch, berth: OnceLock::new(), serial: AtomicU32::new(0) })
    }

    /// Ends what the last test left running and starts a new part of the kernel log.
    pub(super) fn clear(&self) -> Result<()> {
        let script = format!(
            "for job in {0}/job-*; do
                 [ -e \"$job/session\" ] && [ ! -e \"$job/status\" ] || continue
                 kill -KILL -- \"-$(cat \"$job/session\")\" 2>/dev/null
             done
             rm -rf {0}; mkdir -p {0}; echo '{LOG_MARK}' >/dev/kmsg",
            self.scratch
        );
        self.run(&script).map(drop)
    }

    pub(super) fn is_running(&self) -> bool {
        match &self.place {
            Place::Lab(l1) => l1.is_running(),
            Place::ThisMachine => true,
        }
    }

    /// Runs a script, killed after 30 s.
    pub fn exec(&self, script: &str) -> Result<Output> {
        self.exec_with(script, &[], SCRIPT_LIMIT)
    }

    /// Runs a script with a standard input and a limit of its own.
    pub fn exec_with(&self, script: &str, stdin: &[u8], limit: Duration) -> Result<Output> {
        match &self.place {
            Place::Lab(l1) => l1.run(script, stdin, limit),
            Place::ThisMachine => here::run(&self.scratch, script, stdin, limit),
        }
    }

    /// Runs a script that must succeed; its standard output, trimmed.
    pub fn run(&self, script: &str) -> Result<String> {
        self.exec(script)?.success().with_context(|| format!("on the host: {script}"))
    }

    /// Starts a command that outlives this call, such as `berth run`; killed when dropped.
    pub fn spawn(&self, command: &str) -> Result<Process<'_>> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        Process::start(self, &format!("{}/job-{serial}", self.scratch), command)
    }

    /// The text of a file on the host, trimmed.
    pub fn read(&self, path: &str) -> Result<String> {
        self.run(&format!("cat '{path}'"))
    }

    /// Writes a small file on the host.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        let script = format!("cat >'{path}'");
        self.exec_with(&script, content.as_bytes(), SCRIPT_LIMIT)?.success().map(drop)
    }

    /// Copies a file of this machine to the host; 80 MB/s into the lab.
    pub fn push(&self, local: &Path, path: &str) -> Result<()> {
        let source = match &self.place {
            Place::Lab(l1) => {
                let name = local.file_name().context("a file to push")?;
                let shared = l1.share().join(name);
                std::fs::copy(local, &shared)
                    .with_context(|| format!("cannot copy {}", local.display()))?;
                format!("/share/{}", name.to_string_lossy())
            }
            Place::ThisMachine => local.display().to_string(),
        };
        self.run(&format!("cp '{source}' '{path}'")).map(drop)
    }

    /// A file of the host, on this machine.
    pub fn pull(&self, path: &str) -> Result<PathBuf> {
        match &self.place {
            Place::Lab(l1) => {
                self.run(&format!("cp '{path}' /share/"))?;
                let name = Path::new(path).file_name().context("a file to pull")?;
                Ok(l1.share().join(name))
            }
            Place::ThisMachine => Ok(PathBuf::from(path)),
        }
    }

    /// A folder on the host that each test finds empty.
    pub fn scratch(&self) -> &str {
        &self.scratch
    }

    /// The path on the host of a file of `scripts/lab prepare`: `vmlinux-6.12`, `l2-6.1.cpio`...
    pub fn artefact(&self, name: &str) -> String {
        match &self.place {
            Place::Lab(_) => format!("/lab/{name}"),
            Place::ThisMachine => artefacts().unwrap_or_default().join(name).display().to_string(),
        }
    }

    /// The path on the host of the berth under test.
    pub fn berth(&self) -> Result<&str> {
        if let Some(path) = self.berth.get() {
            return Ok(path);
        }
        let local = tool("berth")?;
        let path = match &self.place {
            Place::Lab(_) => "/bin/berth".to_owned(),
            Place::ThisMachine => local.display().to_string(),
        };
        if self.is_lab() {
            self.push(&local, &path)?;
            self.run(&format!("chmod 755 {path} && {path} --version"))
                .context("berth does not start in the lab; is it linked statically?")?;
        }
        Ok(self.berth.get_or_init(|| path))
    }

    /// The path on the host of `probe`, for guests whose configuration has it and for the host.
    pub fn probe(&self) -> Result<String> {
        Ok(match &self.place {
            // Its /init has put it there.
            Place::Lab(_) => "/bin/probe".to_owned(),
            Place::ThisMachine => tool(PROBE)?.display().to_string(),
        })
    }

    /// An initramfs on the host: another one of the host's, and `probe` in its `/bin`.
    pub fn with_probe(&self, initrd: &str) -> Result<String> {
        let archive = format!("{}/with-probe.cpio", self.scratch);
        self.run(&format!(
            "mkdir -p {0}/initrd/bin && cd {0}/initrd && cp {1} bin/probe &&
             echo bin/probe | cpio -o -H newc 2>/dev/null | cat {initrd} - >{archive}",
            self.scratch,
            self.probe()?
        ))?;
        Ok(archive)
    }

    /// A file of the profile, as the devices have it: seen from outside the host.
    pub fn file(&self, name: &str) -> Result<File> {
        let Place::Lab(l1) = &self.place else {
            bail!("this machine has no file {name}: lab only")
        };
        let path = l1.file(name);
        let file = File::options().read(true).write(true).open(&path);
        file.with_context(|| format!("cannot open {}", path.display()))
    }

    /// `berth run` with a configuration; wait on what it returns.
    pub fn run_guest(&self, config: &GuestConfig) -> Result<Process<'_>> {
        let path = format!("{}/guest.json", self.scratch);
        self.write(&path, &config.to_string())?;
        self.spawn(&format!("{} run {path}", self.berth()?))
    }

    /// True on an emulated host.
    pub fn is_lab(&self) -> bool {
        matches!(self.place, Place::Lab(_))
    }

    /// The PCI address of the NIC to assign.
    pub fn nic(&self) -> &str {
        &self.nic.address
    }

    /// The NIC's MAC.
    pub fn mac(&self) -> &str {
        &self.nic.mac
    }

    /// The sysfs folder of the NIC, without a last slash.
    pub fn nic_sysfs(&self) -> String {
        format!("/sys/bus/pci/devices/{}", self.nic.address)
    }

    /// Gives the NIC to vfio-pci; nothing changes if it is there.
    pub fn bind_vfio(&self) -> Result<()> {
        self.bind("vfio-pci")
    }

    /// Gives devices to vfio-pci; nothing changes for those that are there.
    pub fn bind_all(&self, addresses: &[&str]) -> Result<()> {
        let script = format!(
            "for address in {}; do
                 sysfs=/sys/bus/pci/devices/$address
                 [ ! -e /sys/bus/pci/drivers/vfio-pci/$address ] || continue
                 echo vfio-pci >$sysfs/driver_override
                 [ ! -e $sysfs/driver ] || echo $address >$sysfs/driver/unbind
                 echo $address >/sys/bus/pci/drivers_probe
                 [ -e $sysfs/driver ] || exit 1
             done",
            addresses.join(" ")
        );
        self.run(&script).map(drop)
    }

    /// Gives the NIC to a driver by name, or to its usual one with "".
    pub fn bind(&self, driver: &str) -> Result<()> {
        let (nic, sysfs) = (&self.nic.address, self.nic_sysfs());
        let script = format!(
            "[ '{driver}' = \"$(basename \"$(readlink {sysfs}/driver)\")\" ] && exit
             echo '{driver}' >{sysfs}/driver_override
             [ ! -e {sysfs}/driver ] || echo {nic} >{sysfs}/driver/unbind
             echo {nic} >/sys/bus/pci/drivers_probe
             [ -e {sysfs}/driver ]"
        );
        self.run(&script).map(drop)
    }

    /// The kernel's messages since this test got the host.
    pub fn kernel_log(&self) -> Result<String> {
        let log = self.run("dmesg")?;
        Ok(log.rsplit(LOG_MARK).next().unwrap_or_default().trim_start().to_owned())
    }

    /// A command for QEMU's monitor (QMP), such as `device_del` with `{"id": "nic"}`.
    pub fn monitor(&self, command: &str, arguments: &Value) -> Result<Value> {
        match &self.place {
            Place::Lab(l1) => l1.monitor(command, arguments),
            Place::ThisMachine => bail!("this machine has no monitor for {command}: lab only"),
        }
    }

    /// Every frame that passed the NIC since the host booted, as seen from outside it; `None` on
    /// bare metal, where nobody watches the wire.
    pub fn outside_capture(&self) -> Result<Option<Vec<Frame>>> {
        match &self.place {
            Place::Lab(l1) => pcap::read(&l1.capture_file()).map(Some),
            Place::ThisMachine => Ok(None),
        }
    }

    /// The socket of a lab host's console, where a shell waits.
    pub fn console_socket(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Lab(l1) => Some(l1.console_socket()),
            Place::ThisMachine => None,
        }
    }

    /// Powers a lab host off; the next test that wants it gets a fresh one.
    pub fn retire(&self) {
        if let Place::Lab(l1) = &self.place {
            l1.stop();
        }
    }
}

/// `probe`, as `scripts` build it.
const PROBE: &str = "berth-probe";

/// A static program on this machine that scripts/test has built, beside berth.
fn tool(name: &str) -> Result<PathBuf> {
    let berth = std::env::var("BERTH_BIN")
        .context("BERTH_BIN does not name a static berth: run scripts/test")?;
    Ok(Path::new(&berth).with_file_name(name))
}

const LOG_MARK: &str = "berth test begins";

/// A folder for one L1, in the temporary folder because socket paths are limited to 107 bytes.
/// Those of test processes that are gone are removed: nobody else does it.
fn run_folder(profile: &str) -> Result<PathBuf> {
    const PREFIX: &str = "berth-lab-";
    let temporary = std::env::temp_dir();
    for entry in std::fs::read_dir(&temporary)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let folder = temporary.join(format!("{PREFIX}{}-{profile}-{serial}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
