//! The operating system: its kernel, who made it, how it boots, and what it runs in.

mod boot_files;
mod kernel_config;
mod loader;

use serde::Serialize;

pub use boot_files::BootFile;
pub(super) use boot_files::{is_boot_file, redact as redact_boot_file};
pub use kernel_config::KernelConfig;
pub use loader::Loader;

use super::root::Root;
use crate::units::Seen;

/// The operating system, as far as remedies differ by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct System {
    /// The kernel's release, such as `6.12.9-amd64`; empty when it cannot be seen.
    pub release: String,
    /// The distribution's `ID` of os-release, such as `debian`; empty when it cannot be seen.
    pub id: String,
    /// Whose commands it has.
    pub family: Family,
    /// What starts its kernel, or what owns that kernel's parameters.
    pub loader: Loader,
    /// The files in which the loader, or what writes its configuration, keeps those parameters.
    pub boot_files: Vec<BootFile>,
    /// How its kernel was built.
    pub kernel_config: KernelConfig,
    /// What makes its initial RAM disk.
    pub initramfs: Initramfs,
    /// What the lockdown module forbids: `none`, `integrity` or `confidentiality`; `None` when
    /// that cannot be seen.
    pub lockdown: Option<String>,
    /// Whether the firmware only starts signed code; unknown without EFI.
    pub secure_boot: Seen,
    /// Whether it is a virtual machine itself.
    pub is_virtual: Seen,
    /// Whether it is a domain of Xen, whose hypervisor has the IOMMU and the CPUs' virtualization.
    pub xen: bool,
    /// What this process runs in, when that is a container.
    pub container: Option<Container>,
    /// Whether SEV-SNP is on, which a host's DMA without translation would turn off.
    pub sev_snp: Seen,
}

/// Distributions by their commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Debian, Ubuntu.
    Debian,
    /// Red Hat Enterprise Linux, Fedora.
    RedHat,
    /// SUSE.
    Suse,
    /// Arch.
    Arch,
    /// Alpine.
    Alpine,
    /// Gentoo.
    Gentoo,
    /// Void.
    Void,
    /// Anything else, or not to be seen.
    #[default]
    Other,
}

/// What a process runs in beside others, with limits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    /// A pod of Kubernetes.
    Pod,
    /// Docker's, Podman's or another engine's.
    Engine,
}

/// What makes the initial RAM disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Initramfs {
    /// initramfs-tools (Debian).
    Tools,
    /// dracut.
    Dracut,
    /// mkinitcpio (Arch).
    Mkinitcpio,
    /// mkinitfs (Alpine).
    Mkinitfs,
    /// Booster.
    Booster,
    /// Nothing that was recognized.
    #[default]
    Unknown,
}

impl System {
    /// Reads what remedies depend on.
    pub fn read(root: &Root) -> Self {
        let os_release = ["/etc/os-release", "/usr/lib/os-release"];
        let os_release = os_release.iter().find_map(|path| root.glance(path)).unwrap_or_default();
        let release = root.glance("/proc/sys/kernel/osrelease").unwrap_or_default();
        let (id, family) = (value(&os_release, "ID"), family(&os_release));
        let xen = root.glance("/sys/hypervisor/type").as_deref() == Some("xen");
        let secure_boot = secure_boot(root);
        let loader = loader::find(root, &os_release, xen, secure_boot);
        Self {
            loader,
            boot_files: boot_files::read(root, loader),
            kernel_config: KernelConfig::read(root, &release),
            initramfs: initramfs(root),
            lockdown: root.glance("/sys/kernel/security/lockdown").and_then(|text| chosen(&text)),
            is_virtual: if xen { Seen::No } else { is_virtual(root) },
            container: container(root),
            sev_snp: sev_snp(root),
            secure_boot,
            xen,
            release,
            id,
            family,
        }
    }

    /// The loader's file that has this parameter for the next boot.
    pub fn configured(&self, parameter: &str) -> Option<&BootFile> {
        self.boot_files.iter().find(|file| file.words.iter().any(|word| word == parameter))
    }
}

/// The word in brackets: the kernel's way to show one of several, `none [integrity]`.
pub(super) fn chosen(text: &str) -> Option<String> {
    let (_, after) = text.split_once('[')?;
    Some(after.split_once(']')?.0.to_owned())
}

/// A value of os-release(5).
fn value(os_release: &str, key: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

fn family(os_release: &str) -> Family {
    let words = format!("{} {}", value(os_release, "ID"), value(os_release, "ID_LIKE"));
    let of_word = |word: &str| match word {
        "debian" | "ubuntu" => Some(Family::Debian),
        "rhel" | "fedora" | "centos" => Some(Family::RedHat),
        "suse" | "opensuse" | "sles" => Some(Family::Suse),
        "arch" => Some(Family::Arch),
        "alpine" => Some(Family::Alpine),
        "gentoo" => Some(Family::Gentoo),
        "void" => Some(Family::Void),
        _ => None,
    };
    words.split_whitespace().find_map(of_word).unwrap_or_default()
}

fn initramfs(root: &Root) -> Initramfs {
    [
        ("update-initramfs", Initramfs::Tools),
        ("dracut", Initramfs::Dracut),
        ("mkinitcpio", Initramfs::Mkinitcpio),
        ("mkinitfs", Initramfs::Mkinitfs),
        ("booster", Initramfs::Booster),
    ]
    .into_iter()
    .find_map(|(tool, kind)| has_tool(root, tool).then_some(kind))
    .unwrap_or_default()
}

/// Whether a command is installed, in one of the folders where distributions have root's.
fn has_tool(root: &Root, tool: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin"].iter().any(|folder| root.exists(format!("{folder}/{tool}")))
}

/// 4 bytes of attributes, then the value.
fn secure_boot(root: &Root) -> Seen {
    const SECURE_BOOT: &str =
        "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let bytes = root.head(SECURE_BOOT, 8).ok().flatten();
    bytes.and_then(|bytes| bytes.get(4).map(|byte| *byte == 1)).into()
}

fn is_virtual(root: &Root) -> Seen {
    let head = root.head("/proc/cpuinfo", 4096).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&head).into_owned();
    let flags = text.lines().find(|line| line.starts_with("flags"));
    flags.map(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")).into()
}

/// By the marks that engines leave: Docker's and Podman's files, and the names of cgroups.
fn container(root: &Root) -> Option<Container> {
    let cgroup = root.glance("/proc/self/cgroup").unwrap_or_default();
    if cgroup.contains("kubepods") || root.exists("/var/run/secrets/kubernetes.io") {
        return Some(Container::Pod);
    }
    let names = ["/docker", "/libpod", "/lxc", "cri-containerd", "crio-"];
    let engine = ["/.dockerenv", "/run/.containerenv"].iter().any(|file| root.exists(file))
        || names.iter().any(|name| cgroup.contains(name));
    engine.then_some(Container::Engine)
}

/// kvm_amd's parameter says whether guests may have it (arch/x86/kvm/svm/sev.c).
fn sev_snp(root: &Root) -> Seen {
    let parameter = root.glance("/sys/module/kvm_amd/parameters/sev_snp");
    parameter.map(|value| matches!(value.as_str(), "Y" | "1")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    #[test]
    fn families_are_told_by_what_they_are_like() {
        for (text, expected) in [
            ("ID=debian\n", Family::Debian),
            ("ID=pop\nID_LIKE=\"ubuntu debian\"\n", Family::Debian),
            ("NAME=Rocky\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Family::RedHat),
            ("ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n", Family::Suse),
            ("ID=manjaro\nID_LIKE=arch\n", Family::Arch),
            ("ID=alpine\n", Family::Alpine),
            ("ID=slackware\n", Family::Other),
        ] {
            assert_eq!(family(text), expected, "{text}");
        }
    }

    #[test]
    fn the_chosen_word_is_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality").as_deref(), Some("integrity"));
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn tools_are_found_in_all_of_roots_folders() {
        for (tool, expected) in [
            ("/usr/sbin/update-initramfs", Initramfs::Tools),
            ("/usr/bin/dracut", Initramfs::Dracut),
            ("/usr/sbin/dracut", Initramfs::Dracut),
            ("/usr/bin/mkinitcpio", Initramfs::Mkinitcpio),
            ("/sbin/mkinitfs", Initramfs::Mkinitfs),
        ] {
            let mut host = Fixture::default();
            host.file(tool, "");
            assert_eq!(initramfs(&host.root()), expected, "{tool}");
        }
    }

    #[test]
    fn containers_are_told_from_hosts() {
        for (path, text, expected) in [
            ("/proc/self/cgroup", "0::/system.slice/berth.service", None),
            ("/proc/self/cgroup", "0::/kubepods.slice/kubepods-pod1.slice/x", Some(Container::Pod)),
            ("/proc/self/cgroup", "0::/machine.slice/libpod-1.scope", Some(Container::Engine)),
            ("/.dockerenv", "", Some(Container::Engine)),
        ] {
            let mut host = Fixture::default();
            host.file(path, text);
            assert_eq!(container(&host.root()), expected, "{path} {text}");
        }
    }
}
