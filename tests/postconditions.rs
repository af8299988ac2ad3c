//! What a host must look like once a machine has ended, and after one that could not start.

use anyhow::{Result, ensure};

use crate::harness::Host;

/// Nobody holds the NIC, it is bound as before, silent, and reset.
pub fn nic_is_free(host: &Host) -> Result<()> {
    let sysfs = host.nic_sysfs();
    let driver = host.run(&format!("basename \"$(readlink {sysfs}/driver)\""))?;
    ensure!(driver == "vfio-pci", "the NIC is bound to {driver}");
    let group = host.run(&format!("basename \"$(readlink {sysfs}/iommu_group)\""))?;
    let holders = host.run(&format!(
        "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -E 'vfio/({group}|devices/)'; true"
    ))?;
    ensure!(holders.is_empty(), "somebody holds the NIC's group or a device: {holders}");
    // Command register, PCI base specification 7.5.1.1.3: bit 2 is bus master.
    let command = host.run(&format!("od -An -tu2 -j4 -N2 {sysfs}/config"))?;
    let command: u16 = command.trim().parse()?;
    ensure!(command & 1 << 2 == 0, "the NIC may still do DMA: command register {command:#x}");
    let interrupts = host.run(&format!("grep '{}' /proc/interrupts; true", host.nic()))?;
    ensure!(interrupts.is_empty(), "the NIC still has interrupts: {interrupts}");
    Ok(())
}

/// The kernel complained of nothing since this test got the host.
pub fn kernel_is_content(host: &Host) -> Result<()> {
    const COMPLAINTS: [&str; 10] = [
        "DMAR: [",
        "fault addr",
        "WARNING",
        "BUG",
        "Call Trace",
        "Oops",
        "blocked for more than",
        "lockup",
        "vfio_",
        "Bad page",
    ];
    let log = host.kernel_log()?;
    let bad: Vec<&str> =
        log.lines().filter(|line| COMPLAINTS.iter().any(|word| line.contains(word))).collect();
    ensure!(bad.is_empty(), "the host's kernel complains:\n{}\nall of it:\n{log}", bad.join("\n"));
    Ok(())
}

/// A shell function `fingerprint` that prints all that berth could leave behind on a host: driver
/// bindings, huge pages, files, mounts, modules, network interfaces, its own kind of processes.
pub const FINGERPRINT: &str = r#"
fingerprint() {
    for function in /sys/bus/pci/devices/*; do
        echo "${function##*/} $(readlink "$function/driver") $(cat "$function/driver_override")"
    done
    grep -H '' /sys/devices/system/node/node*/hugepages/*/*_hugepages /proc/sys/vm/*hugepages
    grep -i huge /proc/meminfo | grep -v AnonHuge
    ls -ln /dev /dev/vfio /dev/shm /tmp | grep -v ' tty'
    find /tmp /root /etc -type f | sort | xargs sha256sum
    cut -d' ' -f1-4 /proc/mounts
    lsmod | cut -d' ' -f1 | sort
    ls /sys/class/net
    pidof berth
    cat /sys/devices/system/cpu/online
}
"#;
