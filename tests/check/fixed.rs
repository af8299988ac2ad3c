//! `berth check --fix`: a host that lacks all that can be had at run time runs a machine after it,
//! and is as before after `berth restore`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{STATE, report};
use crate::harness::{self, GuestConfig, Host};

const GUEST_LIMIT: Duration = Duration::from_secs(240);

/// Drivers, overrides, pages.
fn state(host: &Host) -> Result<String> {
    host.run(
        "for f in /sys/bus/pci/devices/*; do
             d=none; [ ! -e $f/driver ] || d=$(basename $(readlink $f/driver))
             echo ${f##*/} $d $(cat $f/driver_override)
         done
         grep -H '' /sys/devices/system/node/node*/hugepages/*/nr_hugepages",
    )
}

#[test]
fn what_can_be_mended_is_and_the_machine_runs() -> Result<()> {
    let host = harness::host("faults");
    host.bind("igb")?;
    host.run(&format!(
        "rm -rf {STATE}; echo >{}/driver_override; rmmod vfio-pci vfio_iommu_type1 kvm-amd",
        host.nic_sysfs()
    ))?;
    let path = format!("{}/vm.json", host.scratch());
    let config = GuestConfig::new(&host).page_size("2M").verbs("pci,poweroff");
    host.write(&path, &config.to_string())?;
    let (berth, nic) = (host.berth()?, host.nic());
    let before = state(&host)?;

    let dry = host.exec(&format!("{berth} check {path} --dry-run"))?;
    ensure!(dry.status == 3, "{dry:?}");
    let pool = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";
    let steps = [
        "modprobe kvm_amd".to_owned(),
        "modprobe vfio-pci".to_owned(),
        "modprobe vfio_iommu_type1".to_owned(),
        format!("echo 128 > {pool}"),
        format!("berth bind {nic}"),
    ];
    let announced = dry.stdout.split("--fix would do this:\n").nth(1).context("the steps")?;
    let announced: Vec<&str> = announced.lines().map(str::trim).collect();
    assert_eq!(announced, steps);
    assert_eq!(state(&host)?, before, "--dry-run changed the host");
    ensure!(host.exec(&format!("{berth} run {path}"))?.status == 3, "it runs without any of it");

    let fixed =
        host.exec(&format!("export BERTH_STATE_DIR={STATE}; {berth} check {path} --fix"))?;
    ensure!(fixed.status == 0, "{}{}", fixed.stdout, fixed.stderr);
    ensure!(fixed.stdout.contains("\nready: 0 failed"), "{}", fixed.stdout);
    let shown = fixed.stderr.replace("berth: ", "");
    let mut shown = shown.lines();
    for step in &steps {
        ensure!(shown.any(|line| line == step), "{step} is not shown: {}", fixed.stderr);
        ensure!(shown.next().is_some_and(|line| line.contains("undone by")), "{}", fixed.stderr);
    }
    ensure!(host.read(pool)? == "128", "no pages");
    let again = report(&host, &format!("{berth} check {path} --fix --json"))?;
    ensure!(again["ready"] == true, "{again:#}");

    let guest = host.run_guest(&config)?;
    let console = guest.wait_for("L2: poweroff", GUEST_LIMIT)?;
    ensure!(console.contains("8086:10c9 igb"), "the guest has no NIC: {console}");
    guest.must_end(0, GUEST_LIMIT)?;

    let restored = host.run(&format!("export BERTH_STATE_DIR={STATE}; {berth} restore"))?;
    ensure!(restored.contains(nic), "{restored}");
    assert_eq!(state(&host)?, before, "after {restored}");
    Ok(())
}

/// What cannot be done is said, and what can be is done all the same.
#[test]
fn a_remedy_that_fails_stops_no_other() -> Result<()> {
    let host = harness::host("faults");
    host.bind("igb")?;
    host.run(&format!("rm -rf {STATE}; echo >{}/driver_override", host.nic_sysfs()))?;
    let path = format!("{}/vm.json", host.scratch());
    // More than the node has.
    let config = GuestConfig::new(&host).page_size("2M").set("/memory/size_mib", 65536);
    host.write(&path, &config.to_string())?;
    let before = state(&host)?;
    let berth = host.berth()?;
    let fixed =
        host.exec(&format!("export BERTH_STATE_DIR={STATE}; {berth} check {path} --fix"))?;
    ensure!(fixed.status == 3, "{}{}", fixed.stdout, fixed.stderr);
    ensure!(fixed.stderr.contains("hugepages"), "{}", fixed.stderr);
    let driver = host.run(&format!("basename $(readlink {}/driver)", host.nic_sysfs()))?;
    assert_eq!(driver, "vfio-pci");
    host.run(&format!("export BERTH_STATE_DIR={STATE}; {berth} restore"))?;
    assert_eq!(state(&host)?, before);
    Ok(())
}
