//! Kernel modules: which are there, which could be, and what the system's files say of them.

use std::collections::BTreeSet;

use serde::Serialize;

use super::root::Root;

/// What is known of one module that berth needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// Loaded, or part of the kernel.
    Loaded,
    /// Installed, not loaded.
    Available,
    /// The kernel has no such module.
    Absent,
    /// The kernel's modules cannot be seen.
    #[default]
    Unknown,
}

/// A line of the system's configuration that concerns a driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigLine {
    /// The file.
    pub file: String,
    /// The line.
    pub text: String,
}

/// Kernel modules, as far as passthrough depends on them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Modules {
    /// vfio-pci.
    pub vfio_pci: ModuleState,
    /// Whether vfio-pci is part of the kernel, which reads no modprobe.d.
    pub vfio_pci_built_in: bool,
    /// vfio_iommu_type1.
    pub vfio_iommu_type1: ModuleState,
    /// kvm_intel.
    pub kvm_intel: ModuleState,
    /// kvm_amd.
    pub kvm_amd: ModuleState,
    /// Lines of modprobe.d, of modules-load.d and of what makes the initial RAM disk, without
    /// comments.
    pub config: Vec<ConfigLine>,
    /// Patterns of the devices that each module drives, from the kernel's modules.alias.
    #[serde(skip)]
    pub aliases: Vec<(String, String)>,
    /// Devices that driverctl(8) binds at boot, with their drivers.
    pub driverctl: Vec<(String, String)>,
}

/// Folders and files with lines of configuration; those of /etc first, which override.
const CONFIG: [&str; 9] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
    "/etc/modules-load.d",
    "/etc/modules",
    "/etc/initramfs-tools/modules",
    "/etc/dracut.conf.d",
    "/etc/mkinitcpio.conf",
];

impl Modules {
    /// `modaliases` are those of the functions whose drivers are asked for.
    pub(super) fn read(root: &Root, release: &str, modaliases: &BTreeSet<&str>) -> Self {
        let folder = format!("/lib/modules/{release}");
        let read = |name: &str| root.glance(format!("{folder}/{name}"));
        let (builtin, installed) = (read("modules.builtin"), read("modules.dep"));
        let listed = |files: &Option<String>, name: &str| {
            let text = files.as_deref().unwrap_or_default();
            text.lines().any(|line| {
                let path = line.split(':').next().unwrap_or_default();
                let file = path.rsplit('/').next().unwrap_or_default();
                is_module(file.split('.').next().unwrap_or_default(), name)
            })
        };
        let state = |name: &str| {
            if root.exists(format!("/sys/module/{name}")) || listed(&builtin, name) {
                ModuleState::Loaded
            } else if listed(&installed, name) {
                ModuleState::Available
            } else if installed.is_some() {
                ModuleState::Absent
            } else {
                ModuleState::Unknown
            }
        };
        let aliases = read("modules.alias").unwrap_or_default();
        Self {
            vfio_pci: state("vfio_pci"),
            vfio_pci_built_in: listed(&builtin, "vfio_pci"),
            vfio_iommu_type1: state("vfio_iommu_type1"),
            kvm_intel: state("kvm_intel"),
            kvm_amd: state("kvm_amd"),
            config: config(root),
            aliases: matching(&aliases, modaliases),
            driverctl: driverctl(root),
        }
    }

    /// Modules that drive a device of this `modalias`; vfio-pci's own pattern matches all that it
    /// is told of, and is none.
    pub fn drivers_of(&self, modalias: &str) -> Vec<&str> {
        let of = self.aliases.iter().filter(|(pattern, _)| matches(pattern, modalias));
        let drivers: BTreeSet<&str> = of.map(|(_, module)| module.as_str()).collect();
        drivers.into_iter().filter(|module| *module != "vfio_pci").collect()
    }
}

/// Modules of the kernel that runs which drive a device of this `modalias`.
pub(super) fn drivers_of(root: &Root, modalias: &str) -> BTreeSet<String> {
    let release = root.glance("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Modules::read(root, &release, &BTreeSet::from([modalias]));
    modules.drivers_of(modalias).into_iter().map(str::to_owned).collect()
}

impl Root {
    /// The module of a driver on the PCI bus; `None` when it is part of the kernel. A driver that
    /// is not loaded is taken to be called as its module, as most are.
    pub fn module_of(&self, driver: &str) -> Option<String> {
        let folder = format!("/sys/bus/pci/drivers/{driver}");
        if self.exists(&folder) {
            self.link_name(format!("{folder}/module"))
        } else {
            Some(driver.to_owned())
        }
    }
}

/// Whether both name the same module: `-` and `_` are one, as for modprobe.
fn is_module(one: &str, other: &str) -> bool {
    let letter = |byte: u8| if byte == b'-' { b'_' } else { byte };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(a, b)| letter(a) == letter(b))
}

fn config(root: &Root) -> Vec<ConfigLine> {
    let mut lines = Vec::new();
    for place in CONFIG {
        let names = root.names(place).unwrap_or_default();
        let files = names.iter().filter(|name| name.ends_with(".conf"));
        let mut files: Vec<String> = files.map(|name| format!("{place}/{name}")).collect();
        if names.is_empty() {
            files.push(place.to_owned());
        }
        for file in files {
            let text = root.glance(&file).unwrap_or_default();
            let meant = text.lines().map(str::trim);
            let meant = meant.filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines
                .extend(meant.map(|line| ConfigLine { file: file.clone(), text: line.to_owned() }));
        }
    }
    lines
}

fn driverctl(root: &Root) -> Vec<(String, String)> {
    const FOLDER: &str = "/etc/driverctl.d";
    let names = root.names(FOLDER).unwrap_or_default();
    let devices = names.iter().filter_map(|name| {
        let driver = root.glance(format!("{FOLDER}/{name}"))?;
        Some((name.strip_prefix("pci-").unwrap_or(name).to_owned(), driver))
    });
    devices.collect()
}

/// Lines `alias PATTERN MODULE` whose pattern matches any of `modaliases`.
fn matching(aliases: &str, modaliases: &BTreeSet<&str>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in aliases.lines() {
        let Some((pattern, module)) = line
            .strip_prefix("alias ")
            .filter(|rest| rest.starts_with("pci:"))
            .and_then(|rest| rest.rsplit_once(' '))
        else {
            continue;
        };
        if modaliases.iter().any(|name| matches(pattern, name)) {
            found.push((pattern.to_owned(), module.to_owned()));
        }
    }
    found
}

/// Whether `text` matches `pattern`, in which `*` stands for anything, as in fnmatch(3).
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut ends_with_star = false;
    for part in parts {
        ends_with_star = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    ends_with_star || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_modprobe() {
        let nic = "pci:v00008086d000010C9sv00008086sd0000A03Cbc02sc00i00";
        for (pattern, expected) in [
            ("pci:v00008086d000010C9sv*sd*bc*sc*i*", true),
            ("pci:v00008086d000010C8sv*sd*bc*sc*i*", false),
            ("pci:v*d*sv*sd*bc02sc00i00", true),
            ("pci:v*d*sv*sd*bc01sc*i*", false),
            (nic, true),
            ("usb:v*", false),
        ] {
            assert_eq!(matches(pattern, nic), expected, "{pattern}");
        }
    }
}
