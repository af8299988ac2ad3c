//! Both ways to VFIO on one host that has them: a container, and iommufd with device files.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::harness::{self, GuestConfig, Host, Process};
use crate::postconditions::{kernel_is_content, nic_is_free};

const LIMIT: Duration = Duration::from_secs(240);
const PEER: &str = "0000:02:00.0";
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// What `berth plan` says of the machine, as JSON and for people.
fn plan(host: &Host, config: &GuestConfig) -> Result<(Value, String)> {
    let (berth, path) = (host.berth()?, format!("{}/plan.json", host.scratch()));
    host.write(&path, &config.to_string())?;
    let json = serde_json::from_str(&host.run(&format!("{berth} plan --json {path}"))?)?;
    Ok((json, host.run(&format!("{berth} plan {path}"))?))
}

/// VFIO's and iommufd's files that a running berth has open; those without a path are a device
/// from its group, and KVM's own.
fn open_files(host: &Host, guest: &Process) -> Result<Vec<String>> {
    let links = host.run(&format!(
        "for fd in /proc/{}/fd/*; do readlink $fd; done | grep -E '^/dev/(vfio|iommu)' | sort -u; true",
        guest.machine()?
    ))?;
    Ok(links.lines().map(str::to_owned).collect())
}

/// Boots the guest on `backend` and has it ping; ends it in order. Returns the files that VFIO
/// had open.
fn ping_and_end(host: &Host, config: &GuestConfig) -> Result<Vec<String>> {
    let skip = host.outside_capture()?.unwrap_or_default().len();
    let guest = host.run_guest(&config.clone().verbs("net,commands"))?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    let before = guest.in_guest("interrupts", LIMIT)?;
    assert_eq!(guest.in_guest("pings 10; sleep 3", LIMIT)?, "L2: ping 10/10");
    let after = guest.in_guest("interrupts", LIMIT)?;
    println!("interrupts in the guest:\n{before}\n{after}");
    let vectors = after.lines().zip(before.lines()).filter(|(after, before)| after != before);
    ensure!(vectors.count() > 1, "vectors are silent:\n{before}\n{after}");
    let kinds = guest.in_guest("cat /sys/class/net/eth0/device/msi_irqs/* | sort -u", LIMIT)?;
    assert_eq!(kinds, "msix");

    let frames = host.outside_capture()?.unwrap_or_default();
    let frames = &frames[skip..];
    let count = |kind| frames.iter().filter(move |frame| frame.icmp_type() == Some(kind));
    let sent = count(ECHO_REQUEST).filter(|frame| frame.source == host.mac()).count();
    let answered = count(ECHO_REPLY).filter(|frame| frame.destination == host.mac()).count();
    assert_eq!((sent, answered), (10, 10), "frames with the guest's MAC on the wire");

    let files = open_files(host, &guest)?;
    guest.send("end\n")?;
    guest.must_end(0, LIMIT)?;
    assert_eq!(guest.stderr()?, "");
    nic_is_free(host)?;
    kernel_is_content(host)?;
    Ok(files)
}

fn group_file(host: &Host) -> Result<String> {
    host.run(&format!("echo /dev/vfio/$(basename $(readlink {}/iommu_group))", host.nic_sysfs()))
}

fn device_file(host: &Host) -> Result<String> {
    host.run(&format!("echo /dev/vfio/devices/$(ls {}/vfio-dev)", host.nic_sysfs()))
}

/// Gives the second NIC to vfio-pci too; the machine's devices then.
fn with_peer(host: &Host) -> Result<Value> {
    let sysfs = format!("/sys/bus/pci/devices/{PEER}");
    host.bind_vfio()?;
    host.run(&format!(
        "echo vfio-pci >{sysfs}/driver_override
         [ ! -e {sysfs}/driver ] || echo {PEER} >{sysfs}/driver/unbind
         echo {PEER} >/sys/bus/pci/drivers_probe
         [ -e {sysfs}/driver ]"
    ))?;
    Ok(json!([{ "address": host.nic() }, { "address": PEER }]))
}

#[test]
fn nic_works_through_iommufd() -> Result<()> {
    let host = harness::host("iommufd");
    host.bind_vfio()?;
    let config = GuestConfig::new(&host).set("/iommu_backend", "iommufd");
    let file = device_file(&host)?;
    let (json, text) = plan(&host, &config)?;
    assert_eq!(json["iommu"]["backend"], "iommufd");
    assert_eq!(json["pci"]["functions"][0]["vfio_file"], json!(file));
    assert!(text.contains("  backend       iommufd: as the config says"), "{text}");
    assert_eq!(ping_and_end(&host, &config)?, ["/dev/iommu", &file]);

    // It goes back to its own driver, and to a guest again.
    host.bind("")?;
    assert!(host.run(&format!("readlink {}/driver", host.nic_sysfs()))?.ends_with("/igb"));
    host.bind_vfio()?;
    ping_and_end(&host, &config).map(drop)
}

#[test]
fn nic_works_through_iommufd_in_1_gib_pages_of_a_compressed_kernel() -> Result<()> {
    let host = harness::host("iommufd");
    host.bind_vfio()?;
    let config = GuestConfig::new(&host).set("/iommu_backend", "iommufd");
    let config = config.huge_memory(1024).kernel("6.12").compressed_kernel();
    ping_and_end(&host, &config).map(drop)
}

#[test]
fn container_is_taken_where_both_are_there() -> Result<()> {
    let host = harness::host("iommufd");
    host.bind_vfio()?;
    let files = ["/dev/vfio/vfio".to_owned(), group_file(&host)?];
    let config = GuestConfig::new(&host);
    let (json, text) = plan(&host, &config)?;
    assert_eq!(json["iommu"]["backend"], "container");
    assert!(text.contains("  backend       container: it maps BARs too"), "{text}");
    let (json, _) = plan(&host, &config.clone().set("/iommu_backend", "container"))?;
    assert_eq!(json["iommu"]["reason"], "as the config says");
    let mut opened = ping_and_end(&host, &config)?;
    opened.sort_by_key(|file| *file != files[0]);
    assert_eq!(opened, files);
    Ok(())
}

#[test]
fn user_with_the_device_file_alone_runs_through_iommufd() -> Result<()> {
    let host = harness::host("iommufd");
    host.bind_vfio()?;
    let file = device_file(&host)?;
    host.run(&format!(
        "chmod 666 /dev/kvm /dev/iommu; chown 1000 {file}; chmod 711 {}",
        host.scratch()
    ))?;
    let config = GuestConfig::new(&host).verbs("net,ping:3,poweroff");
    let path = format!("{}/user.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let berth = host.berth()?;
    let run =
        |command: &str| format!("ulimit -l 600000; exec su user -c '{berth} {command} {path}'");
    let plan = host.run(&run("plan"))?;
    let guest = host.spawn(&format!("sh -c \"{}\"", run("run")))?;
    let status = guest.wait(LIMIT)?;
    let console = guest.stdout()?;
    host.run(&format!("chmod 600 /dev/kvm; chmod 660 /dev/iommu; chown 0 {file}"))?;
    assert!(
        plan.contains(&format!(
            "iommufd: cannot use {}: {} may not be opened by this process",
            host.nic(),
            group_file(&host)?
        )),
        "{plan}"
    );
    assert!(status == 0 && console.contains("L2: ping 3/3"), "{status}\n{}", guest.everything());
    Ok(())
}

#[test]
fn iommufd_is_taken_where_the_container_is_missing() -> Result<()> {
    let host = harness::host("iommufd");
    // Its own driver has it: berth takes it for the run, and its file appears only then.
    host.bind("")?;
    host.run("mv /dev/vfio/vfio /dev/vfio/away")?;
    let device = json!([{ "address": host.nic(), "bind": "auto" }]);
    let config = GuestConfig::new(&host).set("/devices", device).verbs("net,ping:3,poweroff");
    let path = format!("{}/missing.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let report = host.exec(&format!("{} check {path}", host.berth()?))?;
    let (_, text) = plan(&host, &config)?;
    let guest = host.run_guest(&config)?;
    let status = guest.wait(LIMIT)?;
    host.run("mv /dev/vfio/away /dev/vfio/vfio")?;

    assert!(text.contains("  backend       iommufd: /dev/vfio/vfio does not exist"), "{text}");
    assert!(!report.stdout.contains("VFIO-NO"), "{}", report.stdout);
    let console = guest.stdout()?;
    assert!(status == 0 && console.contains("L2: ping 3/3"), "{status}\n{}", guest.everything());
    assert!(host.run(&format!("readlink {}/driver", host.nic_sysfs()))?.ends_with("/igb"));
    kernel_is_content(&host)
}

#[test]
fn two_devices_share_either_address_space() -> Result<()> {
    let host = harness::host("iommufd");
    let devices = with_peer(&host)?;
    for (backend, says) in [
        ("iommufd", "  peer-to-peer  none: iommufd cannot map BARs"),
        ("container", "  peer-to-peer  devices reach each other's BARs"),
    ] {
        let config = GuestConfig::new(&host)
            .set("/devices", devices.clone())
            .set("/iommu_backend", backend)
            .verbs("net,ping:3,pci,poweroff");
        let (_, text) = plan(&host, &config)?;
        assert!(text.contains(says), "{text}");
        let guest = host.run_guest(&config)?;
        guest.must_end(0, LIMIT)?;
        let console = guest.stdout()?;
        for part in ["L2: ping 3/3", "0000:01:00.0 8086:10c9 igb", "0000:02:00.0 8086:10c9 igb"] {
            assert!(console.contains(part), "{part}: {console}");
        }
        // Neither backend was asked for what it cannot do.
        assert_eq!(guest.stderr()?, "", "{backend}");
        nic_is_free(&host)?;
        kernel_is_content(&host)?;
    }
    Ok(())
}

#[test]
fn narrow_iommu_is_seen_before_anything_is_placed() -> Result<()> {
    let host = harness::host("narrow-iommu");
    let devices = with_peer(&host)?;
    let config = GuestConfig::new(&host).set("/devices", devices).verbs("net,ping:3,poweroff");
    let (json, _) = plan(&host, &config)?;
    // All BARs are where the IOMMU can map them for the other device.
    assert_eq!(json["pci"]["roots"][0]["window64"]["end"], json!(1u64 << 39));
    assert_eq!(json["notes"], json!([]));

    let path = format!("{}/narrow.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let guest = host.spawn(&format!("env RUST_LOG=berth=debug {} run {path}", host.berth()?))?;
    guest.must_end(0, LIMIT)?;
    assert!(guest.stdout()?.contains("L2: ping 3/3"), "{}", guest.everything());
    // What the kernel itself says agrees with what the plan was made from.
    let log = guest.stderr()?;
    assert!(log.contains("the IOMMU can map [0..=fedfffff, fef00000..=7fffffffff]"), "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    kernel_is_content(&host)
}
