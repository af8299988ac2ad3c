//! The table of devices: each does its work in a guest, by every kind of interrupt that it has.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::harness::{self, GuestConfig, Host, Process};

/// For a guest that boots and loads drivers while others want the cores too.
pub const LIMIT: Duration = Duration::from_secs(240);

/// The profile's devices beside its NIC.
pub const EDU: &str = "0000:02:00.0";
pub const NVME: &str = "0000:03:00.0";
const LARGE: &str = "0000:04:00.0";
const GROUP: [&str; 4] = ["0000:06:01.0", "0000:06:02.0", "0000:06:03.0", "0000:06:04.0"];
const CARD: [&str; 8] = [
    "0000:07:00.0",
    "0000:07:00.1",
    "0000:07:00.2",
    "0000:07:00.3",
    "0000:07:00.4",
    "0000:07:00.5",
    "0000:07:00.6",
    "0000:07:00.7",
];
pub const SMALL: &str = "0000:08:00.0";
const VIRTUAL_FUNCTION: &str = "0000:01:10.0";

/// The name that a port's service has in `/proc/interrupts`.
const PORT_INTERRUPT: &str = "^pciehp$";

/// Blocks of 1 MiB that go to the drive and back.
const PATTERN_MIB: u64 = 4;

/// A guest with these devices, `probe` and all drivers, which takes commands.
pub fn guest<'host>(host: &'host Host, devices: &[&str], words: &[&str]) -> Result<Process<'host>> {
    let config = GuestConfig::new(host).verbs("commands");
    start(host, words.iter().fold(config, |config, word| config.parameter(word)), devices)
}

/// As [`guest`], of Debian, which knows hot-plug: the port of the first device has an interrupt.
fn guest_with_a_port_interrupt<'host>(
    host: &'host Host,
    devices: &[&str],
) -> Result<Process<'host>> {
    let wish = |(index, address)| match index {
        0 => json!({ "address": address, "on_removal": "unplug" }),
        _ => json!({ "address": address }),
    };
    let wishes: Vec<_> = devices.iter().enumerate().map(wish).collect();
    let config = GuestConfig::new(host).kernel("6.12").verbs("commands").set("/devices", wishes);
    run(host, config, devices)
}

fn start<'host>(
    host: &'host Host,
    config: GuestConfig,
    devices: &[&str],
) -> Result<Process<'host>> {
    run(host, config.devices(devices), devices)
}

fn run<'host>(host: &'host Host, config: GuestConfig, devices: &[&str]) -> Result<Process<'host>> {
    host.bind_all(devices)?;
    let config = config.with_probe(host)?;
    let guest = host.run_guest(&config)?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    Ok(guest)
}

fn end(guest: &Process) -> Result<()> {
    guest.send("end\n")?;
    guest.must_end(0, LIMIT)
}

/// Lines of `/proc/interrupts` whose name matches a pattern of awk: chip, name, count over the
/// guest's two CPUs.
fn interrupts(guest: &Process, pattern: &str) -> Result<Vec<(String, String, u64)>> {
    let script =
        format!("awk '$NF ~ /{pattern}/ {{ print \"irq\", $4, $NF, $2 + $3 }}' /proc/interrupts");
    let lines = guest.in_guest(&script, LIMIT)?;
    let parse = |line: &str| {
        let words: Vec<&str> = line.strip_prefix("irq ")?.split(' ').collect();
        Some((words[0].to_owned(), words[1].to_owned(), words.get(2)?.parse().ok()?))
    };
    let found: Vec<_> = lines.lines().filter_map(parse).collect();
    ensure!(!found.is_empty(), "no interrupt is {pattern}: {lines}");
    Ok(found)
}

/// All interrupts of a kind of name come by `chip`, and `at_least` of them have come.
fn interrupted_by(guest: &Process, pattern: &str, chip: &str, at_least: usize) -> Result<()> {
    let found = interrupts(guest, pattern)?;
    println!("{found:?}");
    ensure!(found.iter().all(|(by, ..)| by.starts_with(chip)), "not by {chip}: {found:?}");
    let live = found.iter().filter(|(.., count)| *count > 0).count();
    ensure!(live >= at_least, "{live} of at least {at_least} interrupt: {found:?}");
    Ok(())
}

fn pings(guest: &Process) -> Result<()> {
    let said = guest.in_guest("net; pings 3", LIMIT)?;
    ensure!(said.ends_with("L2: ping 3/3"), "{said}");
    Ok(())
}

/// What `seq START 1000000 | head -c BYTES` prints.
fn pattern(start: u32) -> Vec<u8> {
    let mut text = String::new();
    for number in start.. {
        text += &format!("{number}\n");
        if text.len() as u64 >= PATTERN_MIB << 20 {
            break;
        }
    }
    text.truncate((PATTERN_MIB << 20) as usize);
    text.into_bytes()
}

/// The guest writes to the drive and finds it there; it reads what the drive held before; both
/// are compared in the drive's own file. `start` makes the data new.
fn drive_keeps_data(host: &Host, guest: &Process, start: u32) -> Result<()> {
    let (written, found) = (pattern(start), pattern(start + 1));
    let drive = host.file("drive")?;
    drive.write_all_at(&found, 8 << 20)?;
    let in_guest = |start: u32| format!("seq {start} 1000000 | head -c {}", PATTERN_MIB << 20);
    guest.in_guest(
        &format!(
            "{} >/written; {} >/expected;
             dd if=/written of=/dev/nvme0n1 bs=1M oflag=direct 2>/dev/null && sync &&
             dd if=/dev/nvme0n1 bs=1M count={PATTERN_MIB} iflag=direct 2>/dev/null | cmp - /written &&
             dd if=/dev/nvme0n1 bs=1M skip=8 count={PATTERN_MIB} iflag=direct 2>/dev/null | cmp - /expected",
            in_guest(start),
            in_guest(start + 1)
        )
        .replace('\n', " "),
        LIMIT,
    )?;
    let mut stored = vec![0; written.len()];
    drive.read_exact_at(&mut stored, 0)?;
    ensure!(stored == written, "the drive's file holds something else");
    Ok(())
}

/// First address of a BAR, as the guest's kernel has it.
fn bar(guest: &Process, function: &str, index: usize) -> Result<u64> {
    let path = format!("/sys/bus/pci/devices/{function}/resource");
    let lines = guest.in_guest(&format!("cat {path}"), LIMIT)?;
    let line = lines.lines().nth(index).context("a line for each BAR")?;
    let start = line.split(' ').next().unwrap_or_default().trim_start_matches("0x");
    u64::from_str_radix(start, 16).with_context(|| format!("{line:?}"))
}

/// 64 bits in a file of the profile.
fn outside(host: &Host, file: &str, offset: u64) -> Result<u64> {
    let mut data = [0; 8];
    host.file(file)?.read_exact_at(&mut data, offset)?;
    Ok(u64::from_le_bytes(data))
}

/// Offsets in the large BAR: its ends, and one past 32 bits.
const FAR: [u64; 3] = [0, (33 << 30) + 0x1238, (64 << 30) - 8];

fn large_bar_has_both_ends(host: &Host, guest: &Process, function: &str) -> Result<()> {
    let start = bar(guest, function, 2)?;
    ensure!(start.is_multiple_of(64 << 30) && start > 4 << 30, "BAR 2 at {start:#x}");
    for (index, offset) in FAR.into_iter().enumerate() {
        let value = 0xb0a7_0000_dead_0000 + index as u64;
        let at = start + offset;
        guest.in_guest(&format!("devmem {at:#x} 64 {value:#x}"), LIMIT)?;
        let seen = outside(host, "large", offset)?;
        ensure!(seen == value, "at {offset:#x} outside has {seen:#x}, not {value:#x}");
        let value = !value;
        host.file("large")?.write_all_at(&value.to_le_bytes(), offset)?;
        let seen = guest.in_guest(&format!("devmem {at:#x} 64"), LIMIT)?;
        ensure!(seen == format!("{value:#018X}").replace("0X", "0x"), "at {offset:#x} {seen}");
    }
    Ok(())
}

/// Pages of each size with which KVM maps the guest's addresses.
fn kvm_pages(host: &Host, guest: &Process, size: &str) -> Result<u64> {
    let path = format!("/sys/kernel/debug/kvm/{}-*/pages_{size}", guest.machine()?);
    Ok(host.run(&format!("cat {path}"))?.parse()?)
}

/// What the host's kernel may say of none of this.
pub fn host_is_content(host: &Host) -> Result<()> {
    const COMPLAINTS: &[&str] = &[
        "WARNING:",
        "BUG:",
        "Oops",
        "Call Trace",
        "general protection",
        "fault reason",
        "handling fault",
        "nobody cared",
    ];
    let log = host.kernel_log()?;
    let complaint = log.lines().find(|line| COMPLAINTS.iter().any(|word| line.contains(word)));
    ensure!(complaint.is_none(), "the host's kernel complains: {complaint:?}\n{log}");
    Ok(())
}

#[test]
fn four_devices_work_at_once() -> Result<()> {
    let host = harness::host("devices");
    let guest = guest_with_a_port_interrupt(&host, &[host.nic(), NVME, EDU, LARGE])?;
    let (edu, large) = ("0000:00:03.0", "0000:00:04.0");
    pings(&guest)?;
    interrupted_by(&guest, "^eth", "PCI-MSIX-0000:01:00.0", 3)?;
    drive_keeps_data(&host, &guest, 100_000)?;
    interrupted_by(&guest, "^nvme", "PCI-MSIX-0000:02:00.0", 2)?;

    // Of the drive's 2,048 vectors the host has given those that the guest uses.
    let table = guest.in_guest("ls /sys/bus/pci/devices/0000:02:00.0/msi_irqs | wc -l", LIMIT)?;
    let bound = host.run(&format!("grep -c 'vfio-msix.*{NVME}' /proc/interrupts"))?;
    ensure!(bound == table, "{bound} vectors on the host, {table} in the guest");
    ensure!(bound.parse::<u32>()? <= 3, "{bound} vectors for two CPUs");

    // The port of the NIC takes interrupts, and has hardly any: edu borrows its message.
    println!("{}", guest.in_guest(&format!("probe edu {edu}"), LIMIT)?);
    let before = interrupts(&guest, PORT_INTERRUPT)?;
    println!("{}", guest.in_guest(&format!("probe msi {edu} 0000:00:01.0 5"), LIMIT)?);
    let lent = interrupts(&guest, PORT_INTERRUPT)?;
    ensure!(lent[0].2 == before[0].2 + 5, "edu interrupted not 5 times: {before:?} {lent:?}");

    guest.in_guest(&format!("echo 1 >/sys/bus/pci/devices/{large}/enable"), LIMIT)?;
    large_bar_has_both_ends(&host, &guest, large)?;
    // RAM is small pages here: these are the three places that were touched.
    let huge = kvm_pages(&host, &guest, "1g")?;
    ensure!(huge == FAR.len() as u64, "{huge} pages of 1 GiB");
    end(&guest)?;
    host_is_content(&host)
}

/// A guest in which the devices just work.
pub fn serve(host: &Host) -> Result<()> {
    let guest = guest(host, &[host.nic(), NVME, EDU, SMALL], &[])?;
    pings(&guest)?;
    drive_keeps_data(host, &guest, 400_000)?;
    guest.in_guest("probe edu 0000:00:03.0", LIMIT)?;
    end(&guest)
}

#[test]
fn without_msi_devices_interrupt_by_their_pins() -> Result<()> {
    let host = harness::host("devices");
    let guest = guest(&host, &[host.nic(), NVME], &["pci=nomsi"])?;
    pings(&guest)?;
    drive_keeps_data(&host, &guest, 200_000)?;
    interrupted_by(&guest, "^eth", "IO-APIC", 1)?;
    interrupted_by(&guest, "^nvme", "IO-APIC", 1)?;
    end(&guest)?;
    host_is_content(&host)
}

#[test]
fn sixteen_functions_of_groups_and_cards_work_in_one_guest() -> Result<()> {
    let host = harness::host("devices");
    let mut devices = vec![host.nic(), NVME, SMALL, EDU];
    devices.extend(GROUP);
    devices.extend(CARD);
    ensure!(devices.len() == 16);
    // Members of a group are together what the host hands out.
    let group =
        |device: &str| host.run(&format!("readlink /sys/bus/pci/devices/{device}/iommu_group"));
    for (one, other) in [(GROUP[0], GROUP[3]), (CARD[0], CARD[7])] {
        ensure!(group(one)? == group(other)?, "{one} and {other} are in two groups");
    }
    let guest = guest_with_a_port_interrupt(&host, &devices)?;
    pings(&guest)?;
    drive_keeps_data(&host, &guest, 300_000)?;
    let mut edus: Vec<String> = (4..=8).map(|device| format!("0000:00:{device:02x}.0")).collect();
    edus.extend((0..8).map(|function| format!("0000:00:09.{function}")));
    let before = interrupts(&guest, PORT_INTERRUPT)?[0].2;
    guest.in_guest(
        &format!(
            "for edu in {}; do probe edu $edu && probe msi $edu 0000:00:01.0 2 || break; done",
            edus.join(" ")
        ),
        LIMIT,
    )?;
    let lent = interrupts(&guest, PORT_INTERRUPT)?;
    ensure!(lent[0].2 == before + 2 * edus.len() as u64, "of {} each twice: {lent:?}", edus.len());

    // From a conventional device behind a bridge, and from one that has the bus for itself, into
    // the memory of another device.
    let small = "0000:00:03.0";
    guest.in_guest(&format!("echo 1 >/sys/bus/pci/devices/{small}/enable"), LIMIT)?;
    let start = bar(&guest, small, 2)?;
    for (edu, offset) in [(&edus[0], 0x1000u64), (&edus[1], 0x20_0000), (&edus[12], 0x3f_f000)] {
        guest.in_guest(&format!("probe peer {edu} {:#x}", start + offset), LIMIT)?;
        let seen = outside(&host, "small", offset + 0xff8)?;
        ensure!(seen == 0xb0a7_0ffc_b0a7_0ff8, "{edu} left {seen:#x} in the other device");
    }
    end(&guest)?;
    host_is_content(&host)
}

#[test]
fn small_bars_and_ports_exit_to_berth() -> Result<()> {
    let host = harness::host("devices");
    let guest = guest(&host, &[host.nic(), SMALL], &[])?;
    let (nic, small) = ("0000:01:00.0", "0000:00:02.0");
    guest.in_guest(
        &format!("modprobe -r igb; echo 1 >/sys/bus/pci/devices/{small}/enable"),
        LIMIT,
    )?;
    // 256 bytes of registers: a mask that can be written.
    let registers = bar(&guest, small, 0)?;
    let seen =
        guest.in_guest(&format!("devmem {registers:#x} 32 5; devmem {registers:#x}"), LIMIT)?;
    ensure!(seen == "0x00000005", "{seen}");
    // The NIC's ports: an address, then the register there, which memory shows too.
    guest.in_guest(&format!("echo 1 >/sys/bus/pci/devices/{nic}/enable"), LIMIT)?;
    let ports = bar(&guest, nic, 2)?;
    let seen = guest.in_guest(
        &format!("probe port {ports:#x} {MAC_REGISTER:#x}; probe port {:#x}", ports + 4),
        LIMIT,
    )?;
    ensure!(seen == MAC_LOW, "by its ports the NIC says {seen}");
    let memory = bar(&guest, nic, 0)? + MAC_REGISTER;
    let seen = guest.in_guest(&format!("devmem {memory:#x}"), LIMIT)?;
    ensure!(seen == MAC_LOW, "by its memory the NIC says {seen}");
    end(&guest)
}

/// The igb's receive address, and what the profile's MAC is there.
const MAC_REGISTER: u64 = 0x5400;
const MAC_LOW: &str = "0x12005452";

#[test]
fn bars_move_and_failed_moves_are_undone() -> Result<()> {
    const NIC: &str = "0000:01:00.0";
    const COMMAND: u64 = 0x04;

    let host = harness::host("devices");
    let guest = guest(&host, &[host.nic()], &[])?;
    let config = |offset: u64, bytes: u8, value: u64| {
        guest.in_guest(&format!("probe config {NIC} {offset:#x} {bytes} {value:#x}"), LIMIT)
    };
    let at = |address: u64| guest.in_guest(&format!("devmem {:#x}", address + MAC_REGISTER), LIMIT);
    guest.in_guest("modprobe -r igb", LIMIT)?;
    guest.in_guest(&format!("echo 1 >/sys/bus/pci/devices/{NIC}/enable"), LIMIT)?;
    let (first, second, table) = (bar(&guest, NIC, 0)?, bar(&guest, NIC, 1)?, bar(&guest, NIC, 3)?);
    ensure!(at(first)? == MAC_LOW, "registers at {first:#x}");

    // Two change places while they are off.
    config(COMMAND, 2, 0)?;
    ensure!(at(first)? == "0xFFFFFFFF", "a BAR answers that is off");
    config(0x10, 4, second)?;
    config(0x14, 4, first)?;
    config(COMMAND, 2, 3)?;
    ensure!(at(second)? == MAC_LOW, "registers at {second:#x}");
    config(0x14, 4, second + (1 << 20))?;
    config(0x10, 4, first)?;
    ensure!(at(first)? == MAC_LOW, "back while on");

    // RAM, the interrupt controllers, configuration space, another BAR: it does not answer
    // there, and what is there stays. It answers again where it may.
    for taken in [0x10_0000, 0xfee0_0000, 0xfec0_0000, 0xe000_0000, table & !0x1_ffff] {
        config(0x10, 4, taken)?;
        let entry = guest.in_guest(&format!("devmem {:#x}", table + 12), LIMIT)?;
        ensure!(entry == "0x00000001", "the table's mask is {entry} while BAR 0 is at {taken:#x}");
        ensure!(at(first)? == "0xFFFFFFFF", "still at {first:#x}");
        config(0x10, 4, first)?;
        ensure!(at(first)? == MAC_LOW, "lost at {taken:#x}");
    }
    // Sizing, while it is on.
    config(0x10, 4, 0xffff_ffff)?;
    let size = guest.in_guest(&format!("probe config {NIC} 0x10 4"), LIMIT)?;
    ensure!(size == "0xfffe0000", "sized as {size}");
    config(0x10, 4, first)?;
    config(0x14, 4, second)?;

    guest.in_guest(
        &format!(
            "echo 1 >/sys/bus/pci/devices/{NIC}/remove; echo 1 >/sys/bus/pci/rescan; modprobe igb"
        ),
        LIMIT,
    )?;
    pings(&guest)?;
    end(&guest)?;
    host_is_content(&host)
}

#[test]
fn a_reloaded_driver_passes_the_self_tests_that_it_passes_on_the_host() -> Result<()> {
    let host = harness::host("devices");
    host.bind("")?;
    let probe = host.probe()?;
    let natively = host.exec_with(
        &format!(
            "ip link set eth0 up; for try in $(seq 100); do
                 [ \"$(cat /sys/class/net/eth0/carrier 2>/dev/null)\" = 1 ] && break; sleep 0.1
             done
             {probe} self-test eth0; ip link set eth0 down"
        ),
        &[],
        LIMIT,
    )?;
    let natively = natively.success()?;
    println!("{natively}");
    let guest = guest(&host, &[host.nic()], &[])?;
    for _ in 0..3 {
        guest.in_guest("modprobe -r igb; modprobe igb", LIMIT)?;
        pings(&guest)?;
    }
    let in_guest = guest.in_guest("probe self-test eth0", LIMIT)?;
    ensure!(in_guest == natively, "in the guest:\n{in_guest}\non the host:\n{natively}");
    pings(&guest)?;
    end(&guest)?;
    host_is_content(&host)
}

#[test]
fn a_virtual_function_works_beside_the_hosts_physical_one() -> Result<()> {
    let host = harness::host("virtual-functions");
    host.bind("")?;
    let sysfs = host.nic_sysfs();
    host.run(&format!(
        "ip link set eth0 up; ip addr replace 10.0.2.16/24 dev eth0
         echo 1 >{sysfs}/sriov_numvfs"
    ))?;
    let result = traffic_of_a_virtual_function(&host);
    host.run(&format!(
        "echo 0 >{sysfs}/sriov_numvfs; ip addr flush dev eth0; ip link set eth0 down"
    ))?;
    result?;
    host_is_content(&host)
}

fn traffic_of_a_virtual_function(host: &Host) -> Result<()> {
    let guest = guest(host, &[VIRTUAL_FUNCTION], &[])?;
    // To the world outside.
    pings(&guest)?;
    let driver = guest.in_guest("readlink /sys/class/net/eth0/device/driver", LIMIT)?;
    ensure!(driver.ends_with("/igbvf"), "{driver}");
    // To the physical function, and from it.
    let said = guest.in_guest("ping -c 3 -i 0.2 -W 5 10.0.2.16", LIMIT)?;
    ensure!(said.contains("3 packets received"), "{said}");
    let said = host.run("ping -c 3 -i 0.2 -W 5 10.0.2.15")?;
    ensure!(said.contains("3 packets received"), "{said}");
    interrupted_by(&guest, "^eth", "PCI-MSIX-0000:01:00.0", 2)?;
    end(&guest)
}
