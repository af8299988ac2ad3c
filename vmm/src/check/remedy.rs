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
        Loader::SystemdBoot => vec![
            change("/etc/kernel/cmdline"),
            "`kernel-install add $(uname -r) /boot/vmlinuz-$(uname -r)`, or edit the `options` \
             line of the entry in loader/entries yourself"
                .to_owned(),
        ],
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
        _ => "/etc/sysconfig/irqbalance",
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
        assert!(steps(Loader::SystemdBoot, Family::Arch, add, None).contains("kernel-install"));
        assert!(steps(Loader::Unknown, Family::Other, add, None).contains("not recognized"));
        assert!(steps(Loader::Grub, Family::Arch, "", remove).starts_with("take `iommu=off` out"));
    }
}
