//! Commands on a folder that is laid out as a host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

const NIC: &str = "0000:41:00.0";

/// A host with a NIC that its driver has, and a pool of huge pages; and a folder for the journal.
fn host() -> (tempfile::TempDir, tempfile::TempDir, Target) {
    let (root, state) = (tempfile::tempdir(), tempfile::tempdir());
    let (root, state) = (root.expect("a folder"), state.expect("a folder"));
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    let nic = format!("sys/bus/pci/devices/{NIC}");
    for (name, text) in [
        ("vendor", "0x8086"),
        ("class", "0x020000"),
        ("driver_override", "(null)"),
        ("net/eth0/ifindex", "2"),
    ] {
        put(&format!("{nic}/{name}"), text);
    }
    put("sys/bus/pci/drivers/vfio-pci/bind", "");
    put("sys/bus/pci/drivers/igb/bind", "");
    put("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "3");
    put(&format!("sys/kernel/iommu_groups/14/devices/{NIC}"), "");
    for (link, target) in
        [("driver", "../../drivers/igb"), ("iommu_group", "../../../../kernel/iommu_groups/14")]
    {
        symlink(target, root.path().join(&nic).join(link)).expect("a link");
    }
    let target = Target::at(root.path(), state.path());
    (root, state, target)
}

/// All files below `folder` with their texts.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_symlink() {
            let target = fs::read_link(&path).expect("a link");
            all.insert(path.display().to_string(), target.display().to_string());
        } else if path.is_dir() {
            all.extend(files(&path));
        } else {
            let text = fs::read_to_string(&path).expect("text");
            all.insert(path.display().to_string(), text);
        }
    }
    all
}

#[test]
fn a_rehearsal_says_what_would_be_done_and_changes_nothing() {
    let (root, _state, target) = host();
    let before = files(root.path());
    let options = BindOptions { dry_run: true, persist: true, ..BindOptions::default() };
    let report = bind(&target, &[NIC.parse().expect("an address")], options).expect("a report");
    let sysfs = format!("/sys/bus/pci/devices/{NIC}");
    assert_eq!(
        report.commands,
        [
            format!("echo vfio-pci > {sysfs}/driver_override"),
            format!("echo {NIC} > {sysfs}/driver/unbind"),
            format!("echo {NIC} > /sys/bus/pci/drivers/vfio-pci/bind"),
        ]
    );
    assert!(report.files[0].starts_with("wrote /etc/modprobe.d/berth.conf"), "{:?}", report.files);
    assert_eq!(files(root.path()), before);
}

/// The initial RAM disk is that of the host in question, whatever this one has.
#[test]
fn the_hosts_own_tool_makes_its_initial_ram_disk() {
    for (tool, command) in [
        ("usr/sbin/update-initramfs", "`update-initramfs -u`"),
        ("usr/bin/mkinitcpio", "`mkinitcpio -P`"),
        ("sbin/mkinitfs", "`mkinitfs`"),
    ] {
        let (root, _state, target) = host();
        let tool = root.path().join(tool);
        fs::create_dir_all(tool.parent().expect("a folder")).expect("a folder");
        fs::write(tool, "").expect("a file");
        let options = BindOptions { dry_run: true, persist: true, ..BindOptions::default() };
        let report = bind(&target, &[NIC.parse().expect("an address")], options).expect("a report");
        let step = report.files.last().expect("a step");
        assert!(step.contains(command), "{step}");
    }
}

#[test]
fn what_a_command_changed_is_restored() {
    let (root, _state, target) = host();
    let before = files(root.path());
    reserve(&target, None, PageSize::Size1G, 8).expect("room");
    assert_ne!(files(root.path()), before);
    let report = restore(&target, BindOptions::default()).expect("a report");
    assert!(report.check().is_ok(), "{report}");
    assert_eq!(files(root.path()), before);
}

#[test]
fn force_says_by_name_what_it_overrides() {
    let (root, _state, target) = host();
    let net = root.path().join("proc/net");
    fs::create_dir_all(&net).expect("a folder");
    fs::write(
        net.join("route"),
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
         eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n",
    )
    .expect("a file");
    let nic = [NIC.parse().expect("an address")];
    let dry_run = BindOptions { dry_run: true, ..BindOptions::default() };
    let error = bind(&target, &nic, dry_run).expect_err("the default route uses it");
    assert!(matches!(error, BindingError::InUse { .. }), "{error}");
    let forced = bind(&target, &nic, BindOptions { force: true, ..dry_run }).expect("a report");
    let note = format!("--force takes {NIC}, although it is eth0, which the default route uses");
    assert!(forced.notes.contains(&note), "{:?}", forced.notes);
}
