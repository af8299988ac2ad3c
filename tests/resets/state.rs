//! No state of a device reaches the next guest: what one guest leaves in a register, the next does
//! not find there, by every kind of reset. Where there is none it is found, and said.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{LIMIT, bind, devices};
use crate::harness::{self, GuestConfig, Host};
use crate::postconditions;

const LONE: &str = "0000:02:00.0";
const CARD: [&str; 2] = ["0000:21:00.0", "0000:21:00.1"];
const CONVENTIONAL: [&str; 3] = ["0000:04:01.0", "0000:04:02.0", "0000:04:03.0"];

/// What is left in an entry of each NIC's multicast table, which a reset clears and nobody else.
const PATTERN: &str = "0xDEADBEEF";

/// Calls `devmem` for that register of each NIC. No driver has them.
const EACH_NIC: &str = "\
each_nic() { \
    for f in /sys/bus/pci/devices/*; do \
        [ $(cat $f/class) = 0x020000 ] || continue; \
        printf '\\002' | dd of=$f/config bs=1 seek=4 conv=notrunc 2>/dev/null; \
        echo $(cat $f/device) $(devmem $(($(head -n 1 $f/resource | cut -d' ' -f1) + 0x5214)) 32 $1); \
    done; }";

/// Takes the driver from functions, so that they are idle and nobody's.
fn unbind(host: &Host, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        let sysfs = format!("/sys/bus/pci/devices/{address}");
        host.run(&format!("[ ! -e {sysfs}/driver ] || echo {address} >{sysfs}/driver/unbind"))?;
    }
    Ok(())
}

/// Runs a guest that looks at the registers and leaves the pattern in them; what it found, and what
/// berth said.
fn leave_pattern(host: &Host, config: &GuestConfig) -> Result<(Vec<String>, String)> {
    let path = format!("{}/guest.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let log = "RUST_LOG=error,berth=info,berth_devices=info";
    let guest = host.spawn(&format!("env {log} {} run {path}", host.berth()?))?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    guest.in_guest(EACH_NIC, LIMIT)?;
    let found = guest.in_guest("each_nic", LIMIT)?;
    guest.in_guest(&format!("each_nic {PATTERN}"), LIMIT)?;
    let kept = guest.in_guest("each_nic", LIMIT)?;
    ensure!(kept.lines().all(|line| line.ends_with(PATTERN)), "no register there: {kept}");
    guest.send("poweroff -f\n")?;
    guest.must_end(0, LIMIT)?;
    Ok((found.lines().map(str::to_owned).collect(), guest.stderr()?))
}

fn guest(host: &Host, addresses: &[&str]) -> GuestConfig {
    let config = GuestConfig::new(host).set("/devices", devices(addresses));
    config.verbs("commands").parameter("module_blacklist=igb,e1000e")
}

fn plan(host: &Host, config: &GuestConfig) -> Result<String> {
    let path = format!("{}/plan.json", host.scratch());
    host.write(&path, &config.to_string())?;
    host.run(&format!("{} plan {path}", host.berth()?))
}

#[test]
fn no_state_passes_to_the_next_guest_by_any_kind_of_reset() -> Result<()> {
    let host = harness::host("resets");
    let all: Vec<&str> = [host.nic(), LONE].into_iter().chain(CARD).chain(CONVENTIONAL).collect();
    bind(&host, "vfio-pci", &all)?;
    let config = guest(&host, &all);
    let plan = plan(&host, &config)?;
    for (way, count) in [(", FLR\n", 1), (", bus reset\n", 1), (", hot reset\n", 5)] {
        ensure!(plan.matches(way).count() == count, "{way}: {plan}");
    }
    for round in 0..2 {
        let (found, said) = leave_pattern(&host, &config)?;
        ensure!(found.len() == all.len(), "{found:?}");
        ensure!(found.iter().all(|line| line.ends_with("0x00000000")), "{round}: {found:?}");
        for when in ["at the start", "at the end"] {
            for (address, way, buses) in
                [(host.nic(), "FLR", 1), (LONE, "bus reset", 1), (CARD[0], "hot reset", 1)]
            {
                let reset = format!("{address}: reset {when}: {way}");
                ensure!(said.matches(&reset).count() == buses, "{reset}: {said}");
            }
            let hot = format!("reset {when}: hot reset");
            ensure!(said.matches(&hot).count() == 2, "once for each bus: {said}");
        }
        ensure!(!said.contains("not reset"), "{said}");
    }
    postconditions::kernel_is_content(&host)
}

#[test]
fn a_device_without_a_reset_is_said_to_have_none_and_refused_where_one_is_required() -> Result<()> {
    let host = harness::host("resets");
    let first = CONVENTIONAL[0];
    bind(&host, "vfio-pci", &[first])?;
    unbind(&host, &CONVENTIONAL[1..])?;
    // The kernel lists one all the same: it was alone when the kernel looked.
    let listed = host.run(&format!("cat /sys/bus/pci/devices/{first}/reset_method"))?;
    ensure!(listed == "bus", "{listed}");
    let config = guest(&host, &[first]);
    let plan = plan(&host, &config)?;
    let note = format!(
        "{first} has no reset: the guest finds it as its last user left it; a hot reset would hit {}, {}",
        CONVENTIONAL[1], CONVENTIONAL[2]
    );
    ensure!(plan.contains(&note) && plan.contains(", no reset\n"), "{plan}");
    let path = format!("{}/plan.json", host.scratch());
    let checked = host.exec(&format!("{} check {path} --json", host.berth()?))?.stdout;
    for part in ["the kernel knows no way to reset it alone", "their bus is then reset as a whole"]
    {
        ensure!(checked.contains(part), "{part}: {checked}");
    }
    leave_pattern(&host, &config)?;
    let (found, said) = leave_pattern(&host, &config)?;
    ensure!(found.iter().all(|line| line.ends_with(PATTERN)), "the test sees no state: {found:?}");
    for when in ["at the start", "at the end"] {
        ensure!(said.contains(&format!("{first}: not reset {when}: there is no way to")), "{said}");
    }

    let required = json!([{ "address": first, "reset": "required" }]);
    let path = format!("{}/required.json", host.scratch());
    host.write(&path, &config.set("/devices", required).to_string())?;
    let refused = host.exec(&format!("{} run {path}", host.berth()?))?;
    ensure!(refused.status == 3, "{}: {}", refused.status, refused.stderr);
    for part in [first, "\"required\" asks for one", "give the guest", CONVENTIONAL[2]] {
        ensure!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }

    // With the whole bus in VFIO's hands there is one, also for one function of it alone.
    bind(&host, "vfio-pci", &CONVENTIONAL)?;
    let (found, said) = leave_pattern(&host, &guest(&host, &[first]))?;
    ensure!(found.iter().all(|line| line.ends_with("0x00000000")), "{found:?}: {said}");
    postconditions::kernel_is_content(&host)
}

/// What a device keeps over D3hot is its own matter, and QEMU's keep all: the plan says that it may
/// be so, and what a better reset would hit.
#[test]
fn a_part_of_a_card_is_reset_by_power_management_and_the_plan_says_so() -> Result<()> {
    let host = harness::host("resets");
    let second = CARD[1];
    bind(&host, "vfio-pci", &[second])?;
    unbind(&host, &CARD[..1])?;
    let config = guest(&host, &[second]);
    let plan = plan(&host, &config)?;
    let note = format!(
        "{second} has no better reset than a PM reset, over which some devices keep state; a hot \
         reset would hit {}",
        CARD[0]
    );
    ensure!(plan.contains(&note) && plan.contains(", PM reset\n"), "{plan}");
    let (_, said) = leave_pattern(&host, &config)?;
    for when in ["at the start", "at the end"] {
        ensure!(said.contains(&format!("{second}: reset {when}: PM reset")), "{said}");
    }
    postconditions::kernel_is_content(&host)
}
