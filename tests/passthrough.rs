//! The assigned NIC works for the guest's own driver, and without berth in the way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::harness::{self, Frame, GuestConfig, Host, Process};
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(240);
const PINGS: usize = 100;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// A guest that has its NIC up and takes commands.
fn networked_guest<'host>(host: &'host Host) -> Result<Process<'host>> {
    host.bind_vfio()?;
    let guest = host.run_guest(&GuestConfig::new(host).huge_memory(1024).verbs("net,commands"))?;
    guest.wait_for("L2: takes commands", LIMIT)?;
    Ok(guest)
}

/// Interrupts of each vector of the NIC, over all CPUs, by the driver's name for it.
fn interrupts(guest: &Process) -> Result<BTreeMap<String, u64>> {
    let lines = guest.in_guest("interrupts", LIMIT)?;
    let count = |line: &str| {
        let mut words = line.strip_prefix("L2: irq ")?.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    Ok(lines.lines().filter_map(count).collect())
}

#[test]
fn every_vector_interrupts_and_pings_are_on_the_wire() -> Result<()> {
    let host = harness::host("nic");
    let skip = host.outside_capture()?.map_or(0, |frames| frames.len());
    let guest = networked_guest(&host)?;
    let before = interrupts(&guest)?;
    assert!(before.contains_key("eth0"), "no vector for the link: {before:?}");
    assert!(before.len() > 2, "no vector per queue and CPU: {before:?}");

    // Link down and up raises the vector of causes other than queues; so many pings reach every
    // queue, whose interrupts the driver also raises by hand every two seconds.
    guest.in_guest("ip link set eth0 down; ip link set eth0 up; net", LIMIT)?;
    let pings = guest.in_guest("pings 10; sleep 3", LIMIT)?;
    assert_eq!(pings, "L2: ping 10/10");
    let after = interrupts(&guest)?;
    println!("interrupts in the guest: {before:?}, then {after:?}");
    for (name, count) in &after {
        assert!(*count > before[name], "{name} is silent: {before:?}, then {after:?}");
    }

    let msix = guest.in_guest(
        "cat /sys/class/net/eth0/device/msi_irqs/*; readlink /sys/class/net/eth0/device/driver",
        LIMIT,
    )?;
    let (kinds, driver) = msix.rsplit_once('\n').context("interrupts and a driver")?;
    assert_eq!(kinds, vec!["msix"; before.len()].join("\n"));
    assert!(driver.ends_with("/igb") || !host.is_lab(), "{driver}");

    if let Some(frames) = host.outside_capture()? {
        let mac = host.mac();
        let pings = frames[skip..].iter().filter(|f| f.icmp_type() == Some(ECHO_REQUEST));
        let sent = pings.filter(|f| f.source == mac).count();
        let replies = frames[skip..].iter().filter(|f| f.icmp_type() == Some(ECHO_REPLY));
        let answered = replies.filter(|f| f.destination == mac).count();
        println!("outside, with the guest's MAC {mac}: {sent} pings, {answered} answers");
        assert_eq!((sent, answered), (10, 10), "frames with the guest's MAC on the wire");
    }
    guest.send("end\n")?;
    guest.must_end(0, LIMIT)
}

/// KVM's own counters of berth's VM, over all its vCPUs.
fn kvm_counters(host: &Host, guest: &Process) -> Result<BTreeMap<String, u64>> {
    let text = host.run(&format!(
        "cd /sys/kernel/debug/kvm/{}-* && grep -H '' *exits* *irq* *injections* insn_emulation 2>/dev/null; true",
        guest.machine()?
    ))?;
    let counter = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    let counters: BTreeMap<_, _> = text.lines().filter_map(counter).collect();
    for needed in ["exits", "mmio_exits", "io_exits"] {
        ensure!(counters.contains_key(needed), "KVM shows no {needed} in {counters:?}");
    }
    Ok(counters)
}

/// The counters once nothing more happens that berth serves, such as console output.
fn quiet_kvm_counters(host: &Host, guest: &Process) -> Result<BTreeMap<String, u64>> {
    let deadline = Instant::now() + LIMIT;
    let served = |c: &BTreeMap<String, u64>| (c["mmio_exits"], c["io_exits"]);
    let mut last = kvm_counters(host, guest)?;
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = kvm_counters(host, guest)?;
        if served(&now) == served(&last) {
            return Ok(now);
        }
        ensure!(Instant::now() < deadline, "the guest is never quiet: {last:?}, then {now:?}");
        last = now;
    }
}

/// Answers to the guest's pings that have been on the wire outside.
fn answers(host: &Host) -> Result<usize> {
    let frames = host.outside_capture()?.context("pings are counted outside the lab host")?;
    let is_answer = |f: &&Frame| f.destination == host.mac() && f.icmp_type() == Some(ECHO_REPLY);
    Ok(frames.iter().filter(is_answer).count())
}

#[test]
fn pings_need_no_exit_to_user_space() -> Result<()> {
    const EVENT: &str = "/sys/kernel/debug/tracing/events/kvm/kvm_userspace_exit/enable";
    const TRACE: &str = "/sys/kernel/debug/tracing/trace";

    let host = harness::host("nic");
    let guest = networked_guest(&host)?;
    // Nobody uses the console from before the first ping until a line is typed.
    let number = guest.stdout()?.matches("L2: did ").count() + 1;
    guest.send(&format!(
        "sleep 6; ping -c {PINGS} -i 0.05 10.0.2.2 >/pings; read -r line </dev/console\n"
    ))?;
    let already = answers(&host)?;
    let before = quiet_kvm_counters(&host, &guest)?;
    host.run(&format!("echo >{TRACE} && echo 1 >{EVENT}"))?;
    ensure!(answers(&host)? == already, "the guest was faster than this test: nothing was seen");

    let deadline = Instant::now() + LIMIT;
    while answers(&host)? < already + PINGS {
        ensure!(Instant::now() < deadline, "no answers\n{}", guest.everything());
        std::thread::sleep(Duration::from_millis(100));
    }
    let after = kvm_counters(&host, &guest)?;
    let returns = || host.run(&format!("grep -v '^#' {TRACE} || true"));
    let trace = returns()?;
    guest.send("\n")?;
    guest.wait_for(&format!("L2: did {number} 0"), LIMIT)?;
    assert!(returns()?.contains("KVM_EXIT_IO"), "console output is not traced: nothing was seen");
    host.run(&format!("echo 0 >{EVENT}"))?;
    let report = guest.in_guest("cat /pings", LIMIT)?;
    assert!(report.contains(&format!("{PINGS} packets received")), "{report}");

    let difference: BTreeMap<&str, u64> =
        after.iter().map(|(name, count)| (name.as_str(), count - before[name])).collect();
    println!("KVM's counters over {PINGS} pings: {difference:?}");
    println!("returns to user space meanwhile: {}", trace.lines().count());
    assert_eq!((difference["mmio_exits"], difference["io_exits"]), (0, 0), "{difference:?}");
    assert_eq!(trace, "", "berth was woken; {difference:?}");
    assert!(difference["exits"] > 0, "these are not the counters of a running guest");
    guest.send("end\n")?;
    guest.must_end(0, LIMIT)
}

/// How often berth's own threads have run, in all of its processes: those of vCPUs and of the kernel are
/// not its own.
const WAKEUPS: &str =
    "cat $(grep -l ^berth /proc/[0-9]*/comm | sed 's,comm$,task/*/status,') 2>/dev/null |
    awk '/^Name:/ {own = $2 ~ /^berth/} own && /ctxt_switches:/ {sum += $2} END {print sum}'";

/// HLT exits of a guest that idles, in 5 s, and wakeups of berth's own threads.
fn halts(host: &Host, dedicated: bool) -> Result<(u64, u64)> {
    host.bind_vfio()?;
    let cpu = serde_json::json!({ "dedicated": dedicated });
    let guest = host.run_guest(&GuestConfig::new(host).set("/cpu", cpu).verbs("wait"))?;
    guest.wait_for("L2: waiting", LIMIT)?;
    let file = format!("/sys/kernel/debug/kvm/{}-*/halt_exits", guest.machine()?);
    let number = |script: &str| -> Result<u64> { Ok(host.run(script)?.trim().parse()?) };
    let now = || -> Result<_> { Ok((number(&format!("cat {file}"))?, number(WAKEUPS)?)) };
    // Its console has told the last by then.
    std::thread::sleep(Duration::from_secs(2));
    let before = now()?;
    std::thread::sleep(Duration::from_secs(5));
    let after = now()?;
    let during = (after.0 - before.0, after.1 - before.1);
    guest.send("end\n")?;
    guest.must_end(0, LIMIT)?;
    Ok(during)
}

/// 40 s, two guests.
#[test]
fn a_vcpu_with_a_cpu_of_its_own_idles_without_exits() -> Result<()> {
    let host = harness::host("nic");
    let [shared, dedicated] = [false, true].map(|dedicated| halts(&host, dedicated));
    let ((shared, wakeups), (dedicated, wakeups_beside)) = (shared?, dedicated?);
    println!("HLT exits of an idle guest in 5 s: {shared}, and {dedicated} on dedicated CPUs");
    println!("wakeups of berth's own threads meanwhile: {wakeups} and {wakeups_beside}");
    ensure!(shared > 0 && dedicated == 0, "{shared} and {dedicated} exits");
    ensure!(wakeups == 0 && wakeups_beside == 0, "{wakeups} and {wakeups_beside} wakeups");
    postconditions::nic_is_free(&host)
}
