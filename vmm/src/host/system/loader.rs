//! What starts the kernel, or what owns the parameters that it is started with.

use serde::Serialize;

use super::{has_tool, value};
use crate::host::root::Root;
use crate::units::Seen;

/// What starts the kernel, as far as its parameters are changed in different ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Loader {
    /// GRUB, with /etc/default/grub.
    Grub,
    /// GRUB on a system with grubby(8).
    Grubby,
    /// systemd-boot, with /etc/kernel/cmdline.
    SystemdBoot,
    /// A kernel, its initial RAM disk and its parameters in one EFI program.
    UnifiedImage,
    /// systemd-boot under Proxmox's tool.
    ProxmoxSystemdBoot,
    /// GRUB under Proxmox's tool: firmware without EFI, or with Secure Boot.
    ProxmoxGrub,
    /// systemd-boot under System76's kernelstub.
    Kernelstub,
    /// Limine.
    Limine,
    /// rEFInd.
    Refind,
    /// extlinux under Alpine's tool.
    Extlinux,
    /// Unraid's, on its USB drive.
    Unraid,
    /// NixOS's configuration.
    NixOs,
    /// The machine configuration of Talos.
    Talos,
    /// The middleware of TrueNAS.
    TrueNas,
    /// Flatcar's GRUB.
    Flatcar,
    /// rpm-ostree: Fedora CoreOS, Silverblue and their like.
    Ostree,
    /// The Machine Config Operator of OpenShift.
    OpenShift,
    /// Ubuntu Core, by snapd.
    UbuntuCore,
    /// SUSE's systems with transactional updates.
    Transactional,
    /// Harvester and other systems of Elemental.
    Elemental,
    /// Bottlerocket, by its API.
    Bottlerocket,
    /// Photon.
    Photon,
    /// The dom0 of XenServer and XCP-ng.
    XenServer,
    /// Nothing that was recognized.
    #[default]
    Unknown,
}

impl Loader {
    /// Each, for tests that try all.
    #[cfg(test)]
    pub const ALL: [Self; 24] = [
        Self::Grub,
        Self::Grubby,
        Self::SystemdBoot,
        Self::UnifiedImage,
        Self::ProxmoxSystemdBoot,
        Self::ProxmoxGrub,
        Self::Kernelstub,
        Self::Limine,
        Self::Refind,
        Self::Extlinux,
        Self::Unraid,
        Self::NixOs,
        Self::Talos,
        Self::TrueNas,
        Self::Flatcar,
        Self::Ostree,
        Self::OpenShift,
        Self::UbuntuCore,
        Self::Transactional,
        Self::Elemental,
        Self::Bottlerocket,
        Self::Photon,
        Self::XenServer,
        Self::Unknown,
    ];
}

/// Most particular first: a part of the system that manages parameters undoes what was changed
/// behind its back, and only then does the loader itself count.
pub(super) fn find(root: &Root, os_release: &str, xen: bool, secure_boot: Seen) -> Loader {
    system(root, os_release, xen).unwrap_or_else(|| loader(root, secure_boot))
}

/// Systems that own the parameters whatever the loader is.
fn system(root: &Root, os_release: &str, xen: bool) -> Option<Loader> {
    let is = |path: &str| root.exists(path);
    let (id, name) = (value(os_release, "ID"), value(os_release, "PRETTY_NAME"));
    Some(match id.as_str() {
        "nixos" => Loader::NixOs,
        "talos" => Loader::Talos,
        "flatcar" => Loader::Flatcar,
        "ubuntu-core" => Loader::UbuntuCore,
        "bottlerocket" => Loader::Bottlerocket,
        "photon" => Loader::Photon,
        "rhcos" | "scos" => Loader::OpenShift,
        "xenenterprise" | "xcp-ng" => Loader::XenServer,
        "opensuse-microos"
        | "opensuse-leap-micro"
        | "opensuse-aeon"
        | "opensuse-kalpa"
        | "sle-micro"
        | "sl-micro"
        | "suse-microos" => Loader::Transactional,
        "harvester" | "sle-micro-rancher" | "elemental" => Loader::Elemental,
        _ if name.starts_with("Harvester") => Loader::Elemental,
        _ if is("/etc/NIXOS") => Loader::NixOs,
        _ if is("/etc/unraid-version") || id.starts_with("unraid") => Loader::Unraid,
        // A Debian by its os-release.
        _ if name.contains("TrueNAS") || has_tool(root, "midclt") => Loader::TrueNas,
        _ if is("/run/ostree-booted") => Loader::Ostree,
        _ if xen && (is("/etc/xensource-inventory") || has_tool(root, "grubby")) => {
            Loader::XenServer
        }
        _ => return None,
    })
}

fn loader(root: &Root, secure_boot: Seen) -> Loader {
    let any = |paths: &[&str]| paths.iter().any(|path| root.exists(path));
    let name = name(root).unwrap_or_default();
    let is_systemd_boot = name.starts_with("systemd-boot");
    if any(&["/etc/kernelstub/configuration"]) {
        Loader::Kernelstub
    } else if any(&["/etc/kernel/proxmox-boot-uuids"]) {
        // systemd-boot where there is EFI, but for Secure Boot, whose keys sign GRUB
        // (pve-docs, system-booting.adoc).
        let with_efi = is_systemd_boot || (name.is_empty() && any(&["/sys/firmware/efi"]));
        if with_efi && !secure_boot.is_yes() {
            Loader::ProxmoxSystemdBoot
        } else {
            Loader::ProxmoxGrub
        }
    } else if name.starts_with("Limine") || name.starts_with("limine") {
        Loader::Limine
    } else if name.starts_with("rEFInd") {
        Loader::Refind
    } else if any(&[STUB]) && !name.starts_with("GRUB") {
        Loader::UnifiedImage
    } else if is_systemd_boot
        || (name.is_empty()
            && any(&[
                "/boot/loader/loader.conf",
                "/efi/loader/loader.conf",
                "/boot/efi/loader/loader.conf",
            ]))
    {
        Loader::SystemdBoot
    } else if has_tool(root, "grubby") {
        Loader::Grubby
    } else if any(&["/etc/update-extlinux.conf"]) {
        Loader::Extlinux
    } else if any(&["/boot/limine.conf", "/boot/limine/limine.conf", "/etc/default/limine"]) {
        Loader::Limine
    } else if any(&["/boot/refind_linux.conf"]) {
        Loader::Refind
    } else if any(&["/etc/default/grub", "/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"]) {
        Loader::Grub
    } else {
        Loader::Unknown
    }
}

/// Set by systemd-stub, the beginning of a unified image (systemd-stub(7)).
const STUB: &str = "/sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Loaders name themselves in a variable that everybody may read (systemd, Boot Loader
/// Interface): 4 bytes of attributes, then UTF-16.
fn name(root: &Root) -> Option<String> {
    const LOADER: &str =
        "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let bytes = root.head(LOADER, 256).ok().flatten()?;
    let letters = bytes.get(4..)?.iter().filter(|byte| **byte != 0);
    Some(letters.map(|byte| char::from(*byte)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    const EFI: &str = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    const GRUB: &str = "/etc/default/grub";

    fn named(name: &str, paths: &[&str]) -> Fixture {
        let mut host = with(paths);
        let text = name.encode_utf16().flat_map(u16::to_le_bytes);
        host.bytes(EFI, [6, 0, 0, 0].into_iter().chain(text).collect::<Vec<u8>>());
        host
    }

    fn with(paths: &[&str]) -> Fixture {
        let mut host = Fixture::default();
        for path in paths {
            host.file(path, "");
        }
        host
    }

    #[test]
    fn loaders_are_told_by_their_names_and_files() {
        let proxmox = "/etc/kernel/proxmox-boot-uuids";
        for (host, expected) in [
            (with(&[]), Loader::Unknown),
            (with(&[GRUB]), Loader::Grub),
            (with(&[GRUB, "/usr/sbin/grubby"]), Loader::Grubby),
            (with(&[GRUB, proxmox]), Loader::ProxmoxGrub),
            (named("GRUB 2.06", &[GRUB, proxmox]), Loader::ProxmoxGrub),
            (named("systemd-boot 252", &[GRUB, proxmox]), Loader::ProxmoxSystemdBoot),
            (with(&["/boot/loader/loader.conf"]), Loader::SystemdBoot),
            (with(&["/efi/loader/loader.conf"]), Loader::SystemdBoot),
            (
                with(&["/etc/kernelstub/configuration", "/boot/efi/loader/loader.conf"]),
                Loader::Kernelstub,
            ),
            (named("systemd-boot 252", &[GRUB]), Loader::SystemdBoot),
            (named("GRUB 2.06", &[GRUB]), Loader::Grub),
            (named("Limine 9.0", &[GRUB]), Loader::Limine),
            (named("rEFInd 0.14", &[GRUB]), Loader::Refind),
            (with(&[STUB]), Loader::UnifiedImage),
            (with(&["/boot/limine.conf"]), Loader::Limine),
            (with(&["/boot/refind_linux.conf"]), Loader::Refind),
            (with(&["/etc/update-extlinux.conf"]), Loader::Extlinux),
        ] {
            assert_eq!(find(&host.root(), "ID=x", false, Seen::Unknown), expected);
        }
        let signed = named("systemd-boot 252", &[proxmox]);
        assert_eq!(find(&signed.root(), "", false, Seen::Yes), Loader::ProxmoxGrub);
    }

    #[test]
    fn systems_that_own_their_parameters_come_before_the_loader() {
        for (os_release, extra, expected) in [
            ("ID=nixos", GRUB, Loader::NixOs),
            ("ID=talos", GRUB, Loader::Talos),
            ("ID=flatcar\nID_LIKE=coreos", "/oem/grub.cfg", Loader::Flatcar),
            ("ID=ubuntu-core", GRUB, Loader::UbuntuCore),
            ("ID=fedora\nVARIANT_ID=coreos", "/run/ostree-booted", Loader::Ostree),
            ("ID=\"rhcos\"", "/run/ostree-booted", Loader::OpenShift),
            ("ID=debian", "/usr/bin/midclt", Loader::TrueNas),
            ("ID=\"opensuse-microos\"", GRUB, Loader::Transactional),
            ("ID=slackware", "/etc/unraid-version", Loader::Unraid),
            ("ID=sle-micro-rancher\nPRETTY_NAME=\"Harvester v1.4\"", GRUB, Loader::Elemental),
            ("ID=bottlerocket", GRUB, Loader::Bottlerocket),
            ("ID=photon", GRUB, Loader::Photon),
        ] {
            let host = with(&[GRUB, "/boot/loader/loader.conf", extra]);
            let found = find(&host.root(), os_release, false, Seen::Unknown);
            assert_eq!(found, expected, "{os_release}");
        }
        let dom0 = with(&[GRUB, "/usr/sbin/grubby"]);
        assert_eq!(find(&dom0.root(), "ID=rhel", true, Seen::Unknown), Loader::XenServer);
    }
}
