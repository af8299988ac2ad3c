//! Functions change hands on a real kernel, and whatever happens in between, they come back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::{self, GuestConfig, Host};

const STATE: &str = "/tmp/berth-state";
const GUEST_LIMIT: Duration = Duration::from_secs(120);

/// A host whose NIC its own driver has, with a journal of the test's own.
fn host() -> Result<harness::HostGuard> {
    let host = harness::host("nic");
    host.berth()?;
    host.run(&format!(
        "{}; ip link set eth0 down 2>/dev/null; ip addr flush dev eth0 2>/dev/null
         rm -rf {STATE}; true",
        clean_script(&host)
    ))?;
    host.bind("")?;
    host.run(&format!("echo > {}/driver_override", host.nic_sysfs()))?;
    Ok(host)
}

fn clean_script(host: &Host) -> String {
    format!("echo 0 > {0}/sriov_numvfs; echo 1 > {0}/sriov_drivers_autoprobe", host.nic_sysfs())
}

fn berth(host: &Host, arguments: &str) -> Result<String> {
    host.run(&format!("BERTH_STATE_DIR={STATE} {} {arguments}", host.berth()?))
}

fn refused(host: &Host, arguments: &str) -> Result<String> {
    let command = format!("BERTH_STATE_DIR={STATE} {} {arguments}", host.berth()?);
    let output = host.exec(&command)?;
    ensure!(output.status == 3, "status {} of {command}\n{}", output.status, output.stderr);
    Ok(output.stderr)
}

/// All that berth may change: drivers, overrides, numbers of VFs, ports, pages.
fn state(host: &Host) -> Result<String> {
    host.run(
        "for f in /sys/bus/pci/devices/*; do
             d=none; [ ! -e $f/driver ] || d=$(basename $(readlink $f/driver))
             echo ${f##*/} $d $(cat $f/driver_override) $(cat $f/sriov_numvfs $f/sriov_drivers_autoprobe 2>/dev/null)
         done
         cat /sys/devices/system/node/node*/hugepages/*/nr_hugepages",
    )
}

fn driver(host: &Host, address: &str) -> Result<String> {
    host.run(&format!("basename \"$(readlink /sys/bus/pci/devices/{address}/driver)\""))
}

#[test]
fn nic_is_bound_and_given_back() -> Result<()> {
    let host = host()?;
    let (nic, before) = (host.nic().to_owned(), state(&host)?);

    let dry = berth(&host, &format!("bind {nic} --dry-run"))?;
    ensure!(dry.contains(&format!("echo {nic} > /sys/bus/pci/drivers/vfio-pci/bind")), "{dry}");
    assert_eq!(state(&host)?, before);

    let report: Value = serde_json::from_str(&berth(&host, &format!("bind {nic} --json"))?)?;
    let function = &report["functions"][0];
    assert_eq!(function["driver"], "vfio-pci");
    let own = function["earlier_driver"].as_str().context("it had a driver")?.to_owned();
    let file = function["group_file"].as_str().context("VFIO offers it")?;
    host.run(&format!("test -c {file}"))?;
    assert_eq!(driver(&host, &nic)?, "vfio-pci");
    let again = berth(&host, &format!("bind {nic}"))?;
    ensure!(again.contains("nothing to change"), "{again}");

    let text = berth(&host, &format!("unbind {nic}"))?;
    ensure!(text.contains(&own), "{text}");
    assert_eq!(state(&host)?, before);

    berth(&host, &format!("bind {nic} --group"))?;
    let text = berth(&host, "restore")?;
    ensure!(text.contains(&format!("driver of {nic} is again {own}")), "{text}");
    assert_eq!(state(&host)?, before);
    assert_eq!(berth(&host, "restore")?, "nothing to put back");
    Ok(())
}

#[test]
fn what_the_host_uses_is_not_taken() -> Result<()> {
    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let nic = host.nic().to_owned();
    host.run(
        "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2",
    )?;
    let error = refused(&host, &format!("bind {nic}"))?;
    for word in ["is in use: it is eth0, which the default route uses", "--force"] {
        ensure!(error.contains(word), "{word}: {error}");
    }
    let error = refused(&host, "bind 0000:00:1f.0")?;
    ensure!(error.contains("is a bridge"), "{error}");
    let error = refused(&host, "bind 0000:7f:00.0")?;
    ensure!(error.contains("there is no PCI function"), "{error}");
    berth(&host, &format!("bind {nic} --force"))?;
    assert_eq!(driver(&host, &nic)?, "vfio-pci");
    berth(&host, "restore")?;
    host.run("ip link set eth0 down; ip addr flush dev eth0")?;
    Ok(())
}

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

fn auto(host: &Host, verbs: &str) -> GuestConfig {
    GuestConfig::new(host).set("/devices/0/bind", "auto").verbs(verbs)
}

fn start<'host>(host: &'host Host, config: &GuestConfig) -> Result<harness::Process<'host>> {
    let path = format!("{}/auto.json", host.scratch());
    host.write(&path, &config.to_string())?;
    host.spawn(&format!("env BERTH_STATE_DIR={STATE} {} run {path}", host.berth()?))
}

/// Until nothing of berth runs any more: the guard outlives a berth that was killed for a moment.
fn wait_for_guards(host: &Host) -> Result<()> {
    host.run(
        "n=0; while pidof berth || grep -qs berth-guard /proc/[0-9]*/comm; do
                  n=$((n + 1)); [ $n -lt 200 ] || exit 1; sleep 0.1; done",
    )
    .map(drop)
}

#[test]
fn a_run_takes_its_device_and_gives_it_back() -> Result<()> {
    let host = host()?;
    let before = state(&host)?;
    let guest = start(&host, &auto(&host, "net,ping:3,poweroff"))?;
    let console = guest.wait_for("L2: ping 3/3", GUEST_LIMIT)?;
    ensure!(console.contains(host.mac()), "{console}");
    assert_eq!(guest.wait(GUEST_LIMIT)?, 0, "{}", guest.everything());
    assert_eq!(state(&host)?, before, "{}", guest.everything());
    assert_eq!(berth(&host, "restore")?, "nothing to put back");
    Ok(())
}

#[test]
fn a_killed_run_loses_nothing() -> Result<()> {
    let host = host()?;
    let before = state(&host)?;
    let guest = start(&host, &auto(&host, "wait"))?;
    guest.wait_for("L2: waiting", GUEST_LIMIT)?;
    assert_eq!(driver(&host, host.nic())?, "vfio-pci");
    let report = berth(&host, "restore")?;
    ensure!(report.contains("is left alone") && report.contains("the machine runs"), "{report}");
    guest.signal("KILL")?;
    wait_for_guards(&host)?;
    assert_eq!(state(&host)?, before, "the guard gives it back");

    // Both killed: the next berth does.
    let guest = start(&host, &auto(&host, "wait"))?;
    guest.wait_for("L2: waiting", GUEST_LIMIT)?;
    host.run("kill -KILL $(grep -l berth-guard /proc/[0-9]*/comm | cut -d/ -f3)")?;
    guest.signal("KILL")?;
    wait_for_guards(&host)?;
    assert_eq!(driver(&host, host.nic())?, "vfio-pci");
    let text = berth(&host, "restore")?;
    ensure!(text.contains("is again"), "{text}");
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

/// The moments are spread over what each command takes, by a generator with a fixed seed; all
/// runs of a round happen in one script, because a round trip to the lab takes longer than they.
#[test]
fn fifty_kills_lose_nothing() -> Result<()> {
    const KILLS: u32 = 50;

    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let (nic, before) = (host.nic().to_owned(), state(&host)?);
    let config = format!("{}/auto.json", host.scratch());
    host.write(&config, &auto(&host, "wait").to_string())?;
    let berth_path = host.berth()?.to_owned();
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hit = [0; 5];
    for kill in 0..KILLS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let nothing = || "true".to_owned();
        // With about as long as each takes.
        let (prepare, command, span) = match kill % 5 {
            0 => (nothing(), format!("bind {nic}"), 400),
            1 => (format!("{berth_path} bind {nic}"), format!("unbind {nic}"), 600),
            2 => {
                let ports = "--vf 1,mac=52:54:00:00:00:11";
                (nothing(), format!("sriov {nic} 2 {ports} --bind"), 1200)
            }
            3 => (format!("{berth_path} sriov {nic} 2 --bind"), format!("sriov {nic} 1"), 1200),
            _ => (nothing(), format!("run {config}"), 3000),
        };
        let millis = random % span;
        let script = format!(
            "export BERTH_STATE_DIR={STATE}
             {prepare} >/dev/null 2>&1
             {berth_path} {command} >/dev/null 2>&1 </dev/null &
             usleep {micros}
             kill -KILL $! && echo hit
             # Every other time the guard dies with it.
             [ {odd} = 0 ] || kill -KILL $(grep -ls berth-guard /proc/[0-9]*/comm | cut -d/ -f3) 2>/dev/null
             wait $! 2>/dev/null
             n=0; while grep -qs berth-guard /proc/[0-9]*/comm && [ $n -lt 200 ]; do n=$((n + 1)); usleep 100000; done
             {berth_path} restore",
            micros = millis * 1000,
            odd = kill % 2,
        );
        let output = host.exec_with(&script, &[], Duration::from_secs(60))?;
        hit[kill as usize % 5] += u32::from(output.stdout.contains("hit"));
        let after = state(&host)?;
        ensure!(
            after == before,
            "kill {kill}, {millis} ms into {command}:\n{}{}\n{after}\nwas:\n{before}",
            output.stdout,
            output.stderr
        );
    }
    eprintln!("{hit:?} of {KILLS} kills hit bind, unbind, sriov 2, sriov 1 and run");
    ensure!(hit.iter().sum::<u32>() > KILLS / 3, "only {hit:?} kills hit");
    Ok(())
}
