//! The files in which the kernel's parameters stand for the next boot.

use std::path::Path;

use serde::Serialize;

use super::Loader;
use crate::host::plain_parameters::is_plain;
use crate::host::root::Root;

/// A file with parameters of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BootFile {
    /// Where it is.
    pub path: String,
    /// Its words that concern CPUs, memory, IOMMUs and drivers.
    pub words: Vec<String>,
}

/// Files and folders of each loader, the ones that people edit first.
fn places(loader: Loader) -> &'static [&'static str] {
    const GRUB: &[&str] = &["/etc/default/grub", "/etc/default/grub.d"];
    match loader {
        Loader::Grub | Loader::ProxmoxGrub => GRUB,
        Loader::Grubby | Loader::XenServer => {
            &["/boot/loader/entries", "/etc/default/grub", "/etc/default/grub.d"]
        }
        Loader::SystemdBoot | Loader::UnifiedImage | Loader::ProxmoxSystemdBoot => &[
            "/etc/kernel/cmdline",
            "/etc/cmdline.d",
            "/boot/loader/entries",
            "/efi/loader/entries",
        ],
        Loader::Limine => &["/etc/default/limine", "/boot/limine.conf", "/boot/limine/limine.conf"],
        Loader::Refind => &["/boot/refind_linux.conf"],
        Loader::Extlinux => &["/etc/update-extlinux.conf"],
        Loader::Kernelstub => &["/etc/kernelstub/configuration"],
        Loader::Flatcar => &["/oem/grub.cfg", "/usr/share/oem/grub.cfg"],
        Loader::Unraid => &["/boot/syslinux/syslinux.cfg", "/boot/limine/limine.conf"],
        Loader::Photon => &["/boot/photon.cfg"],
        // What owns them there is asked by its own command.
        Loader::NixOs
        | Loader::Talos
        | Loader::TrueNas
        | Loader::Ostree
        | Loader::OpenShift
        | Loader::UbuntuCore
        | Loader::Transactional
        | Loader::Elemental
        | Loader::Bottlerocket
        | Loader::Unknown => &[],
    }
}

pub(super) fn read(root: &Root, loader: Loader) -> Vec<BootFile> {
    let mut files = Vec::new();
    for place in places(loader) {
        let names = root.names(place).unwrap_or_default();
        let paths = match names.is_empty() {
            true => vec![(*place).to_owned()],
            false => names.iter().map(|name| format!("{place}/{name}")).collect(),
        };
        for path in paths {
            if let Some(text) = root.glance(&path) {
                files.push(BootFile { words: words(&text), path });
            }
        }
    }
    files
}

/// Plain parameters between white space, quotes and brackets, of lines that are no comments.
fn words(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let words = lines.flat_map(|line| line.split([' ', '\t', '"', '\'', '[', ']']));
    words.filter(|word| is_plain(word)).map(str::to_owned).collect()
}

/// Whether a snapshot's file is one of these.
pub fn is_boot_file(path: &Path) -> bool {
    const FILES: [&str; 10] = [
        "/etc/default/grub",
        "/etc/kernel/cmdline",
        "/etc/cmdline.d",
        "/etc/default/limine",
        "/etc/update-extlinux.conf",
        "/etc/kernelstub/configuration",
        "/boot",
        "/efi/loader/entries",
        "/oem/grub.cfg",
        "/usr/share/oem/grub.cfg",
    ];
    let path = Path::new("/").join(path);
    let is_config = path.to_string_lossy().starts_with("/boot/config-");
    !is_config && FILES.iter().any(|file| path.starts_with(file))
}

/// Leaves what is read of such a file.
pub fn redact(text: &str) -> String {
    words(text).join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    #[test]
    fn words_are_found_in_every_loaders_way_to_write_them() {
        for (loader, path, text) in [
            (Loader::Grub, "/etc/default/grub", "GRUB_CMDLINE_LINUX=\"quiet iommu=pt\""),
            (Loader::Grub, "/etc/default/grub.d/50.cfg", "GRUB_CMDLINE_LINUX=\"iommu=pt\""),
            (Loader::SystemdBoot, "/etc/kernel/cmdline", "root=x iommu=pt"),
            (Loader::SystemdBoot, "/boot/loader/entries/a.conf", "options root=x iommu=pt quiet"),
            (Loader::Limine, "/boot/limine.conf", "  cmdline: quiet iommu=pt"),
            (Loader::Refind, "/boot/refind_linux.conf", "\"Boot\" \"root=x iommu=pt\""),
            (Loader::Extlinux, "/etc/update-extlinux.conf", "default_kernel_opts=\"x iommu=pt\""),
        ] {
            let mut host = Fixture::default();
            host.file(path, text);
            let files = read(&host.root(), loader);
            assert!(
                files.iter().any(|f| f.path == path && f.words.contains(&"iommu=pt".to_owned())),
                "{path}"
            );
        }
        assert_eq!(words("# iommu=pt\n#GRUB=\"iommu=pt\""), [""; 0]);
    }

    #[test]
    fn only_plain_parameters_go_into_a_capture() {
        let text = "GRUB_CMDLINE_LINUX=\"root=UUID=1 iommu=pt password=x\"\n# secret iommu=on\n";
        assert_eq!(redact(text), "iommu=pt\n");
    }
}
