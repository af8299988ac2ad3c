//! Names of vendors, devices and classes, from the system's pci.ids.

use std::collections::BTreeMap;
use std::fs;

/// Where distributions keep the file; pciutils' own update comes first.
const PLACES: [&str; 4] = [
    "/var/lib/pciutils/pci.ids",
    "/usr/share/hwdata/pci.ids",
    "/usr/share/misc/pci.ids",
    "/usr/share/pci.ids",
];

/// Names of vendors, devices and classes.
#[derive(Debug, Default)]
pub struct Names {
    vendors: BTreeMap<u16, String>,
    devices: BTreeMap<(u16, u16), String>,
    classes: BTreeMap<u16, String>,
}

impl Names {
    /// From this system's file; nameless where there is none. Names are no fact of a host, so
    /// that snapshots of other hosts get them from here too.
    pub fn of_this_system() -> Self {
        let text = PLACES.iter().find_map(|path| fs::read(path).ok()).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Lines `VVVV  vendor`, `\tDDDD  device`, `C CC  class` and `\tSS  subclass`; subsystems and
    /// programming interfaces have two tabs.
    pub(super) fn parse(text: &str) -> Self {
        enum Part {
            Vendor(u16),
            Class(u16),
            Other,
        }
        let mut names = Self::default();
        let mut part = Part::Other;
        let id = |text: &str| u16::from_str_radix(text, 16).ok();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if line.starts_with("\t\t") {
                continue;
            }
            let Some((key, name)) = line.split_once("  ") else {
                continue;
            };
            if let Some(key) = key.strip_prefix('\t') {
                match (&part, id(key)) {
                    (Part::Vendor(vendor), Some(device)) => {
                        names.devices.insert((*vendor, device), name.to_owned());
                    }
                    (Part::Class(class), Some(subclass)) => {
                        names.classes.insert(class << 8 | subclass, name.to_owned());
                    }
                    _ => {}
                }
            } else if let Some(class) = key.strip_prefix("C ").and_then(id) {
                part = Part::Class(class);
            } else if let Some(vendor) = id(key).filter(|_| key.len() == 4) {
                names.vendors.insert(vendor, name.to_owned());
                part = Part::Vendor(vendor);
            } else {
                part = Part::Other;
            }
        }
        names
    }

    /// The vendor's name.
    pub fn vendor(&self, vendor: u16) -> Option<&str> {
        self.vendors.get(&vendor).map(String::as_str)
    }

    /// The device's name.
    pub fn device(&self, vendor: u16, device: u16) -> Option<&str> {
        self.devices.get(&(vendor, device)).map(String::as_str)
    }

    /// The name of a class code's upper 16 bits, from the file or from the few that berth knows.
    pub fn class(&self, class: u32) -> Option<&str> {
        let class = (class >> 8) as u16;
        self.classes.get(&class).map(String::as_str).or(match class {
            0x0100 => Some("SCSI storage controller"),
            0x0106 => Some("SATA controller"),
            0x0108 => Some("Non-Volatile memory controller"),
            0x0200 => Some("Ethernet controller"),
            0x0207 => Some("Infiniband controller"),
            0x0280 => Some("Network controller"),
            0x0300 => Some("VGA compatible controller"),
            0x0302 => Some("3D controller"),
            0x0403 => Some("Audio device"),
            0x0500 => Some("RAM memory"),
            0x0880 => Some("System peripheral"),
            0x0c03 => Some("USB controller"),
            0x0c05 => Some("SMBus"),
            0x1200 => Some("Processing accelerators"),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: &str = "# comment\n\n8086  Intel Corporation\n\t10c9  82576 Gigabit Network Connection\n\
        \t\t8086 a03c  Gigabit ET Dual Port Server Adapter\nffff  Illegal Vendor ID\n\n\
        C 02  Network controller\n\t00  Ethernet controller\n\t\t00  nothing\n";

    #[test]
    fn names_are_found_by_their_numbers() {
        let names = Names::parse(IDS);
        assert_eq!(names.vendor(0x8086), Some("Intel Corporation"));
        assert_eq!(names.device(0x8086, 0x10c9), Some("82576 Gigabit Network Connection"));
        assert_eq!(names.device(0x8086, 0xa03c), None);
        assert_eq!(names.vendor(0x02), None);
        assert_eq!(names.class(0x02_0000), Some("Ethernet controller"));
        assert_eq!(names.class(0x01_0802), Some("Non-Volatile memory controller"));
        assert_eq!(names.class(0xfe_0000), None);
    }
}
