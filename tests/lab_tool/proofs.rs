//! What a run of the demo proves, each claim with its witness.

use std::time::Duration;

use anyhow::Result;

use super::harness::{Host, Process};

/// A claim and what was seen.
pub struct Proof {
    /// What should be true.
    pub claim: &'static str,
    /// The figure or text that was seen.
    pub seen: String,
    /// Who says so.
    pub witness: &'static str,
    /// Whether it is true.
    pub holds: bool,
}

/// What the host can see of berth while the guest waits.
pub fn while_running(host: &Host, guest: &Process) -> Result<Vec<Proof>> {
    let proc = format!("/proc/{}", guest.machine()?);
    let node_cpus = host.run(&format!(
        "cat /sys/devices/system/node/node$(cat {}/numa_node)/cpulist",
        host.nic_sysfs()
    ))?;
    // One line per thread: name, CPUs it may run on, seccomp mode.
    let threads = host.run(&format!(
        "for t in {proc}/task/*; do
             awk '/^Name/ {{n=$2}} /^Cpus_allowed_list/ {{c=$2}} /^Seccomp:/ {{s=$2}} END {{print n, c, s}}' $t/status
         done"
    ))?;
    let threads: Vec<Vec<&str>> =
        threads.lines().map(|line| line.split_whitespace().collect()).collect();
    let vcpus: Vec<&Vec<&str>> = threads.iter().filter(|t| t[0].contains("vcpu")).collect();
    let allowed: Vec<&str> = vcpus.iter().map(|thread| thread[1]).collect();
    let on_node = |cpu: &&str| cpu.parse().is_ok_and(|cpu| in_list(&node_cpus, cpu));
    let filtered = threads.iter().filter(|thread| thread[2] == "2").count();

    let huge_kib = host.run(&format!(
        "awk '/^Size:/ {{size=$2}} /^KernelPageSize:/ && $2 == 1048576 {{sum += size}} END {{print sum + 0}}' {proc}/smaps"
    ))?;
    let nodes = host.run(&format!(
        "awk '/kernelpagesize_kB=1048576/ {{for (i = 1; i <= NF; i++) if ($i ~ /^N[0-9]+=/) print $i}}' {proc}/numa_maps | sort -u | paste -sd' '"
    ))?;
    let nic_node = host.read(&format!("{}/numa_node", host.nic_sysfs()))?;
    let vectors = host.run(&format!(
        "awk '/vfio-msi/ && /{}/ {{n = 0; for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i; print n}}' /proc/interrupts",
        host.nic()
    ))?;
    let counts: Vec<u64> = vectors.lines().filter_map(|count| count.parse().ok()).collect();

    Ok(vec![
        Proof {
            claim: "RAM is 1 GiB pages",
            seen: format!("{huge_kib} KiB"),
            witness: "KernelPageSize in smaps on the host",
            holds: huge_kib == "1048576",
        },
        Proof {
            claim: "RAM is on the NIC's NUMA node",
            holds: nodes.starts_with(&format!("N{nic_node}=")) && !nodes.contains(' '),
            seen: format!("{nodes}, NIC on node {nic_node}"),
            witness: "numa_maps on the host",
        },
        Proof {
            claim: "each vCPU has a CPU of that node",
            holds: allowed.len() == 2 && allowed[0] != allowed[1] && allowed.iter().all(on_node),
            seen: format!("CPUs {} of {node_cpus}", allowed.join(" and ")),
            witness: "Cpus_allowed_list on the host",
        },
        Proof {
            claim: "every thread has a seccomp filter",
            holds: filtered == threads.len() && filtered > 0,
            seen: format!("{filtered} of {} threads", threads.len()),
            witness: "Seccomp in status on the host",
        },
        Proof {
            claim: "the NIC's MSI-X reaches VFIO",
            holds: counts.iter().sum::<u64>() > 0,
            seen: format!("{} vectors, {} interrupts", counts.len(), counts.iter().sum::<u64>()),
            witness: "/proc/interrupts on the host",
        },
    ])
}

/// What the guest's console and the wire say in the end.
pub fn after_the_end(host: &Host, guest: &Process, skip: usize) -> Result<Vec<Proof>> {
    let console = guest.stdout()?;
    let said = |prefix: &str| {
        let line = console.lines().find_map(|line| line.trim().strip_prefix(prefix));
        line.unwrap_or("nothing").to_owned()
    };
    let interrupts: Vec<u64> = console
        .lines()
        .filter_map(|line| line.trim().strip_prefix("L2: irq eth0-")?.split(' ').nth(1))
        .filter_map(|count| count.parse().ok())
        .collect();
    let status = guest.wait(Duration::from_secs(30))?;
    let mut proofs = vec![
        Proof {
            claim: "the guest drives the NIC itself",
            holds: said("L2: net eth0 ") == host.mac(),
            seen: format!("eth0 {}", said("L2: net eth0 ")),
            witness: "guest console",
        },
        Proof {
            claim: "pings are answered",
            holds: said("L2: ping ") == "3/3",
            seen: said("L2: ping "),
            witness: "guest console",
        },
        Proof {
            claim: "queue interrupts reach the guest",
            holds: interrupts.iter().sum::<u64>() > 0,
            seen: format!("{interrupts:?}"),
            witness: "/proc/interrupts in the guest",
        },
        Proof {
            claim: "berth ends with the guest",
            holds: status == 0,
            seen: format!("exit status {status}"),
            witness: "the host's shell",
        },
    ];
    if let Some(frames) = host.outside_capture()? {
        let frames = frames.get(skip..).unwrap_or_default();
        let sent = frames.iter().filter(|f| f.source == host.mac() && f.icmp_type() == Some(8));
        let answered =
            frames.iter().filter(|f| f.destination == host.mac() && f.icmp_type() == Some(0));
        let (sent, answered) = (sent.count(), answered.count());
        proofs.push(Proof {
            claim: "both directions are on the wire",
            holds: sent == 3 && answered == 3,
            seen: format!("{sent} pings, {answered} answers"),
            witness: "packet capture outside the host",
        });
    }
    Ok(proofs)
}

/// Whether a CPU is in a kernel CPU list such as `0-3,8`.
fn in_list(list: &str, cpu: u32) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().is_ok_and(|first: u32| first <= cpu)
            && last.parse().is_ok_and(|last: u32| cpu <= last)
    })
}
