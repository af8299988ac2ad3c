//! The operating system: its kernel's version, who made it, and how it boots.

use serde::Serialize;

use super::root::Root;

/// The operating system, as far as remedies differ by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct System {
    /// The kernel's release, such as `6.12.9-amd64`; empty when it cannot be seen.
    pub release: String,
    /// Whose commands it has.
    pub family: Family,
    /// What starts its kernel.
    pub loader: Loader,
    /// What makes its initial RAM disk.
    pub initramfs: Initramfs,
    /// What the lockdown module forbids: `none`, `integrity` or `confidentiality`; `None` when
    /// that cannot be seen.
    pub lockdown: Option<String>,
    /// Whether the firmware only starts signed code; `None` without EFI.
    pub secure_boot: Option<bool>,
    /// Whether it is a virtual machine itself; `None` when /proc/cpuinfo cannot be seen.
    pub is_virtual: Option<bool>,
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
    /// Anything else, or not to be seen.
    #[default]
    Other,
}

/// What starts the kernel, as far as its parameters are changed in different ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Loader {
    /// GRUB, with /etc/default/grub.
    Grub,
    /// GRUB on a system with grubby(8).
    Grubby,
    /// systemd-boot, with /etc/kernel/cmdline.
    SystemdBoot,
    /// systemd-boot or GRUB under Proxmox's tool.
    Proxmox,
    /// systemd-boot under System76's kernelstub.
    Kernelstub,
    /// Nothing that was recognized.
    #[default]
    Unknown,
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
    /// Nothing that was recognized.
    #[default]
    Unknown,
}

impl System {
    pub(super) fn read(root: &Root) -> Self {
        let os_release = ["/etc/os-release", "/usr/lib/os-release"];
        let os_release = os_release.iter().find_map(|path| root.glance(path)).unwrap_or_default();
        Self {
            release: root.glance("/proc/sys/kernel/osrelease").unwrap_or_default(),
            family: family(&os_release),
            loader: loader(root),
            initramfs: initramfs(root),
            lockdown: root.glance("/sys/kernel/security/lockdown").and_then(|text| chosen(&text)),
            secure_boot: secure_boot(root),
            is_virtual: is_virtual(root),
        }
    }
}

/// The word in brackets: the kernel's way to show one of several, `none [integrity]`.
pub(super) fn chosen(text: &str) -> Option<String> {
    let (_, after) = text.split_once('[')?;
    Some(after.split_once(']')?.0.to_owned())
}

fn family(os_release: &str) -> Family {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    let words = format!("{} {}", value("ID"), value("ID_LIKE"));
    let of_word = |word: &str| match word {
        "debian" | "ubuntu" => Some(Family::Debian),
        "rhel" | "fedora" | "centos" => Some(Family::RedHat),
        "suse" | "opensuse" | "sles" => Some(Family::Suse),
        "arch" => Some(Family::Arch),
        _ => None,
    };
    words.split_whitespace().find_map(of_word).unwrap_or_default()
}

/// Most particular first: a tool that manages parameters undoes what was changed behind its back.
fn loader(root: &Root) -> Loader {
    // systemd-boot names itself in a variable that everybody may read (systemd, Boot Loader
    // Interface): 4 bytes of attributes, then UTF-16.
    const LOADER: &str =
        "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let named = || {
        let bytes = root.head(LOADER, 256).ok().flatten()?;
        let letters = bytes.get(4..)?.iter().filter(|byte| **byte != 0);
        Some(letters.map(|byte| char::from(*byte)).collect::<String>())
    };
    let any = |paths: &[&str]| paths.iter().any(|path| root.exists(path));
    if any(&["/etc/kernelstub/configuration"]) {
        Loader::Kernelstub
    } else if any(&["/etc/kernel/proxmox-boot-uuids"]) {
        Loader::Proxmox
    } else if named().is_some_and(|name| name.starts_with("systemd-boot"))
        || any(&[
            "/boot/loader/loader.conf",
            "/efi/loader/loader.conf",
            "/boot/efi/loader/loader.conf",
        ])
    {
        Loader::SystemdBoot
    } else if any(&["/usr/sbin/grubby", "/sbin/grubby"]) {
        Loader::Grubby
    } else if any(&["/etc/default/grub"]) {
        Loader::Grub
    } else {
        Loader::Unknown
    }
}

fn initramfs(root: &Root) -> Initramfs {
    [
        ("/usr/sbin/update-initramfs", Initramfs::Tools),
        ("/usr/bin/dracut", Initramfs::Dracut),
        ("/usr/bin/mkinitcpio", Initramfs::Mkinitcpio),
    ]
    .into_iter()
    .find_map(|(tool, kind)| root.exists(tool).then_some(kind))
    .unwrap_or_default()
}

/// 4 bytes of attributes, then the value.
fn secure_boot(root: &Root) -> Option<bool> {
    const SECURE_BOOT: &str =
        "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let bytes = root.head(SECURE_BOOT, 8).ok().flatten()?;
    Some(*bytes.get(4)? == 1)
}

fn is_virtual(root: &Root) -> Option<bool> {
    let head = root.head("/proc/cpuinfo", 4096).ok().flatten()?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let flags = text.lines().find(|line| line.starts_with("flags"))?;
    Some(flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_by_what_they_are_like() {
        for (text, expected) in [
            ("ID=debian\n", Family::Debian),
            ("ID=pop\nID_LIKE=\"ubuntu debian\"\n", Family::Debian),
            ("NAME=Rocky\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Family::RedHat),
            ("ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n", Family::Suse),
            ("ID=manjaro\nID_LIKE=arch\n", Family::Arch),
            ("ID=alpine\n", Family::Other),
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
    fn loaders_are_told_by_their_files() {
        use crate::host::fixture::Fixture;

        const EFI: &str =
            "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
        let named = |name: &str| {
            let text = name.encode_utf16().flat_map(u16::to_le_bytes);
            [6, 0, 0, 0].into_iter().chain(text).collect::<Vec<u8>>()
        };
        let none = Fixture::default;
        let with = |paths: &[&str]| {
            let mut host = none();
            for path in paths {
                host.file(path, "");
            }
            host
        };
        let mut by_name = with(&["/etc/default/grub"]);
        by_name.bytes(EFI, named("systemd-boot 252"));
        let mut other_name = with(&["/etc/default/grub"]);
        other_name.bytes(EFI, named("GRUB 2.06"));
        for (host, expected) in [
            (none(), Loader::Unknown),
            (with(&["/etc/default/grub"]), Loader::Grub),
            (with(&["/etc/default/grub", "/usr/sbin/grubby"]), Loader::Grubby),
            (with(&["/etc/default/grub", "/etc/kernel/proxmox-boot-uuids"]), Loader::Proxmox),
            (with(&["/boot/loader/loader.conf"]), Loader::SystemdBoot),
            (with(&["/efi/loader/loader.conf"]), Loader::SystemdBoot),
            (
                with(&["/etc/kernelstub/configuration", "/boot/efi/loader/loader.conf"]),
                Loader::Kernelstub,
            ),
            (by_name, Loader::SystemdBoot),
            (other_name, Loader::Grub),
        ] {
            assert_eq!(loader(&host.root()), expected);
        }
        for (tool, expected) in [
            ("/usr/sbin/update-initramfs", Initramfs::Tools),
            ("/usr/bin/dracut", Initramfs::Dracut),
            ("/usr/bin/mkinitcpio", Initramfs::Mkinitcpio),
        ] {
            assert_eq!(initramfs(&with(&[tool]).root()), expected);
        }
    }
}
