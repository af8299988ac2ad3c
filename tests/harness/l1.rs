//! The lab host: a QEMU process that emulates what a profile describes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::agent::Agent;
use super::profile::Profile;
use super::{Output, artefacts, logs};

/// Scripts that can run at the same time.
const PORTS: usize = 3;

/// What a boot may take. It takes 7 s on two idle cores, and a minute on very busy ones.
const FIRST_ANSWER: Duration = Duration::from_secs(180);

/// How Linux reports that a CPU got nowhere: another one sees it, or itself once it goes on.
const STALLS: [&str; 2] = ["detected stalls on CPUs", "self-detected stall on CPU"];

/// A boot may have to be tried again: QEMU 10.0's software CPUs can lose a write to their local
/// APIC's registers in memory while the PCI devices' memory is being moved about. When that is
/// the end of a timer interrupt, the CPU never gets another one (its `ISR` keeps 236). Profiles
/// with `eim=on` are safe once Linux has switched to the x2APIC's model-specific registers;
/// the others, without interrupt remapping, never switch. Such a host never answered, so nothing
/// of a test is repeated.
const BOOT_ATTEMPTS: u32 = 3;

/// Enough for a file system with nothing on it; takes no space until written to.
const DISK_BYTES: u64 = 64 << 20;

/// A running L1.
pub struct L1 {
    folder: PathBuf,
    qemu: Mutex<Child>,
    idle: Mutex<Vec<Agent>>,
    returned: Condvar,
    /// From the start of QEMU to the first answer.
    pub boot_time: Duration,
}

impl L1 {
    /// Boots a host; the folder is for its sockets, logs and shared files.
    /// `probe` is a program of this machine that serves scripts on L1.
    pub fn boot(profile: &Profile, folder: PathBuf, probe: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder.join("share"))?;
        std::fs::copy(probe, folder.join("share/probe")).with_context(|| {
            format!("{} is built beside berth: run scripts/test", probe.display())
        })?;
        for _ in 1..BOOT_ATTEMPTS {
            match Self::boot_once(profile, folder.clone()) {
                Ok(l1) => return Ok(l1),
                Err(error) => eprintln!("the lab host is started once more: {error}"),
            }
        }
        Self::boot_once(profile, folder)
    }

    fn boot_once(profile: &Profile, folder: PathBuf) -> Result<Self> {
        let start = Instant::now();
        let qemu = spawn_with_our_life(command(profile, &folder)?)?;
        let mut l1 = Self {
            folder,
            qemu: Mutex::new(qemu),
            idle: Mutex::new(Vec::new()),
            returned: Condvar::new(),
            boot_time: Duration::ZERO,
        };
        if let Err(error) = l1.connect() {
            let error = l1.explain(error);
            l1.stop();
            return Err(error);
        }
        l1.boot_time = start.elapsed();
        Ok(l1)
    }

    fn connect(&self) -> Result<()> {
        for port in 0..PORTS {
            let mut agent = Agent::connect(&self.folder.join(format!("agent.{port}")))?;
            agent.first_answer(FIRST_ANSWER, || self.has_stalled())?;
            self.idle.lock().expect("no panic while held").push(agent);
        }
        Ok(())
    }

    /// Runs a script on a free port.
    pub fn run(&self, script: &str, stdin: &[u8], limit: Duration) -> Result<Output> {
        let mut idle = self.idle.lock().expect("no panic while held");
        let mut agent = loop {
            if let Some(agent) = idle.pop() {
                break agent;
            }
            idle = self.returned.wait(idle).expect("no panic while held");
        };
        drop(idle);
        let output = agent.run(script, stdin, limit);
        self.idle.lock().expect("no panic while held").push(agent);
        self.returned.notify_one();
        output.map_err(|error| self.explain(error))
    }

    /// A QMP command, such as `device_del` with `{"id": "nic"}`.
    pub fn monitor(&self, command: &str, arguments: &Value) -> Result<Value> {
        let stream = UnixStream::connect(self.folder.join("qmp"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut writer = stream.try_clone()?;
        let mut lines = BufReader::new(stream).lines();
        for request in [
            json!({"execute": "qmp_capabilities"}),
            json!({"execute": command, "arguments": arguments}),
        ] {
            writeln!(writer, "{request}")?;
        }
        // The answers come among the greeting and events; the second one is ours.
        let mut answers = 0;
        loop {
            let line = lines.next().context("the QEMU monitor hung up")??;
            let message: Value = serde_json::from_str(&line)?;
            if let Some(error) = message.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if let Some(value) = message.get("return") {
                answers += 1;
                if answers == 2 {
                    return Ok(value.clone());
                }
            }
        }
    }

    /// Where every packet of the NIC is recorded, outside L1.
    pub fn capture_file(&self) -> PathBuf {
        self.folder.join("nic.pcap")
    }

    /// A file of the profile, as the devices have it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder that L1 sees as `/share`.
    pub fn share(&self) -> PathBuf {
        self.folder.join("share")
    }

    /// The socket of L1's console, where a shell waits.
    pub fn console_socket(&self) -> PathBuf {
        self.folder.join("console")
    }

    /// False once QEMU has ended.
    pub fn is_running(&self) -> bool {
        matches!(self.qemu.lock().expect("no panic while held").try_wait(), Ok(None))
    }

    /// Ends QEMU; L1 has no disk that could suffer.
    pub fn stop(&self) {
        let mut qemu = self.qemu.lock().expect("no panic while held");
        let _ = qemu.kill();
        let _ = qemu.wait();
    }

    fn has_stalled(&self) -> bool {
        let console = std::fs::read(log_of(&self.folder, "console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        STALLS.iter().any(|stall| console.contains(stall))
    }

    /// What QEMU's CPUs wait for: a stalled host can only be understood from outside.
    fn interrupt_controllers(&self) -> String {
        let state = |cpu: u32| {
            let line = format!("info lapic {cpu}");
            let answer = self.monitor("human-monitor-command", &json!({ "command-line": line }));
            answer.ok()?.as_str().map(str::to_owned)
        };
        (0..).map_while(state).take_while(|text| text.contains("LVT0")).take(64).collect()
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let log = log_of(&self.folder, "lapic");
        let _ = std::fs::write(log, self.interrupt_controllers());
        let tail = |path: &Path| {
            let text = std::fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        error.context(format!(
            "the lab host failed (files in {})\nQEMU said:\n{}\nlast lines of its console:\n{}",
            self.folder.display(),
            tail(&self.folder.join("qemu.log")),
            tail(&log_of(&self.folder, "console")),
        ))
    }
}

/// A log that outlives the folder of an L1. scripts/test looks into those of consoles for what tells
/// a stalled emulator from a test that failed.
fn log_of(folder: &Path, kind: &str) -> PathBuf {
    let host = folder.file_name().unwrap_or_default().to_string_lossy();
    logs().join(format!("{kind}-{host}.log"))
}

/// Starts QEMU so that it dies with this process, however that ends. The death signal is bound to
/// the thread that starts the child, so a thread stays behind for it: test threads come and go.
fn spawn_with_our_life(mut command: Command) -> Result<Child> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(command.spawn());
        loop {
            std::thread::park();
        }
    });
    receiver.recv()?.context("cannot start QEMU: run scripts/lab prepare")
}

/// What QEMU must emulate. Hardware virtualisation is not used on purpose: the lab is the same on
/// every machine. `thread=multi` because single-threaded nested SVM can inject an interrupt
/// twice; without `erms` and `fsrm` the kernel clears pages faster under TCG.
fn command(profile: &Profile, folder: &Path) -> Result<Command> {
    let guest = artefacts()?;
    let (kernel, initrd) =
        (format!("vmlinux-{}", profile.kernel), format!("l1-{}.cpio", profile.kernel));
    for artefact in [&kernel, &initrd] {
        if !guest.join(artefact).exists() {
            bail!("{} is missing from {}: run scripts/lab prepare", artefact, guest.display());
        }
    }
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi"]);
    // A socket per node: Linux takes CPUs of one socket on two nodes for a firmware bug.
    let (cpus, sockets) = (profile.cpu_count(), profile.nodes.len());
    let sockets = format!("{cpus},sockets={sockets},threads={}", profile.threads_per_core);
    let features = ["max", "erms=off", "fsrm=off"].into_iter();
    let features = features.chain(profile.cpu_features.iter().map(String::as_str));
    let cpu = features.collect::<Vec<_>>().join(",");
    qemu.args(["-cpu", &cpu, "-smp", &sockets]);
    qemu.args(["-m", &format!("{}M", profile.memory_mib())]);
    for (id, node) in profile.nodes.iter().enumerate() {
        let (cpus, size) = (&node.cpus, node.memory_mib);
        qemu.args(["-object", &format!("memory-backend-ram,id=m{id},size={size}M")]);
        qemu.args(["-numa", &format!("node,nodeid={id},cpus={cpus},memdev=m{id}")]);
    }
    let capture = folder.join("nic.pcap");
    qemu.args(["-nic", "none", "-vga", "none", "-display", "none", "-monitor", "none"]);
    qemu.args(["-no-reboot", "-netdev", "user,id=n0", "-object"]);
    qemu.arg(format!("filter-dump,id=capture,netdev=n0,file={}", capture.display()));
    let disk = folder.join("disk");
    File::create(&disk)?.set_len(DISK_BYTES)?;
    qemu.arg("-drive");
    qemu.arg(format!("if=none,id=disk,format=raw,file={}", disk.display()));
    for (name, size_mib) in &profile.files {
        File::create(folder.join(name))?.set_len(size_mib << 20)?;
    }
    for (option, argument) in &profile.backends {
        qemu.args([option, &argument.replace("FOLDER", &folder.display().to_string())]);
    }
    for device in &profile.devices {
        qemu.args(["-device", device]);
    }
    let share = folder.join("share");
    for (tag, path, options) in [("lab", &guest, ",readonly=on"), ("share", &share, "")] {
        let path = path.display();
        qemu.args(["-fsdev", &format!("local,id={tag},path={path},security_model=none{options}")]);
        qemu.args(["-device", &format!("virtio-9p-pci,bus=pcie.0,fsdev={tag},mount_tag={tag}")]);
    }
    qemu.args(["-device", "virtio-serial-pci,bus=pcie.0"]);
    for port in 0..PORTS {
        let socket = folder.join(format!("agent.{port}"));
        let socket = socket.display();
        qemu.args(["-chardev", &format!("socket,id=a{port},path={socket},server=on,wait=off")]);
        qemu.args(["-device", &format!("virtserialport,chardev=a{port},name=berth.{port}")]);
    }
    let (console, log) = (folder.join("console"), log_of(folder, "console"));
    let (console, log) = (console.display(), log.display());
    qemu.arg("-chardev");
    qemu.arg(format!("socket,id=console,path={console},server=on,wait=off,logfile={log}"));
    qemu.args(["-serial", "chardev:console", "-qmp"]);
    qemu.arg(format!("unix:{},server=on,wait=off", folder.join("qmp").display()));
    qemu.arg("-kernel").arg(guest.join(kernel));
    qemu.arg("-initrd").arg(guest.join(initrd));
    let parameters = profile.kernel_parameters.join(" ");
    // A kernel that sees no tick in 40 ms gives its timer up for broken. On a busy machine QEMU
    // may well be late by that much.
    let always = "console=ttyS0 quiet panic=-1 no_timer_check";
    qemu.args(["-append", &format!("{always} {parameters}")]);
    qemu.stdin(Stdio::null()).stdout(Stdio::null());
    qemu.stderr(File::create(folder.join("qemu.log"))?);
    Ok(qemu)
}
