//! The lab itself is as the other tests expect it.

use std::time::Duration;

use anyhow::Result;

use crate::harness;

#[test]
fn nic_is_alone_in_its_group_on_node_1() -> Result<()> {
    let host = harness::host("nic");
    let sysfs = host.nic_sysfs();
    assert_eq!(host.run(&format!("ls {sysfs}/iommu_group/devices"))?, host.nic());
    if host.is_lab() {
        assert_eq!(host.read(&format!("{sysfs}/numa_node"))?, "1");
    }
    Ok(())
}

#[test]
fn node_1_has_huge_pages_and_two_cpus() -> Result<()> {
    let host = harness::host("nic");
    if host.is_lab() {
        let node = "/sys/devices/system/node/node1";
        assert_eq!(host.read(&format!("{node}/hugepages/hugepages-1048576kB/nr_hugepages"))?, "2");
        assert_eq!(host.read(&format!("{node}/cpulist"))?, "2-3");
    }
    host.run("test -c /dev/kvm").map(drop)
}

#[test]
fn nic_goes_to_vfio_and_back() -> Result<()> {
    let host = harness::host("nic");
    let driver = format!("basename \"$(readlink {}/driver)\"", host.nic_sysfs());
    host.bind_vfio()?;
    assert_eq!(host.run(&driver)?, "vfio-pci");
    host.bind("")?;
    assert_ne!(host.run(&driver)?, "vfio-pci");
    Ok(())
}

#[test]
fn background_process_is_watched_fed_and_killed() -> Result<()> {
    let host = harness::host("nic");
    let cat = host.spawn("cat")?;
    assert_eq!(cat.status()?, None);
    cat.send("hello\n")?;
    cat.wait_for("hello", Duration::from_secs(10))?;
    cat.signal("TERM")?;
    assert_eq!(cat.wait(Duration::from_secs(10))?, 128 + 15);
    Ok(())
}

#[test]
fn script_past_its_limit_is_killed() -> Result<()> {
    let host = harness::host("nic");
    let output = host.exec_with("sleep 100", &[], Duration::from_secs(1))?;
    assert_eq!(output.status, 128 + 9);
    Ok(())
}

#[test]
fn capture_and_monitor_see_the_nic_from_outside() -> Result<()> {
    let host = harness::host("nic");
    let Some(before) = host.outside_capture()? else {
        return Ok(());
    };
    let link = |up: bool| {
        host.monitor("set_link", &serde_json::json!({"name": "nic", "up": up})).map(drop)
    };
    host.bind("")?;
    link(false)?;
    link(true)?;
    host.run(
        "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
         until [ \"$(cat /sys/class/net/eth0/carrier)\" = 1 ]; do sleep 0.2; done
         ping -c 1 -W 10 10.0.2.2
         ip link set eth0 down; ip addr flush dev eth0",
    )?;
    let frames = host.outside_capture()?.unwrap_or_default();
    let pings = frames[before.len()..].iter().filter(|frame| frame.icmp_type() == Some(8));
    assert!(pings.into_iter().any(|frame| frame.source == host.mac()));
    Ok(())
}

#[test]
fn hosts_without_a_working_iommu_have_no_groups() -> Result<()> {
    for profile in ["no-iommu", "iommu-off"] {
        let host = harness::host(profile);
        assert_eq!(host.run("ls /sys/kernel/iommu_groups")?, "", "{profile}");
    }
    Ok(())
}

#[test]
fn host_without_interrupt_remapping_says_so() -> Result<()> {
    let host = harness::host("no-intremap");
    host.run(&format!("test -e {}/iommu_group", host.nic_sysfs()))?;
    let log = host.run("dmesg")?;
    assert!(!log.contains("Enabled IRQ remapping"), "{log}");
    Ok(())
}
