//! Functions that `berth bind --persist` gives to vfio-pci at boot, as its file lists them.
//!
//! An address is a place, and a card that is added or taken out moves others to it. So the file
//! also says which card was meant, and what is another card now is left alone.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use berth_devices::pci::HostBdf;
use serde::Serialize;

use super::pci::DEVICES;
use super::root::Root;

/// The file, which is generated from its own comments.
pub const FILE: &str = "/etc/modprobe.d/berth.conf";

const FUNCTION: &str = "# berth function ";

/// The files of sysfs that tell cards apart, in the order of [`Identity`].
pub const IDENTITY_FILES: [&str; 4] = ["vendor", "device", "subsystem_vendor", "subsystem_device"];

/// Vendor, device, subsystem's vendor and subsystem's device, four hexadecimal digits each:
/// `8086:10c9:8086:a03c`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Identity(String);

/// A function that goes to vfio-pci at boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Persisted {
    /// Its address.
    pub address: HostBdf,
    /// The card that was meant; files of the first berths do not say.
    pub identity: Option<Identity>,
    /// Modules that would have it.
    pub modules: BTreeSet<String>,
}

impl Identity {
    /// That of what is at `address` now.
    pub fn read(root: &Root, address: HostBdf) -> Option<Self> {
        let digits = |name: &str| {
            let text = root.glance(format!("{DEVICES}/{address}/{name}"))?;
            Some(text.trim_start_matches("0x").to_owned())
        };
        let all: Option<Vec<String>> = IDENTITY_FILES.iter().map(|name| digits(name)).collect();
        Some(Self(all?.join(":")))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As a comment of the file, without its beginning.
impl fmt::Display for Persisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FUNCTION}{}", self.address)?;
        if let Some(identity) = &self.identity {
            write!(f, " {identity}")?;
        }
        self.modules.iter().try_for_each(|module| write!(f, " {module}"))
    }
}

/// The line is none that lists a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPersisted;

impl FromStr for Persisted {
    type Err = NotPersisted;

    fn from_str(line: &str) -> Result<Self, NotPersisted> {
        let words = line.strip_prefix(FUNCTION).ok_or(NotPersisted)?;
        let mut words = words.split_whitespace().peekable();
        let address = words.next().and_then(|word| word.parse().ok()).ok_or(NotPersisted)?;
        let identity = words.next_if(|word| word.contains(':'));
        let identity = identity.map(|word| Identity(word.to_owned()));
        Ok(Self { address, identity, modules: words.map(str::to_owned).collect() })
    }
}

/// All that the file of a host lists.
pub(super) fn read(root: &Root) -> Vec<Persisted> {
    let text = root.glance(FILE).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        for line in [
            "# berth function 0000:41:00.0 8086:10c9:8086:a03c igb",
            "# berth function 0000:41:00.0 8086:10c9:8086:a03c",
            "# berth function 0000:41:00.0 igb igc",
            "# berth function 0000:41:00.0",
        ] {
            let persisted: Persisted = line.parse().expect(line);
            assert_eq!(persisted.to_string(), line);
            assert_eq!(persisted.identity.is_some(), line.contains("10c9"));
        }
        assert_eq!("# something else".parse::<Persisted>(), Err(NotPersisted));
        assert_eq!("# berth function x".parse::<Persisted>(), Err(NotPersisted));
    }
}
