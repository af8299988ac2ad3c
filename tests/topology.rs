//! The guest's PCI hierarchy as its kernel sees it: ports, links, functions, nodes.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::harness::{self, GuestConfig, Host};

/// A guest that is given up.
const GUEST_LIMIT: Duration = Duration::from_secs(240);

/// What a Linux kernel says of a hierarchy that firmware left wrong.
const COMPLAINTS: &str = "can't claim|can't assign|failed to assign|no compatible bridge window|no space for|\
     address conflict|reassigned|invalid BAR|bridge configuration invalid|busn_res|FW_BUG|Firmware Bug";

/// What the guest's sysfs says of a function: `fact ADDRESS NODE SPEED WIDTH`, then complaints.
fn facts() -> String {
    format!(
        "cd /sys/bus/pci/devices
         for f in *; do
             echo \"fact $f $(cat $f/numa_node) $(cat $f/current_link_speed $f/current_link_width 2>/dev/null | tr '\\n' ' ')\"
         done
         dmesg | grep -iE \"{COMPLAINTS}\" | grep -iE 'pci|bridge|bar' | sed 's/^/complaint /'"
    )
}

/// Runs a guest to its end; what it printed.
fn run(host: &Host, config: GuestConfig, verbs: &str) -> Result<String> {
    let script = host.run(&format!("base64 -w 0 <<'END'\n{}\nEND", facts()))?;
    let config = config.verbs(&format!("{verbs},pci,sh:{script},poweroff"));
    let guest = host.run_guest(&config)?;
    let status = guest.wait(GUEST_LIMIT)?;
    let console = guest.stdout()?;
    assert_eq!(status, 0, "{console}\n{}", guest.everything());
    assert!(console.contains("L2: sh 0") || console.contains("L2: sh 1"), "{console}");
    assert!(!console.contains("complaint "), "{console}");
    Ok(console)
}

/// The guest's facts of a function: node, then speed and width of its link.
fn fact(console: &str, address: &str) -> String {
    let prefix = format!("fact {address} ");
    let line = console.lines().find_map(|line| line.trim().strip_prefix(&prefix));
    line.unwrap_or_else(|| panic!("no {address} in {console}")).trim().to_owned()
}

fn bind(host: &Host, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        let sysfs = format!("/sys/bus/pci/devices/{address}");
        host.run(&format!(
            "[ ! -e {sysfs}/driver ] || echo {address} >{sysfs}/driver/unbind
             echo vfio-pci >{sysfs}/driver_override
             echo {address} >/sys/bus/pci/drivers_probe
             [ -e {sysfs}/driver ]"
        ))?;
    }
    Ok(())
}

fn devices(addresses: &[&str]) -> Value {
    addresses.iter().map(|address| json!({ "address": address })).collect()
}

#[test]
fn port_shows_the_nics_link() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let sysfs = host.nic_sysfs();
    let link = host.run(&format!(
        "cat {sysfs}/current_link_speed {sysfs}/current_link_width | tr '\\n' ' '"
    ))?;
    for series in ["6.12", "6.1"] {
        let console = run(&host, GuestConfig::new(&host).kernel(series), "net,ping:3")?;
        assert!(console.contains("L2: ping 3/3"), "{console}");
        assert!(console.contains("L2: pci 0000:00:01.0 1b36:000c pcieport"), "{console}");
        for function in ["0000:00:01.0", "0000:01:00.0"] {
            assert_eq!(fact(&console, function), format!("0 {}", link.trim()), "{series}");
        }
    }
    Ok(())
}

#[test]
fn functions_of_a_card_stay_together() -> Result<()> {
    let host = harness::host("topology");
    let card = ["0000:22:00.0", "0000:22:00.1"];
    bind(&host, &card)?;
    let config = GuestConfig::new(&host).set("/devices", devices(&card));
    let console = run(&host, config, "machine")?;
    for function in ["0000:01:00.0", "0000:01:00.1"] {
        assert!(console.contains(&format!("L2: pci {function} 8086:10d3 e1000e")), "{console}");
    }
    // The second function alone is function 0 of its device; the first stays idle.
    let config = GuestConfig::new(&host).set("/devices", devices(&card[1..]));
    let console = run(&host, config, "machine")?;
    assert!(console.contains("L2: pci 0000:01:00.0 8086:10d3 e1000e"), "{console}");
    assert!(!console.contains("L2: pci 0000:01:00.1"), "{console}");
    Ok(())
}

#[test]
fn devices_of_two_nodes_have_roots_of_their_own() -> Result<()> {
    let host = harness::host("topology");
    let (near, far) = (host.nic().to_owned(), "0000:11:00.0");
    bind(&host, &[&near, far])?;
    for series in ["6.12", "6.1"] {
        let config = GuestConfig::new(&host)
            .kernel(series)
            .set("/devices", devices(&[&near, far]))
            .set("/placement", json!({ "node": 1 }));
        let console = run(&host, config, "net,ping:3")?;
        assert!(console.contains("L2: ping 3/3"), "{console}");
        assert!(console.contains("L2: pci 0000:01:00.0 8086:10c9 igb"), "{console}");
        assert!(console.contains("L2: pci 0000:03:00.0 8086:10d3 e1000e"), "{console}");
        // Domain 0 is node 1, where the memory is.
        assert!(fact(&console, "0000:01:00.0").starts_with("0 "), "{console}");
        assert!(fact(&console, "0000:03:00.0").starts_with("1 "), "{console}");
    }
    Ok(())
}
