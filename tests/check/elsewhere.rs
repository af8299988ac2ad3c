//! What is seen without root, and what of a host can be seen on another one.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::report;
use crate::harness::{self, GuestConfig, Host};

/// What only the host itself tells: whether VFIO's device files open to who asks, and attach. Whether KVM makes
/// a virtual machine is in a snapshot.
const LIVE_ONLY: [&str; 3] = ["GROUP-HELD", "VFIO-ATTACH", "VFIO-NO-ACCESS"];

/// Profiles of hosts with a fault from their boot on.
const FAULTY: [&str; 4] = ["bare", "no-iommu", "iommu-off", "no-intremap"];

/// Runs berth on this machine; its exit code and standard output.
fn here(arguments: &[&str]) -> Result<(i32, String)> {
    let berth = std::env::var("BERTH_BIN").context("BERTH_BIN names no berth")?;
    let output = Command::new(berth).args(arguments).output()?;
    ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let status = output.status.code().context("killed by a signal")?;
    Ok((status, String::from_utf8(output.stdout)?))
}

/// What a finding says, wherever it was seen.
fn said(finding: &Value) -> Value {
    let mut finding = finding.clone();
    if let Some(finding) = finding.as_object_mut() {
        finding.remove("source");
    }
    finding
}

fn findings(report: &Value) -> Vec<Value> {
    let all = report["findings"].as_array().into_iter().flatten();
    let kept = all.filter(|f| !LIVE_ONLY.iter().any(|code| f["code"] == *code));
    kept.map(said).collect()
}

/// A listing without names, which every machine takes from its own pci.ids.
fn nameless(listing: &str) -> Result<Value> {
    let mut listing: Value = serde_json::from_str(listing)?;
    for device in listing["devices"].as_array_mut().context("devices")? {
        let device = device.as_object_mut().context("a device")?;
        device.retain(|key, _| !key.ends_with("_name"));
    }
    listing["lacks"] = Value::Null;
    Ok(listing)
}

struct Seen {
    check: Value,
    plan: String,
    devices: Value,
}

/// A plan without what changes by itself, or is seen on the host only: how many small pages are
/// free, and whether a device file is there that only some kernels have.
fn timeless(plan: &str) -> String {
    let changes = |line: &&str| line.contains(" free 4K pages") || line.contains("  backend ");
    plan.lines().filter(|line| !changes(line)).collect::<Vec<_>>().join("\n")
}

impl Seen {
    fn on(host: &Host, config: &str) -> Result<Self> {
        let berth = host.berth()?;
        Ok(Self {
            check: report(host, &format!("{berth} check {config} --json"))?,
            plan: host.run(&format!("{berth} plan {config}"))?,
            devices: nameless(&host.run(&format!("{berth} devices --json"))?)?,
        })
    }

    /// The same of a capture, seen from here.
    fn of(capture: &Path, config: &str) -> Result<Self> {
        let capture = capture.to_str().context("a path")?;
        let (code, check) = here(&["check", config, "--json", "--host", capture])?;
        ensure!(code == 0 || code == 3, "exit code {code}");
        let (code, plan) = here(&["plan", config, "--host", capture])?;
        ensure!(code == 0, "exit code {code}: {plan}");
        let (_, devices) = here(&["devices", "--json", "--host", capture])?;
        Ok(Self {
            check: serde_json::from_str(&check)?,
            plan: plan.trim_end().to_owned(),
            devices: nameless(&devices)?,
        })
    }

    fn must_be(&self, live: &Self) -> Result<()> {
        assert_eq!(findings(&self.check), findings(&live.check));
        assert_eq!(timeless(&self.plan), timeless(&live.plan));
        assert_eq!(self.devices, live.devices);
        for code in LIVE_ONLY {
            let all = self.check["findings"].as_array().into_iter().flatten();
            let mut of_code = all.filter(|finding| finding["code"] == code);
            ensure!(of_code.all(|f| f["severity"] == "unknown"), "{code} in {:#}", self.check);
        }
        let lacks = self.check["lacks"].as_array().context("a list")?;
        ensure!(lacks.is_empty(), "the capture lacks {lacks:?}");
        Ok(())
    }
}

fn shell(script: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_captured_host_is_the_same_elsewhere() -> Result<()> {
    let host = harness::host("faults");
    host.bind_vfio()?;
    host.run("echo ID=debian >/etc/os-release")?;
    let config = GuestConfig::new(&host).to_string();
    let path = format!("{}/vm.json", host.scratch());
    host.write(&path, &config)?;
    let live = Seen::on(&host, &path)?;
    let folder = tempfile::tempdir()?;
    let local = folder.path().join("vm.json");
    std::fs::write(&local, &config)?;
    let local = local.to_str().context("a path")?;

    host.run(&format!("{} snapshot >{}/host.tar.zst", host.berth()?, host.scratch()))?;
    let capture = host.pull(&format!("{}/host.tar.zst", host.scratch()))?;
    host.run("rm /etc/os-release")?;
    Seen::of(&capture, local)?.must_be(&live)?;

    // Made again by others' tools, below a folder of any name or not.
    let at = folder.path().display();
    shell(&format!(
        "cd {at}; mkdir plain leading; tar --zstd -xf {0} -C plain; cp -a plain leading/some-host
         tar -cf host.tar -C plain .; tar -czf host.tar.gz leading/some-host
         tar -cjf host.tar.bz2 -C leading some-host; tar -cJf host.tar.xz -C plain .
         tar --zstd -cf again.tar.zst -C leading ./some-host",
        capture.display()
    ))?;
    for form in [
        "plain",
        "leading",
        "host.tar",
        "host.tar.gz",
        "host.tar.bz2",
        "host.tar.xz",
        "again.tar.zst",
    ] {
        Seen::of(&folder.path().join(form), local)?.must_be(&live).context(form)?;
    }

    // What the host calls itself, its networks and its cards.
    let (mac, address) = (host.mac().replace(':', ""), host.mac().to_owned());
    for secret in [address.as_str(), &mac, "berth-secret"] {
        let script = format!("! grep -rqaiF '{secret}' {at}/plain");
        shell(&script).with_context(|| format!("{secret} is in the capture"))?;
    }
    Ok(())
}

/// Every finding of a snapshot that is told there too, with how it stands; sorted, each by its code
/// and device.
fn verdicts(report: &Value) -> Vec<String> {
    let of = |f: &Value| format!("{} {} {}", f["code"], f["device"], f["severity"]);
    let mut all: Vec<String> = findings(report).iter().map(of).collect();
    all.sort_unstable();
    all
}

/// `berth check` on the host, and on a snapshot of it that was taken just then.
fn both(host: &Host, config: &str) -> Result<[Value; 2]> {
    let berth = host.berth()?;
    let snapshot = format!("{}/now.tar.zst", host.scratch());
    let live = report(host, &format!("{berth} check {config} --json"))?;
    host.run(&format!("{berth} snapshot >{snapshot}"))?;
    let command = format!("{berth} check {config} --json --host {snapshot}; true");
    let captured = host.exec(&command)?;
    let captured = serde_json::from_str(&captured.stdout)
        .with_context(|| format!("no report: {}{}", captured.stdout, captured.stderr))?;
    Ok([live, captured])
}

#[test]
fn a_snapshot_and_its_host_agree_on_every_finding() -> Result<()> {
    for profile in FAULTY {
        let host = harness::host(profile);
        let path = format!("{}/vm.json", host.scratch());
        host.write(&path, &GuestConfig::new(&host).to_string())?;
        let [live, captured] = both(&host, &path)?;
        assert_eq!(verdicts(&captured), verdicts(&live), "{profile}");
        ensure!(live["verdict"] == "not_ready", "{profile} has no fault: {live:#}");
        assert_eq!(captured["verdict"], live["verdict"], "{profile}");
    }
    // Faults that a host can be brought to and back from, many at once.
    let host = harness::host("faults");
    host.bind("igb")?;
    let path = format!("{}/vm.json", host.scratch());
    host.write(&path, &GuestConfig::new(&host).to_string())?;
    for (break_it, mend_it) in [
        ("rmmod kvm-amd", "modprobe kvm-amd"),
        ("echo 1 >/sys/kernel/mm/ksm/run", "echo 0 >/sys/kernel/mm/ksm/run"),
        ("modprobe virtio_balloon", "rmmod virtio_balloon"),
        (
            "mkdir -p /etc/modprobe.d; echo 'options vfio-pci ids=8086:10c9' >/etc/modprobe.d/x.conf",
            "rm /etc/modprobe.d/x.conf",
        ),
    ] {
        host.run(break_it)?;
        let seen = both(&host, &path);
        host.run(mend_it)?;
        let [live, captured] = seen?;
        assert_eq!(verdicts(&captured), verdicts(&live), "{break_it}");
        assert_eq!(captured["verdict"], live["verdict"], "{break_it}");
    }
    Ok(())
}

/// Only folders of CPUs and nodes, as hwloc gathers them.
#[test]
fn a_topology_alone_can_be_planned_for() -> Result<()> {
    let host = harness::host("faults");
    host.bind_vfio()?;
    let config = GuestConfig::new(&host).without_devices().to_string();
    let folder = tempfile::tempdir()?;
    let local = folder.path().join("vm.json");
    std::fs::write(&local, &config)?;
    let local = local.to_str().context("a path")?;
    let script = format!(
        "cd {}; mkdir -p topology/proc topology/sys/devices/system
         cp /proc/cpuinfo /proc/meminfo topology/proc
         cp -r /sys/devices/system/cpu /sys/devices/system/node topology/sys/devices/system 2>/dev/null
         tar -cf topology.tar topology",
        host.scratch()
    );
    host.run(&script)?;
    let capture = host.pull(&format!("{}/topology.tar", host.scratch()))?;
    let capture = capture.to_str().context("a path")?;
    let (code, plan) = here(&["plan", local, "--host", capture, "--json"])?;
    ensure!(code == 0, "{plan}");
    let plan: Value = serde_json::from_str(&plan)?;
    ensure!(plan["notes"].to_string().contains("not in the snapshot"), "{plan:#}");
    let (code, check) = here(&["check", local, "--host", capture, "--json"])?;
    ensure!(code == 6, "{code}, not 6: not seen enough: {check}");
    let check: Value = serde_json::from_str(&check)?;
    let lacks = check["lacks"].to_string();
    for path in ["/sys/bus/pci/devices", "/sys/kernel/iommu_groups", "/proc/cmdline"] {
        ensure!(lacks.contains(path), "{path} is not said to be lacking: {lacks}");
    }
    for code in ["IOMMU-OFF", "INTREMAP-OFF", "VFIO-NO-MODULE", "MEMLOCK-LOW"] {
        let all = check["findings"].as_array().into_iter().flatten();
        let guessed = all.filter(|f| f["code"] == code && f["severity"] != "unknown");
        assert_eq!(guessed.count(), 0, "{code} is guessed in {check:#}");
    }
    Ok(())
}

#[test]
fn without_root_it_says_what_it_could_not_see() -> Result<()> {
    let host = harness::host("faults");
    host.bind_vfio()?;
    let path = format!("{}/vm.json", host.scratch());
    host.write(&path, &GuestConfig::new(&host).to_string())?;
    host.run(&format!("chmod 711 {0}; chmod 644 {path}", host.scratch()))?;
    let berth = host.berth()?.to_owned();
    let as_root = report(&host, &format!("{berth} check {path} --json"))?;
    let as_user = report(&host, &format!("su user -c '{berth} check {path} --json'"))?;
    let severity = |report: &Value, code: &str| {
        let all = report["findings"].as_array().into_iter().flatten();
        let found = all.filter(|finding| finding["code"] == code).map(|f| f["severity"].clone());
        found.collect::<Vec<_>>()
    };
    for code in ["VECTORS-MANY", "DMA-FAULTS"] {
        assert_eq!(severity(&as_root, code), ["pass"], "{code}");
        assert_eq!(severity(&as_user, code), ["unknown"], "{code}");
    }
    for code in ["KVM-UNAVAILABLE", "VFIO-NO-ACCESS"] {
        ensure!(severity(&as_user, code).contains(&"fail".into()), "{code} in {as_user:#}");
    }
    // The rest is the same for everybody.
    for code in ["IOMMU-NARROW", "INTREMAP-OFF", "DEVICE-TAKEN-BACK", "SMALL-PAGES", "CPU-FAR"] {
        assert_eq!(severity(&as_user, code), severity(&as_root, code), "{code}");
    }
    let text = host.exec(&format!("su user -c '{berth} check {path}'"))?.stdout;
    ensure!(text.contains("????  "), "{text}");
    ensure!(!text.contains('\u{1b}'), "colour in a file: {text}");
    let listed = host.run(&format!("su user -c '{berth} devices'"))?;
    ensure!(listed.contains(host.nic()), "{listed}");
    host.run(&format!("su user -c '{berth} snapshot' >/dev/null"))?;
    Ok(())
}

#[test]
fn devices_are_told_apart() -> Result<()> {
    let host = harness::host("faults");
    host.bind("igb")?;
    let nic = host.nic().to_owned();
    let berth = host.berth()?.to_owned();
    let ids = "8086  Intel Corporation\n\t10c9  82576 Gigabit Network Connection\n";
    host.run("mkdir -p /usr/share/misc")?;
    host.write("/usr/share/misc/pci.ids", ids)?;
    host.run(&format!("echo 2 >{}/sriov_numvfs", host.nic_sysfs()))?;
    let listing = host.run(&format!("{berth} devices --json"))?;
    let text = host.run(&format!("{berth} devices"))?;
    host.run(&format!("echo 0 >{}/sriov_numvfs; rm /usr/share/misc/pci.ids", host.nic_sysfs()))?;
    println!("{text}");
    let listing: Value = serde_json::from_str(&listing)?;
    let of = |address: &str| {
        let mut all = listing["devices"].as_array().into_iter().flatten();
        all.find(|d| d["address"] == address).cloned().context(address.to_owned())
    };
    let pf = of(&nic)?;
    assert_eq!(pf["vendor_name"], "Intel Corporation");
    assert_eq!(pf["device_name"], "82576 Gigabit Network Connection");
    assert_eq!(pf["class_name"], "Ethernet controller");
    assert_eq!((&pf["driver"], &pf["numa_node"]), (&"igb".into(), &1.into()));
    assert_eq!(pf["sriov"], serde_json::json!({ "now": 2, "max": 7 }));
    ensure!(pf["reset_methods"].to_string().contains("flr"), "{pf:#}");
    assert_eq!(pf["link"]["speed"], "2.5 GT/s");
    assert_eq!(pf["state"], "has-vfs");
    let virtual_functions = listing["devices"].as_array().into_iter().flatten();
    let virtual_functions: Vec<_> =
        virtual_functions.filter(|device| device["physical_function"] == nic.as_str()).collect();
    assert_eq!(virtual_functions.len(), 2, "{listing:#}");
    assert_eq!(of("0000:41:00.0")?["state"], "no-iommu");
    // Through which this very test talks to the host.
    let shared = listing["devices"].as_array().into_iter().flatten();
    let shared =
        shared.filter(|device| device["obstacles"].to_string().contains("mounted on /lab"));
    assert_eq!(shared.count(), 1, "{listing:#}");
    let disk = of("0000:01:00.0")?;
    assert_eq!(disk["shares_group_with"], serde_json::json!(["0000:02:00.0"]));
    ensure!(text.lines().count() < 24, "more than a screen: {text}");
    ensure!(text.contains("Intel Corporation 82576 Gigabit Network Connection"), "{text}");
    Ok(())
}
