//! What lasts across boots of the host, what does not, and what is there after one.

use anyhow::{Result, ensure};

use super::{STATE, berth, driver, host, refused, state};
use crate::harness::{self, Host};

#[test]
fn another_boot_has_undone_what_the_journal_knows() -> Result<()> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";

    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let (nic, before) = (host.nic().to_owned(), state(&host)?);
    berth(&host, &format!("bind {nic}"))?;
    let bound = state(&host)?;
    // The kernel's file says something else from now on, as after a boot.
    let id = "11111111-2222-3333-4444-555555555555";
    host.run(&format!("echo {id} >/tmp/boot_id; mount -o bind /tmp/boot_id {BOOT}"))?;
    let told = format!("driver of {nic} has been set anew by a boot of the host; was igb");
    let result = (|| {
        let dry = berth(&host, "restore --dry-run")?;
        ensure!(dry.contains(&told), "{dry}");
        let text = berth(&host, "restore")?;
        ensure!(text.contains(&told), "{text}");
        assert_eq!(state(&host)?, bound, "nothing is put back over what a boot has made");
        assert_eq!(berth(&host, "restore")?, "nothing to put back");
        Ok(())
    })();
    host.run(&format!("umount {BOOT}"))?;
    result?;
    berth(&host, &format!("unbind {nic}"))?;
    assert_eq!(state(&host)?, before);
    Ok(())
}

#[test]
fn a_damaged_journal_is_left_alone_and_nothing_changes() -> Result<()> {
    let host = host()?;
    let (nic, before) = (host.nic().to_owned(), state(&host)?);
    for text in ["", "{\"berth_jour", "nonsense\n", "{\"berth_journal\":{\"version\":9}}\n"] {
        host.run(&format!("mkdir -p {STATE}; printf '%s' '{text}' > {STATE}/journal"))?;
        for command in [format!("bind {nic}"), "restore".to_owned()] {
            let error = refused(&host, &command)?;
            for word in [&format!("{STATE}/journal, line 1: "), "help: "] {
                ensure!(error.contains(word), "{word}: {error}");
            }
        }
        let kept = host.run(&format!("cat {STATE}/journal"))?;
        assert_eq!(kept, text.trim());
        assert_eq!(state(&host)?, before);
    }
    host.run(&format!("rm -r {STATE}")).map(drop)
}

#[test]
fn vfio_pci_is_loaded_when_it_is_not() -> Result<()> {
    let host = host()?;
    if !host.is_lab() {
        return Ok(());
    }
    let (nic, before) = (host.nic().to_owned(), state(&host)?);
    host.run("rmmod vfio-pci && rmmod vfio_iommu_type1")?;
    let dry = berth(&host, &format!("bind {nic} --dry-run"))?;
    ensure!(dry.starts_with("modprobe -a vfio-pci vfio_iommu_type1\n"), "{dry}");
    host.run("! test -e /sys/module/vfio_pci")?;
    let without = format!("PATH=/none BERTH_STATE_DIR={STATE} {} bind {nic}", host.berth()?);
    let output = host.exec(&without)?;
    ensure!(output.status == 3, "status {}\n{}", output.status, output.stderr);
    for word in ["vfio-pci is not loaded, and cannot be", "modprobe cannot be run", "help: "] {
        ensure!(output.stderr.contains(word), "{word}: {}", output.stderr);
    }
    assert_eq!(state(&host)?, before);
    berth(&host, &format!("bind {nic}"))?;
    assert_eq!(driver(&host, &nic)?, "vfio-pci");
    host.run("test -e /sys/module/vfio_iommu_type1 && test -c /dev/vfio/vfio")?;
    berth(&host, "restore")?;
    assert_eq!(state(&host)?, before);
    Ok(())
}

/// A modprobe that knows `install` and `softdep`, where the kernel and distributions have theirs;
/// busybox keeps its own.
fn install_kmod(host: &Host) -> Result<()> {
    let kmod = host.artefact("kmod");
    host.run(&format!(
        "mkdir -p /sbin
         printf '#!/bin/sh\nexec %s --argv0 modprobe --library-path %s %s \"$@\"\n' \
             {kmod}/ld-linux-x86-64.so.2 {kmod} {kmod}/kmod >/sbin/modprobe
         chmod +x /sbin/modprobe; /sbin/modprobe --version"
    ))
    .map(drop)
}

/// What a boot does to drivers: none is loaded, no override is set; then something is loaded
/// first, and every device asks for its module, as udev has them do.
fn boot_drivers(host: &Host, first: &str) -> Result<()> {
    host.run(&format!(
        "rmmod e1000e; rmmod vfio-pci || exit
         for f in /sys/bus/pci/devices/*; do echo > $f/driver_override; done
         {first}
         for f in /sys/bus/pci/devices/*; do /sbin/modprobe -q -b $(cat $f/modalias); done; true"
    ))
    .map(drop)
}

/// Every file of the host's configuration.
fn configuration(host: &Host) -> Result<String> {
    host.run("find /etc -type f | sort | xargs md5sum")
}

/// One of three equal cards goes to vfio-pci, whatever is loaded first; the others do not.
#[test]
fn what_lasts_is_one_card_of_several_and_is_removed_without_trace() -> Result<()> {
    let host = harness::host("topology");
    if !host.is_lab() {
        return Ok(());
    }
    // As after a boot; then Debian's files, with a last line that has no end.
    host.run(&format!("rm -rf {STATE}; modprobe vfio-pci; modprobe e1000e"))?;
    install_kmod(&host)?;
    boot_drivers(&host, "")?;
    host.run(
        "mkdir -p /etc/modprobe.d /etc/modules-load.d /etc/initramfs-tools /usr/sbin
         : >/usr/sbin/update-initramfs
         printf '# theirs\nnvme' > /etc/initramfs-tools/modules
         modprobe vfio-pci",
    )?;
    let find = "for f in /sys/bus/pci/drivers/e1000e/0000:*; do basename $f; done | sort";
    let cards: Vec<String> = host.run(find)?.lines().map(str::to_owned).collect();
    let [card, others @ ..] = &cards[..] else { anyhow::bail!("no cards: {cards:?}") };
    assert_eq!(others.len(), 2);
    let before = configuration(&host)?;

    let dry = berth(&host, &format!("bind {card} --persist --dry-run"))?;
    ensure!(dry.contains("wrote /etc/modprobe.d/berth.conf"), "{dry}");
    assert_eq!(configuration(&host)?, before);
    let text = berth(&host, &format!("bind {card} --persist"))?;
    for word in ["wrote /etc/initramfs-tools/modules", "run `update-initramfs -u`"] {
        ensure!(text.contains(word), "{word}: {text}");
    }
    let written = configuration(&host)?;
    berth(&host, &format!("bind {card} --persist"))?;
    assert_eq!(configuration(&host)?, written, "twice is once");

    // By udev's order, by modules-load.d, and by the card's own driver.
    for first in ["", "/sbin/modprobe vfio-pci", "/sbin/modprobe e1000e"] {
        boot_drivers(&host, first)?;
        assert_eq!(driver(&host, card)?, "vfio-pci", "after `{first}`");
        for other in others {
            assert_eq!(driver(&host, other)?, "e1000e", "after `{first}`");
        }
    }
    let text = berth(&host, "restore")?;
    for word in [
        &format!("driver of {card} is again e1000e"),
        &format!("unbind --persist {card}` ends that"),
    ] {
        ensure!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(driver(&host, card)?, "e1000e");
    boot_drivers(&host, "")?;
    assert_eq!(driver(&host, card)?, "vfio-pci", "still");

    let text = berth(&host, &format!("unbind {card} --persist"))?;
    ensure!(text.contains("removed /etc/modprobe.d/berth.conf"), "{text}");
    assert_eq!(configuration(&host)?, before);
    assert_eq!(driver(&host, card)?, "e1000e");
    boot_drivers(&host, "")?;
    for card in &cards {
        assert_eq!(driver(&host, card)?, "e1000e");
    }
    host.run(&format!("modprobe vfio-pci; rm -rf /etc/initramfs-tools /usr/sbin /sbin {STATE}"))
        .map(drop)
}
