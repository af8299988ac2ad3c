//! A snapshot of this host: what berth reads of it, and no more, as an archive.
//!
//! The list of files is not kept by hand: the readers themselves run over every function of the
//! host, and what they read is what is captured. Left out are addresses of the network, serial
//! numbers, mounts of other machines' file systems, and the values of all kernel parameters but of
//! those that concern CPUs, memory, IOMMUs and drivers; names of interfaces, mount points and
//! processors stay.

use std::io::{self, Write};
use std::path::Path;

use berth_devices::pci::capability::extended_capabilities;

use super::pci;
use super::plain_parameters::is_plain;
use super::system;
use super::tree::Tree;
use super::{CommandLine, Facts, HostError, Query, Root, archive};

/// A snapshot, not yet written.
pub struct Snapshot(Tree);

impl Snapshot {
    /// Reads the host behind `root`.
    ///
    /// # Errors
    /// The host cannot be read.
    pub fn take(root: Root) -> Result<Self, HostError> {
        let root = root.recorded();
        let all = pci::addresses(&root)?;
        Facts::read(&root, &Query::default(), &all)?;
        root.touch_expected();
        let mut tree = root.into_record();
        tree.edit(&mut |path, bytes| redact(path, bytes));
        Ok(Self(tree))
    }

    /// Writes it as a tar archive that zstd compressed.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        archive::write(&self.0, out)
    }
}

/// Takes out of a file what is nobody else's business.
fn redact(path: &Path, bytes: &mut Vec<u8>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parent = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let text = || String::from_utf8_lossy(bytes).into_owned();
    let lines = |each: fn(&str) -> Option<String>| -> Vec<u8> {
        let kept: Vec<String> = text().lines().filter_map(each).collect();
        (kept.join("\n") + "\n").into_bytes()
    };
    match (parent.as_ref(), name.as_str()) {
        ("net", "route") => *bytes = lines(route),
        ("net", "if_inet6") => *bytes = lines(|line| Some(without_word(line, 0))),
        (_, "mountinfo") => *bytes = lines(local_mount),
        ("proc", "cmdline") => *bytes = command_line(&text()).into_bytes(),
        (_, "config") if path.starts_with("sys/devices") => blank_serial_number(bytes),
        _ if system::is_boot_file(path) => {
            *bytes = system::redact_boot_file(&text()).into_bytes();
        }
        _ => {}
    }
}

/// The line with its word number `index` as zeroes.
fn without_word(line: &str, index: usize) -> String {
    let words = line.split_whitespace().enumerate();
    let words =
        words.map(|(at, word)| if at == index { "0".repeat(word.len()) } else { word.to_owned() });
    words.collect::<Vec<_>>().join(" ")
}

/// A route's destination and gateway; its mask still tells a default route.
fn route(line: &str) -> Option<String> {
    if line.starts_with("Iface") {
        return Some(line.to_owned());
    }
    Some(without_word(&without_word(line, 1), 2))
}

/// Mounts of block devices of this host, and of what its hypervisor shares.
fn local_mount(line: &str) -> Option<String> {
    let (_, source) = line.split_once(" - ")?;
    let mut words = source.split_whitespace();
    let is_local = match (words.next()?, words.next()?, words.next()) {
        ("virtiofs", ..) => true,
        ("9p", _, Some(options)) => options.contains("trans=virtio"),
        (_, source, _) => source.starts_with("/dev/"),
    };
    is_local.then(|| line.to_owned())
}

/// Names of all parameters, values of those that are plain.
fn command_line(text: &str) -> String {
    let line = CommandLine::from(text);
    let words = line.words().map(|word| match word.split_once('=') {
        Some((key, _)) if !is_plain(key) => format!("{key}=REDACTED"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ") + "\n"
}

/// Blanks the Device Serial Number (PCIe 6.0, section 7.9.3), which for a NIC is made from its MAC
/// address.
fn blank_serial_number(config: &mut [u8]) {
    const SERIAL_NUMBER: u16 = 0x0003;

    for found in extended_capabilities(config) {
        let at = usize::from(found.offset);
        if found.id == SERIAL_NUMBER
            && let Some(number) = config.get_mut(at + 4..at + 12)
        {
            number.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    fn redacted(path: &str, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        redact(Path::new(path), &mut bytes);
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_snapshot_tells_what_its_host_told() {
        let fixture = Fixture::server();
        let all = pci::addresses(&fixture.root()).expect("functions");
        let before = Facts::read(&fixture.root(), &Query::default(), &all).expect("facts");
        let tree = Snapshot::take(fixture.root()).expect("a snapshot").0;
        let after = Facts::read(&Root::of(tree), &Query::default(), &all).expect("facts");
        let json = |facts: &Facts| serde_json::to_value(facts).expect("facts are plain data");
        let (before, after) = (json(&before), json(&after));
        for (part, facts) in before.as_object().expect("an object") {
            assert_eq!(facts, &after[part], "{part}");
        }
        // What placement reads is there to be told.
        for told in ["l3_caches", "packages", "core_kinds", "nohz_full"] {
            let facts = &after["host"]["cpus"][told];
            assert!(facts.as_array().map_or(2, Vec::len) > 0, "{told}: {facts}");
            assert_ne!(*facts, serde_json::json!({}), "{told}");
        }
        assert_eq!(after["cpu_power"]["policies"].as_array().map(Vec::len), Some(16));
    }

    #[test]
    fn addresses_and_secrets_are_left_out() {
        assert_eq!(
            redacted(
                "proc/42/net/route",
                "Iface\tDestination\neth0\t000200C0\t010200C0\t0003\t0\t0\t0\t00FFFFFF\t0\n"
            ),
            "Iface\tDestination\neth0 00000000 00000000 0003 0 0 0 00FFFFFF 0\n"
        );
        assert_eq!(
            redacted("proc/42/net/if_inet6", "fe80000000000001 02 40 20 80 eth0\n"),
            "0000000000000000 02 40 20 80 eth0\n"
        );
        assert_eq!(
            redacted(
                "proc/42/mountinfo",
                "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:50 / /mnt rw - nfs4 10.0.0.1:/x rw\n\
                 3 1 0:51 / /n rw - 9p 10.0.0.2 rw,trans=tcp\n3 1 0:51 / /l rw - 9p lab rw,trans=virtio\n\
                 4 1 0:52 / /v rw - virtiofs share rw\n"
            ),
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n3 1 0:51 / /l rw - 9p lab rw,trans=virtio\n\
             4 1 0:52 / /v rw - virtiofs share rw\n"
        );
        assert_eq!(
            redacted(
                "proc/cmdline",
                "quiet cryptkey=abc ip=10.0.0.2::10.0.0.1 dyn=\"a secret\" intel_iommu=on \
                 vfio-pci.ids=8086:10c9 root=UUID=12-34 hugepagesz=1G hugepages=1:4 -- token\n"
            ),
            "quiet cryptkey=REDACTED ip=REDACTED dyn=REDACTED intel_iommu=on \
             vfio-pci.ids=8086:10c9 root=REDACTED hugepagesz=1G hugepages=1:4\n"
        );
    }

    #[test]
    fn serial_numbers_are_blanked() {
        let mut config = vec![0; 4096];
        config[0x100..0x104].copy_from_slice(&0x1401_0001_u32.to_le_bytes());
        config[0x140..0x144].copy_from_slice(&0x0001_0003_u32.to_le_bytes());
        config[0x144..0x14c].fill(0xaa);
        blank_serial_number(&mut config);
        assert!(config[0x144..0x14c].iter().all(|byte| *byte == 0));
        // A list that leads back to its start ends.
        config[0x142..0x144].copy_from_slice(&0x1001_u16.to_le_bytes());
        blank_serial_number(&mut config);
    }
}
