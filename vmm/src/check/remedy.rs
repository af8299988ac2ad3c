//! The commands of this host: its boot loader's, its distribution's, its firmware's words.

use crate::host::{CpuVendor, Family, Initramfs, Loader, System};

/// Steps that boot the kernel with `add` and without `remove` on its command line.
pub(super) fn kernel_parameters(system: &System, add: &str, remove: Option<&str>) -> Vec<String> {
    let change = |place: &str| match (add, remove) {
        ("", Some(remove)) => format!("take `{remove}` out of {place}"),
        (_, Some(remove)) => format!("in {place}, put `{add}` in place of `{remove}`"),
        (_, None) => format!("add `{add}` to {place}"),
    };
    let tool = |tool: &str, plus: &str, minus: &str| {
        let added = if add.is_empty() { String::new() } else { format!(" {plus}\"{add}\"") };
        let removed = remove.map(|word| format!(" {minus}\"{word}\"")).unwrap_or_default();
        format!("`{tool}{added}{removed}`")
    };
    let mut steps = match system.loader {
        Loader::Grub => {
            let update = match system.family {
                Family::Debian => "`update-grub`",
                Family::RedHat | Family::Suse => "`grub2-mkconfig -o /boot/grub2/grub.cfg`",
                Family::Arch | Family::Other => "`grub-mkconfig -o /boot/grub/grub.cfg`",
            };
            vec![change("GRUB_CMDLINE_LINUX of /etc/default/grub"), update.to_owned()]
        }
        Loader::Grubby => {
            vec![tool("grubby --update-kernel=ALL", "--args=", "--remove-args=")]
        }
        Loader::Proxmox => {
            vec![change("/etc/kernel/cmdline"), "`proxmox-boot-tool refresh`".to_owned()]
        }
        Loader::Kernelstub => vec![tool("kernelstub", "-a ", "-d ")],
        Loader::SystemdBoot => {
            let entries = match system.family {
                Family::Debian | Family::Other => {
                    "`kernel-install add $(uname -r) /boot/vmlinuz-$(uname -r)`"
                }
                Family::RedHat => {
                    "`kernel-install add $(uname -r) /lib/modules/$(uname -r)/vmlinuz`"
                }
                Family::Suse => "`sdbootutil update-all-entries`",
                Family::Arch => "`mkinitcpio -P`, when it makes the kernel's image",
            };
            vec![
                change("/etc/kernel/cmdline"),
                format!("{entries}, or edit the `options` line of the entry in loader/entries"),
            ]
        }
        Loader::Unknown => {
            vec![format!(
                "{} (the boot loader was not recognized)",
                change("the kernel's command line")
            )]
        }
    };
    steps.push("`reboot`".to_owned());
    steps
}

/// Makes the initial RAM disk anew.
pub(super) fn initramfs(system: &System) -> &'static str {
    match (system.initramfs, system.family) {
        (Initramfs::Tools, _) | (Initramfs::Unknown, Family::Debian) => "`update-initramfs -u`",
        (Initramfs::Dracut, _) | (Initramfs::Unknown, Family::RedHat | Family::Suse) => {
            "`dracut -f`"
        }
        (Initramfs::Mkinitcpio, _) | (Initramfs::Unknown, Family::Arch) => "`mkinitcpio -P`",
        (Initramfs::Unknown, Family::Other) => "make the initial RAM disk anew",
    }
}

/// irqbalance's own configuration.
pub(super) fn irqbalance_file(system: &System) -> &'static str {
    match system.family {
        Family::Debian => "/etc/default/irqbalance",
        Family::RedHat | Family::Suse => "/etc/sysconfig/irqbalance",
        Family::Arch | Family::Other => "its environment (`systemctl edit irqbalance`)",
    }
}

/// Turning on what the firmware calls by the vendor's name.
pub(super) fn firmware_iommu(vendor: CpuVendor) -> &'static str {
    match vendor {
        CpuVendor::Intel => {
            "turn on VT-d (Intel Virtualization for Directed I/O) in the firmware's setup"
        }
        CpuVendor::Amd => "turn on IOMMU (AMD-Vi) in the firmware's setup",
        CpuVendor::Other => "turn on the IOMMU in the firmware's setup",
    }
}

/// Turning on virtualization of the CPUs.
pub(super) fn firmware_virtualization(vendor: CpuVendor) -> &'static str {
    match vendor {
        CpuVendor::Intel => {
            "turn on Intel Virtualization Technology (VT-x) in the firmware's setup"
        }
        CpuVendor::Amd => "turn on SVM in the firmware's setup",
        CpuVendor::Other => "turn on virtualization in the firmware's setup",
    }
}

/// What turns the IOMMU on.
pub(super) fn iommu_parameters(vendor: CpuVendor) -> &'static str {
    match vendor {
        CpuVendor::Intel => "intel_iommu=on iommu=pt",
        // AMD's is on unless something turned it off.
        CpuVendor::Amd | CpuVendor::Other => "iommu=pt",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(loader: Loader, family: Family, add: &str, remove: Option<&str>) -> String {
        let system = System { loader, family, ..System::default() };
        kernel_parameters(&system, add, remove).join("; ")
    }

    #[test]
    fn every_boot_loader_has_its_way() {
        let (add, remove) = ("iommu=pt", Some("iommu=off"));
        for (loader, family, expected) in [
            (
                Loader::Grub,
                Family::Debian,
                "in GRUB_CMDLINE_LINUX of /etc/default/grub, put `iommu=pt` in place of \
                 `iommu=off`; `update-grub`; `reboot`",
            ),
            (
                Loader::Grubby,
                Family::RedHat,
                "`grubby --update-kernel=ALL --args=\"iommu=pt\" --remove-args=\"iommu=off\"`; `reboot`",
            ),
            (
                Loader::Kernelstub,
                Family::Debian,
                "`kernelstub -a \"iommu=pt\" -d \"iommu=off\"`; `reboot`",
            ),
            (
                Loader::Proxmox,
                Family::Debian,
                "in /etc/kernel/cmdline, put `iommu=pt` in place of `iommu=off`; \
                 `proxmox-boot-tool refresh`; `reboot`",
            ),
        ] {
            assert_eq!(steps(loader, family, add, remove), expected);
        }
        assert!(steps(Loader::Grub, Family::Suse, add, None).contains("grub2-mkconfig"));
        assert!(steps(Loader::SystemdBoot, Family::Debian, add, None).contains("kernel-install"));
        assert!(steps(Loader::Unknown, Family::Other, add, None).contains("not recognized"));
        assert!(steps(Loader::Grub, Family::Arch, "", remove).starts_with("take `iommu=off` out"));
    }

    const LOADERS: [Loader; 6] = [
        Loader::Grub,
        Loader::Grubby,
        Loader::SystemdBoot,
        Loader::Proxmox,
        Loader::Kernelstub,
        Loader::Unknown,
    ];
    const FAMILIES: [Family; 5] =
        [Family::Debian, Family::RedHat, Family::Suse, Family::Arch, Family::Other];

    /// Every loader on every kind of system, as operators read it.
    #[test]
    fn every_pair_of_loader_and_system_has_its_steps() {
        let mut text = String::new();
        for loader in LOADERS {
            for family in FAMILIES {
                text += &format!("{loader:?} on {family:?}\n");
                for (add, remove) in [
                    ("intel_iommu=on iommu=pt", None),
                    ("iommu=pt", Some("amd_iommu=off")),
                    ("", Some("intremap=off")),
                ] {
                    text += &format!("  {}\n", steps(loader, family, add, remove));
                }
            }
        }
        for family in FAMILIES {
            let system = System { family, ..System::default() };
            let (initramfs, irqbalance) = (initramfs(&system), irqbalance_file(&system));
            text += &format!("{family:?}: {initramfs}; {irqbalance}\n");
        }
        crate::host::fixture::golden("check/golden/remedies.txt", &text);
    }

    #[test]
    fn the_initial_ram_disks_tool_counts_more_than_the_system() {
        for (tool, command) in [
            (Initramfs::Tools, "`update-initramfs -u`"),
            (Initramfs::Dracut, "`dracut -f`"),
            (Initramfs::Mkinitcpio, "`mkinitcpio -P`"),
        ] {
            for family in FAMILIES {
                let system = System { initramfs: tool, family, ..System::default() };
                assert_eq!(initramfs(&system), command);
            }
        }
    }

    #[test]
    fn vendors_name_their_own_switches() {
        for (vendor, iommu, cpu, parameters) in [
            (CpuVendor::Intel, "VT-d", "VT-x", "intel_iommu=on iommu=pt"),
            (CpuVendor::Amd, "AMD-Vi", "SVM", "iommu=pt"),
            (CpuVendor::Other, "IOMMU", "virtualization", "iommu=pt"),
        ] {
            assert!(firmware_iommu(vendor).contains(iommu));
            assert!(firmware_virtualization(vendor).contains(cpu));
            assert_eq!(iommu_parameters(vendor), parameters);
        }
    }
}
