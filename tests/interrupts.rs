//! Every way in which a device interrupts, with a driver in the guest that uses it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::harness::{self, GuestConfig, Host};

/// For a guest that boots and loads drivers while others want the cores too.
const GUEST_LIMIT: Duration = Duration::from_secs(240);

/// The profile's devices beside its NIC.
const EDU: &str = "0000:02:00.0";
const XHCI: &str = "0000:03:00.0";

/// The e1000e driver is told how to interrupt when it is loaded. Of MSI it first wants to see one
/// test interrupt, which QEMU's device never sends, also to a driver on the host: the driver goes
/// on with the pin, and berth from MSI back to INTx. The command sets up the interface as the
/// `net` verb does.
const RELOAD: &str = r#"
for mode in 2 0 1 2; do
    modprobe -r e1000e
    modprobe e1000e IntMode=$mode
    ip link set eth0 up
    ip addr add 10.0.2.15/24 dev eth0
    tries=0
    until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ] || [ $tries = 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    echo "mode $mode: $(ping -c 3 -i 0.2 -W 5 10.0.2.2 | grep received)"
    awk -v m=$mode '$NF ~ /^eth/ { print "mode " m ": irq", $4, $NF, $2 + $3 }' /proc/interrupts
done
cd /sys/bus/pci/devices/0000:01:00.0
echo 1 >rom
echo "rom: $(head -c 2 rom | hexdump -e '2/1 "%02x"') $(wc -c <rom)"
"#;

/// A USB controller enumerates a keyboard by MSI; `edu` raises its pin when a register is
/// written. `uio_pci_generic` disables INTx in the command register with each interrupt, so that
/// each round also goes through that bit.
const MSI_AND_PIN: &str = r#"
tries=0
until grep -q . /sys/bus/usb/devices/*-1/product || [ $tries = 50 ]; do
    tries=$((tries + 1))
    sleep 0.2
done 2>/dev/null
echo "usb: $(cat /sys/bus/usb/devices/*-1/product)"
awk '$NF ~ /^xhci/ { print "xhci: irq", $4, $2 + $3 }' /proc/interrupts
edu=/sys/bus/pci/devices/0000:00:02.0
modprobe uio_pci_generic
echo 1234 11e8 >/sys/bus/pci/drivers/uio_pci_generic/new_id
bar=$(head -n 1 $edu/resource | cut -d' ' -f1)
echo "edu: identity $(devmem $bar 32)"
devmem $((bar + 8)) 32 5
sleep 0.5
echo "edu: factorial $(devmem $((bar + 8)) 32)"
for round in 1 2 3; do
    timeout 20 dd if=/dev/uio0 of=/event bs=4 count=1 2>/dev/null &
    sleep 0.5
    devmem $((bar + 0x60)) 32 1
    wait $! && echo "edu: event $(hexdump -e '1/4 "%d"' /event)"
    devmem $((bar + 0x64)) 32 1
    printf '\000' | dd of=$edu/config bs=1 seek=5 conv=notrunc 2>/dev/null
done
awk '$NF ~ /^uio/ { print "edu: irq", $4, $5, $2 + $3 }' /proc/interrupts
"#;

/// Runs a guest with these devices and a script; what it printed.
fn run(host: &Host, devices: &[&str], script: &str) -> Result<String> {
    let encoded = host.exec_with("base64 -w0", script.as_bytes(), Duration::from_secs(10))?;
    let devices: Vec<_> = devices.iter().map(|address| json!({ "address": address })).collect();
    let config = GuestConfig::new(host)
        .set("/devices", devices)
        .verbs(&format!("sh:{},poweroff", encoded.success()?));
    let guest = host.run_guest(&config)?;
    let status = guest.wait(GUEST_LIMIT)?;
    ensure!(status == 0, "exit status {status}\n{}", guest.everything());
    Ok(guest.stdout()?.replace('\r', ""))
}

/// The count at the end of the line that begins so.
fn count(console: &str, start: &str) -> Result<u64> {
    let line = console.lines().find_map(|line| line.strip_prefix(start));
    let line = line.with_context(|| format!("no {start:?} in\n{console}"))?;
    let last = line.rsplit(' ').next().unwrap_or_default();
    last.parse().with_context(|| format!("{start:?}{line:?}"))
}

#[test]
fn a_driver_is_reloaded_with_other_interrupts() -> Result<()> {
    let host = harness::host("interrupts");
    host.bind_vfio()?;
    let console = run(&host, &[host.nic()], RELOAD)?;
    let answered = console.matches("3 packets received").count();
    ensure!(answered == 4, "{answered} of 4 rounds of pings were answered\n{console}");
    for vector in ["eth0-rx-0", "eth0-tx-0"] {
        let seen = count(&console, &format!("mode 2: irq PCI-MSIX-0000:01:00.0 {vector} "))?;
        ensure!(seen > 0, "{vector}\n{console}");
    }
    for mode in [0, 1] {
        ensure!(count(&console, &format!("mode {mode}: irq IO-APIC eth0 "))? > 0, "{console}");
    }
    ensure!(count(&console, "rom: 55aa ")? > 0, "{console}");
    Ok(())
}

#[test]
fn devices_interrupt_by_msi_and_by_their_pin() -> Result<()> {
    let host = harness::host("interrupts");
    for address in [EDU, XHCI] {
        let sysfs = format!("/sys/bus/pci/devices/{address}");
        host.run(&format!(
            "[ -e /sys/bus/pci/drivers/vfio-pci/{address} ] && exit
             echo vfio-pci >{sysfs}/driver_override
             [ ! -e {sysfs}/driver ] || echo {address} >{sysfs}/driver/unbind
             echo {address} >/sys/bus/pci/drivers_probe"
        ))?;
    }
    let console = run(&host, &[XHCI, EDU], MSI_AND_PIN)?;
    ensure!(console.contains("usb: QEMU USB Keyboard"), "{console}");
    ensure!(count(&console, "xhci: irq PCI-MSI-0000:01:00.0 ")? > 0, "{console}");
    ensure!(console.contains("edu: identity 0x010000ED"), "{console}");
    ensure!(console.contains("edu: factorial 0x00000078"), "{console}");
    for event in 1..=3 {
        ensure!(console.contains(&format!("edu: event {event}\n")), "{console}");
    }
    ensure!(count(&console, "edu: irq IO-APIC 18-fasteoi ")? == 3, "{console}");
    Ok(())
}
