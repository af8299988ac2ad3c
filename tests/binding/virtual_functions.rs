//! Virtual functions: their number, their ports, who has them, and how a run comes by them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{GUEST_LIMIT, auto, berth, driver, host, refused, start, state};
use crate::harness::Host;

#[test]
fn virtual_functions_come_with_their_ports_and_go() -> Result<()> {
    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let (nic, before) = (host.nic().to_owned(), state(&host)?);
    let ports =
        "--vf 0,mac=52:54:00:00:00:10,spoof-check=off --vf 1,mac=52:54:00:00:00:11,vlan=7,trust=on";
    let report = berth(&host, &format!("sriov {nic} 2 {ports} --bind --json"))?;
    let report: Value = serde_json::from_str(&report)?;
    let functions = report["functions"].as_array().context("a list")?;
    assert_eq!(functions.len(), 2, "{report:#}");
    let port = |index: usize| &functions[index]["port"];
    assert_eq!(port(0)["mac"], "52:54:00:00:00:10");
    assert_eq!(port(0)["spoof_check"], false);
    assert_eq!(port(1)["mac"], "52:54:00:00:00:11");
    assert_eq!((&port(1)["vlan"], &port(1)["trust"]), (&Value::from(7), &Value::from(true)));
    for function in functions {
        assert_eq!(function["driver"], "vfio-pci");
    }
    let text = berth(&host, &format!("sriov {nic} 2 {ports} --bind"))?;
    ensure!(text.contains("nothing to change"), "{text}");
    let error = refused(&host, &format!("bind {nic}"))?;
    ensure!(error.contains("has 2 virtual functions"), "{error}");

    // A process that has one open through VFIO.
    let group = functions[1]["group"].as_u64().context("a group")?;
    let holder = host.spawn(&format!("sh -c 'exec 9<>/dev/vfio/{group}; echo open; sleep 100'"))?;
    holder.wait_for("open", Duration::from_secs(10))?;
    let error = refused(&host, &format!("sriov {nic} 1"))?;
    ensure!(error.contains("is in use") && error.contains("open"), "{error}");
    drop(holder);

    berth(&host, &format!("sriov {nic} 1"))?;
    let text = berth(&host, &format!("sriov {nic}"))?;
    ensure!(text.contains("1 of 7 VFs"), "{text}");
    berth(&host, "restore")?;
    assert_eq!(state(&host)?, before);
    Ok(())
}

/// A guest of the lab does not see the MAC: the emulated card answers no VF that is passed on.
#[test]
fn a_run_gets_a_free_vf_with_the_port_of_its_config() -> Result<()> {
    const MAC: &str = "52:54:00:00:00:42";

    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let nic = host.nic().to_owned();
    berth(&host, &format!("sriov {nic} 2"))?;
    let (before, ports) = (state(&host)?, berth(&host, &format!("sriov {nic}"))?);
    let config = auto(&host, "pci,wait")
        .set("/devices/0/address", serde_json::json!({ "free_vf_of": nic }))
        .set("/devices/0/mac", MAC);
    let guest = start(&host, &config)?;
    let console = guest.wait_for("L2: waiting", GUEST_LIMIT)?;
    ensure!(console.contains("8086:10ca igbvf"), "{}", guest.everything());
    let text = berth(&host, &format!("sriov {nic}"))?;
    let vf = text.lines().find(|line| line.contains(MAC)).context("a VF has the MAC")?;
    ensure!(vf.contains("vfio-pci") && vf.contains("(berth)"), "{text}");
    guest.send("end\n")?;
    assert_eq!(guest.wait(GUEST_LIMIT)?, 0, "{}", guest.everything());
    assert_eq!(state(&host)?, before, "{}", guest.everything());
    assert_eq!(berth(&host, &format!("sriov {nic}"))?, ports, "{}", guest.everything());
    berth(&host, "restore").map(drop)
}

/// The host's own virtual functions, made without berth and driven by igbvf.
fn make_by_hand(host: &Host, count: u32) -> Result<()> {
    let nic = host.nic_sysfs();
    host.run(&format!(
        "modprobe igbvf; echo {count} > {nic}/sriov_numvfs
         for n in 0 1 2 3 4 5; do [ -e {nic}/virtfn0/driver ] && break; sleep 0.2; done"
    ))
    .map(drop)
}

fn remove_by_hand(host: &Host) -> Result<()> {
    host.run(&format!("echo 0 > {}/sriov_numvfs; rmmod igbvf", host.nic_sysfs())).map(drop)
}

fn address(host: &Host, index: u32) -> Result<String> {
    host.run(&format!("basename \"$(readlink {}/virtfn{index})\"", host.nic_sysfs()))
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() -> Result<()> {
    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let (nic, before) = (host.nic().to_owned(), state(&host)?);
    let all = |arguments: &str, words: &[&str]| -> Result<()> {
        let error = refused(&host, arguments)?;
        for word in words {
            ensure!(error.contains(word), "{word} in the answer to {arguments}:\n{error}");
        }
        Ok(())
    };
    all(
        &format!("sriov {nic} 8"),
        &["has at most 7 virtual functions, not 8", "help: ask for 7 or fewer"],
    )?;
    all("sriov 0000:00:1f.2 1", &["0000:00:1f.2 has no virtual functions to offer", "help: "])?;
    all(&format!("sriov {nic} 1 --vf 1,vlan=7"), &["there is no VF 1 of", "help: indexes"])?;
    assert_eq!(state(&host)?, before);

    make_by_hand(&host, 2)?;
    let (made, vf) = (state(&host)?, address(&host, 0)?);
    assert_eq!(driver(&host, &vf)?, "igbvf");
    all(&format!("sriov {vf} 1"), &["has no virtual functions to offer (SR-IOV): it is one"])?;
    let persist = format!("bind {vf} --persist");
    all(&persist, &["not there yet when the host boots", &format!("berth sriov {nic} N --bind")])?;
    // Its network device has an address.
    host.run(&format!("ip addr add 192.0.2.9/24 dev $(ls /sys/bus/pci/devices/{vf}/net)"))?;
    for arguments in [format!("sriov {nic} 1"), format!("sriov {nic} 0"), format!("bind {vf}")] {
        all(&arguments, &[&format!("{vf} is in use: it is eth"), "with 192.0.2.9/24", "--force"])?;
    }
    assert_eq!(state(&host)?, made);
    remove_by_hand(&host)?;
    assert_eq!(state(&host)?, before);
    Ok(())
}

/// Two VFs of one variable, as Kubernetes' SR-IOV device plugin hands them to a container; on a
/// host that has not loaded vfio-pci.
#[test]
fn a_run_gets_what_the_environment_names_and_keeps_it() -> Result<()> {
    const VARIABLE: &str = "PCIDEVICE_EXAMPLE_COM_NIC";

    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let nic = host.nic().to_owned();
    make_by_hand(&host, 3)?;
    let before = state(&host)?;
    let [first, second] = [address(&host, 2)?, address(&host, 0)?];
    let device = json!({ "address": { "env": VARIABLE }, "bind": "auto" });
    let config = auto(&host, "pci,wait").set("/devices", json!([device, device]));
    let path = format!("{}/environment.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let error = refused(&host, &format!("plan {path}"))?;
    ensure!(error.contains(&format!("${VARIABLE}, which is not set")), "{error}");
    host.run("rmmod vfio-pci")?;

    let run = |scratch: &str| -> Result<String> {
        let berth = host.berth()?;
        let text = format!("env {VARIABLE}={first},{second} BERTH_STATE_DIR={}", super::STATE);
        Ok(format!("{text} {berth} run {scratch}"))
    };
    let guest = host.spawn(&run(&path)?)?;
    let console = guest.wait_for("L2: waiting", GUEST_LIMIT)?;
    assert_eq!(console.matches("8086:10ca igbvf").count(), 2, "{}", guest.everything());
    for vf in [&first, &second] {
        assert_eq!(driver(&host, vf)?, "vfio-pci");
    }
    assert_eq!(driver(&host, &address(&host, 1)?)?, "igbvf", "the third is nobody's business");

    // Another machine wants the same, and the host wants them back.
    let other = host.exec(&run(&path)?)?;
    ensure!(other.status == 3, "status {}\n{}", other.status, other.stderr);
    ensure!(other.stderr.contains("(berth)"), "{}", other.stderr);
    for arguments in [format!("sriov {nic} 0"), format!("sriov {nic} 4"), format!("unbind {first}")]
    {
        let error = refused(&host, &arguments)?;
        let says = error.contains("is in use: it is open in process")
            || error.contains("belong to a machine that runs");
        ensure!(says, "{arguments}: {error}");
    }
    guest.send("end\n")?;
    assert_eq!(guest.wait(GUEST_LIMIT)?, 0, "{}", guest.everything());
    assert_eq!(state(&host)?, before, "{}", guest.everything());
    remove_by_hand(&host)
}

#[test]
fn numbers_come_back_after_the_physical_driver_was_away() -> Result<()> {
    const PORT: &str = "--vf 0,mac=52:54:00:00:00:10,vlan=7";

    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let (nic, sysfs, before) = (host.nic().to_owned(), host.nic_sysfs(), state(&host)?);
    let own = driver(&host, &nic)?;
    let away = format!("echo {nic} > {sysfs}/driver/unbind");
    let back = format!("echo {nic} > /sys/bus/pci/drivers/{own}/bind");

    // Its virtual functions go with the driver; asked again, berth makes them again.
    berth(&host, &format!("sriov {nic} 2 {PORT} --bind"))?;
    let made = berth(&host, &format!("sriov {nic}"))?;
    host.run(&format!("{away}; {back}"))?;
    let text = berth(&host, &format!("sriov {nic}"))?;
    ensure!(text.contains("0 of 7 VFs"), "{text}");
    berth(&host, &format!("sriov {nic} 2 {PORT} --bind"))?;
    assert_eq!(berth(&host, &format!("sriov {nic}"))?, made);
    host.run(&format!("{away}; {back}"))?;
    berth(&host, "restore")?;
    assert_eq!(state(&host)?, before);

    // The host's own are put back when their card's driver is there again, and not before.
    make_by_hand(&host, 3)?;
    let made = state(&host)?;
    berth(&host, &format!("sriov {nic} 1"))?;
    assert_eq!(driver(&host, &address(&host, 0)?)?, "igbvf", "the host's drivers take new ones");
    host.run(&away)?;
    let output =
        host.exec(&format!("BERTH_STATE_DIR={} {} restore", super::STATE, host.berth()?))?;
    ensure!(output.status != 0, "{}", output.stdout);
    let text = output.stdout + &output.stderr;
    for word in [&format!("number of VFs of {nic} is NOT again 3"), "`berth restore` tries again"] {
        ensure!(text.contains(word), "{word}: {text}");
    }
    host.run(&back)?;
    berth(&host, "restore")?;
    assert_eq!(state(&host)?, made);
    remove_by_hand(&host)
}
