//! Parameters of the host's kernel: what is set, and how each system has them changed.

use crate::host::{Family, HostProfile, Initramfs, Loader, System};

use super::Steps;

/// What is said where nothing is known of parameters.
pub const UNSEEN: &str = "the kernel's command line (/proc/cmdline) was not seen";

/// The word of the running kernel's command line that `wanted` picks.
pub fn find(host: &HostProfile, wanted: impl Fn(&str) -> bool) -> Option<&str> {
    host.command_line.find(wanted)
}

/// Whether the running kernel was started with this word.
pub fn has(host: &HostProfile, parameter: &str) -> bool {
    find(host, |word| word == parameter).is_some()
}

/// Steps that boot the host's kernel with `add` and without `remove` on its command line. What is
/// there already is not added; what waits in the loader's files is said to wait there.
pub fn change(host: &HostProfile, add: &str, remove: Option<&str>) -> Steps {
    let system = &host.system;
    // Of two `hugepages=` the order counts, so that such a pair stays one.
    let add = match add.contains("hugepages") {
        true => add.to_owned(),
        false => {
            let missing = add.split_whitespace().filter(|word| !has(host, word));
            missing.collect::<Vec<_>>().join(" ")
        }
    };
    if add.is_empty() && remove.is_none() {
        return Steps::new();
    }
    let mut steps = Steps::new();
    if !host.command_line.is_seen() {
        steps.push(format!("{UNSEEN}: where it has `{add}` already, that is not the cause; else:"));
    }
    if system.container.is_some() {
        steps.push("on the host itself, outside of this container:".to_owned());
    }
    match waits(system, &add, remove) {
        Some(file) => {
            steps.push(format!(
                "`{add}` is in {file} already, and /proc/cmdline lacks it: the kernel was not \
                 started anew since, or by another loader or entry"
            ));
            steps.extend(Recipe::of(system, &add, remove).update);
            steps.push("`reboot`".to_owned());
            steps.push(
                "if /proc/cmdline lacks it then, look which loader and entry boot: `efibootmgr -v`"
                    .to_owned(),
            );
        }
        None => {
            let recipe = Recipe::of(system, &add, remove);
            steps.extend(recipe.edit);
            steps.extend(recipe.update);
            steps.extend(recipe.restart);
        }
    }
    steps
}

/// The loader's file that has all of `add` for the next boot, and nothing that is to go.
fn waits<'a>(system: &'a System, add: &str, remove: Option<&str>) -> Option<&'a str> {
    let has_all = |words: &[String]| {
        let has = |word: &str| words.iter().any(|other| other == word);
        !add.is_empty()
            && add.split_whitespace().all(has)
            && !remove.is_some_and(|remove| remove.split_whitespace().any(has))
    };
    let mut files = system.boot_files.iter();
    files.find(|file| has_all(&file.words)).map(|file| file.path.as_str())
}

/// How a system has its kernel's parameters changed.
struct Recipe {
    edit: Steps,
    /// What writes the loader's own configuration, where that is a step of its own.
    update: Steps,
    restart: Steps,
}

/// What is to be added and taken out, in the words of each tool.
struct Change<'a> {
    add: &'a str,
    remove: Option<&'a str>,
}

impl Change<'_> {
    fn in_place(&self, place: &str) -> String {
        match (self.add, self.remove) {
            ("", Some(remove)) => format!("take `{remove}` out of {place}"),
            (add, Some(remove)) => format!("in {place}, put `{add}` in place of `{remove}`"),
            (add, None) => format!("add `{add}` to {place}"),
        }
    }

    /// A command with one option for all that is added and one for all that goes.
    fn tool(&self, tool: &str, plus: &str, minus: &str) -> String {
        let added = match self.add {
            "" => String::new(),
            add => format!(" {plus}\"{add}\""),
        };
        let removed = self.remove.map(|word| format!(" {minus}\"{word}\"")).unwrap_or_default();
        format!("`{tool}{added}{removed}`")
    }

    /// A command with an option for each word.
    fn words(&self, tool: &str, plus: &str, minus: &str) -> String {
        let each = |words: &str, option: &str| -> String {
            words.split_whitespace().map(|word| format!(" {option}{word}")).collect()
        };
        let removed = self.remove.map(|words| each(words, minus)).unwrap_or_default();
        format!("`{tool}{}{removed}`", each(self.add, plus))
    }

    /// For what takes the whole of its own parameters at once.
    fn whole(&self, command: impl Fn(&str) -> String, shown: &str) -> Steps {
        let without = self.remove.map(|remove| format!(", without `{remove}`"));
        vec![
            format!("`{shown}` shows what is set"),
            format!("put that in place of CURRENT{}:", without.unwrap_or_default()),
            format!("`{}`", command(format!("CURRENT {}", self.add).trim_end())),
        ]
    }
}

/// The variable of /etc/default/grub that each distribution's own documents edit.
fn grub_variable(family: Family) -> &'static str {
    match family {
        Family::Arch => "GRUB_CMDLINE_LINUX_DEFAULT",
        _ => "GRUB_CMDLINE_LINUX",
    }
}

fn grub_update(family: Family) -> &'static str {
    match family {
        Family::Debian | Family::Void => "`update-grub`",
        Family::RedHat | Family::Suse => "`grub2-mkconfig -o /boot/grub2/grub.cfg`",
        Family::Arch | Family::Alpine | Family::Gentoo | Family::Other => {
            "`grub-mkconfig -o /boot/grub/grub.cfg`"
        }
    }
}

impl Recipe {
    fn of(system: &System, add: &str, remove: Option<&str>) -> Self {
        let change = Change { add, remove };
        // A drop-in that has what is to go, such as one of /etc/default/grub.d.
        let holder = remove.and_then(|word| system.configured(word)).map(|file| file.path.as_str());
        let grub = || {
            let place = holder.filter(|path| path.contains("grub.d"));
            place.map_or_else(
                || {
                    change
                        .in_place(&format!("{} of /etc/default/grub", grub_variable(system.family)))
                },
                |place| change.in_place(place),
            )
        };
        let reboot = || vec!["`reboot`".to_owned()];
        let edit_and = |edit: String, update: &str| {
            let update = Some(update).filter(|update| !update.is_empty());
            let update = update.map(str::to_owned).into_iter().collect();
            Self { edit: vec![edit], update, restart: reboot() }
        };
        match system.loader {
            Loader::Grub => edit_and(grub(), grub_update(system.family)),
            Loader::Grubby => {
                edit_and(change.tool("grubby --update-kernel=ALL", "--args=", "--remove-args="), "")
            }
            // pve-docs, system-booting.adoc: with GRUB /etc/kernel/cmdline is not read.
            Loader::ProxmoxGrub => edit_and(grub(), "`proxmox-boot-tool refresh`"),
            Loader::ProxmoxSystemdBoot => {
                edit_and(change.in_place("/etc/kernel/cmdline"), "`proxmox-boot-tool refresh`")
            }
            Loader::Kernelstub => edit_and(change.tool("kernelstub", "-a ", "-d "), ""),
            Loader::SystemdBoot => edit_and(
                change.in_place("/etc/kernel/cmdline"),
                &format!(
                    "{}, or edit the `options` line of the entry in loader/entries",
                    systemd_boot_update(system.family)
                ),
            ),
            Loader::UnifiedImage => {
                edit_and(change.in_place("/etc/kernel/cmdline"), unified_update(system.initramfs))
            }
            Loader::Limine => edit_and(
                change.in_place("the `cmdline:` line of /boot/limine.conf"),
                "where /etc/default/limine makes that line, in its KERNEL_CMDLINE instead, and \
                 `limine-update`",
            ),
            Loader::Refind => {
                edit_and(change.in_place("the options of each line of /boot/refind_linux.conf"), "")
            }
            Loader::Extlinux => edit_and(
                change.in_place("default_kernel_opts of /etc/update-extlinux.conf"),
                "`update-extlinux`",
            ),
            Loader::Unraid => edit_and(
                change.in_place(
                    "the `append` line of the boot configuration: Main > Flash in the web \
                     interface, or /boot/syslinux/syslinux.cfg",
                ),
                "",
            ),
            // NixOS manual, boot.kernelParams.
            Loader::NixOs => {
                let list = |words: &str| {
                    words.split_whitespace().map(|word| format!(" \"{word}\"")).collect::<String>()
                };
                let edit = match (change.add, change.remove) {
                    ("", Some(remove)) => {
                        format!(
                            "take{} out of boot.kernelParams of the configuration",
                            list(remove)
                        )
                    }
                    (add, Some(remove)) => format!(
                        "in the configuration: `boot.kernelParams = [{} ];`, without{}",
                        list(add),
                        list(remove)
                    ),
                    (add, None) => {
                        format!("in the configuration: `boot.kernelParams = [{} ];`", list(add))
                    }
                };
                edit_and(edit, "`nixos-rebuild boot`")
            }
            // Talos, "Boot Loader": a unified image has its parameters in itself, and ignores those
            // of the node's config. It is what UEFI hosts boot since Talos 1.10.
            Loader::Talos => Self {
                edit: vec![
                    "`talosctl get securitystate -o yaml` says whether the node boots a unified \
                     image (bootedWithUKI)"
                        .to_owned(),
                    change.in_place(
                        "customization.extraKernelArgs of its Image Factory schematic if it does, else \
                         machine.install.extraKernelArgs of the node's config",
                    ),
                ],
                update: vec!["`talosctl upgrade` to the image that comes of it".to_owned()],
                restart: Steps::new(),
            },
            // The middleware writes GRUB's files itself, at every update.
            Loader::TrueNas => Self {
                edit: change.whole(
                    |all| {
                        format!(
                            "midclt call system.advanced.update \
                             '{{\"kernel_extra_options\": \"{all}\"}}'"
                        )
                    },
                    "midclt call system.advanced.config | jq .kernel_extra_options",
                ),
                update: Steps::new(),
                restart: reboot(),
            },
            Loader::Flatcar => edit_and(
                match change.add {
                    "" => change.in_place("linux_append in /oem/grub.cfg"),
                    add => {
                        let mut edit =
                            format!("`set linux_append=\"$linux_append {add}\"` in /oem/grub.cfg");
                        if let Some(remove) = change.remove {
                            edit += &format!(", without `{remove}`");
                        }
                        edit
                    }
                },
                "or kernel_arguments of the Butane config, for machines to come",
            ),
            Loader::Ostree => edit_and(
                change.words("rpm-ostree kargs", "--append-if-missing=", "--delete-if-present="),
                "",
            ),
            Loader::OpenShift => Self {
                edit: vec![
                    change.in_place(
                        "spec.kernelArguments of a MachineConfig for the pool of this node",
                    ),
                ],
                update: vec!["the Machine Config Operator drains and reboots the nodes".to_owned()],
                restart: Steps::new(),
            },
            // Ubuntu Core, "Modifying kernel boot parameters": the gadget's list says which may be
            // appended; a model of grade dangerous has an option for all.
            Loader::UbuntuCore => Self {
                edit: change.whole(
                    |all| format!("snap set system system.kernel.cmdline-append=\"{all}\""),
                    "snap get system system.kernel.cmdline-append",
                ),
                update: vec![
                    "where the gadget does not allow them: system.kernel.dangerous-cmdline-append, \
                     for models of grade dangerous only"
                        .to_owned(),
                ],
                restart: reboot(),
            },
            Loader::Transactional => edit_and(
                grub(),
                "`transactional-update grub.cfg`; with systemd-boot: /etc/kernel/cmdline and \
                 `sdbootutil update-all-entries`",
            ),
            Loader::Elemental => Self {
                edit: change.whole(
                    |all| {
                        format!("grub2-editenv /oem/grubenv set third_party_kernel_args=\"{all}\"")
                    },
                    "grub2-editenv /oem/grubenv list",
                ),
                update: Steps::new(),
                restart: reboot(),
            },
            Loader::Bottlerocket => edit_and(
                change.in_place(
                    "settings.boot.kernel-parameters by `apiclient set`, with \
                     settings.boot.reboot-to-reconcile",
                ),
                "",
            ),
            Loader::Photon => edit_and(change.in_place("photon_cmdline of /boot/photon.cfg"), ""),
            // XCP-ng, "PCI Passthrough": parameters are deleted by their names alone.
            Loader::XenServer => {
                const TOOL: &str = "/opt/xensource/libexec/xen-cmdline";
                let names = remove.unwrap_or_default().split_whitespace();
                let names: Vec<&str> =
                    names.map(|word| word.split_once('=').map_or(word, |(name, _)| name)).collect();
                let delete = (!names.is_empty())
                    .then(|| format!("`{TOOL} --delete-dom0 {}`", names.join(" ")));
                let set = (!change.add.is_empty())
                    .then(|| format!("`{TOOL} --set-dom0 {}`", change.add));
                Self {
                    edit: delete.into_iter().chain(set).collect(),
                    update: Steps::new(),
                    restart: reboot(),
                }
            }
            Loader::Unknown => edit_and(
                format!(
                    "{} ({})",
                    change.in_place("the kernel's command line"),
                    match system.id.as_str() {
                        "" => "neither the system, /etc/os-release, nor its boot loader was seen",
                        _ => "the boot loader was not recognized",
                    }
                ),
                "",
            ),
        }
    }
}

fn systemd_boot_update(family: Family) -> &'static str {
    match family {
        Family::RedHat => "`kernel-install add $(uname -r) /lib/modules/$(uname -r)/vmlinuz`",
        Family::Suse => "`sdbootutil update-all-entries`",
        Family::Arch => "`mkinitcpio -P`, when it makes the kernel's image",
        Family::Debian | Family::Alpine | Family::Gentoo | Family::Void | Family::Other => {
            "`kernel-install add $(uname -r) /boot/vmlinuz-$(uname -r)`"
        }
    }
}

/// What builds a unified image anew.
fn unified_update(initramfs: Initramfs) -> &'static str {
    match initramfs {
        Initramfs::Mkinitcpio => "`mkinitcpio -P`",
        Initramfs::Dracut => "`dracut --regenerate-all --force`",
        _ => "make the unified kernel image anew: `kernel-install add-all`",
    }
}

/// What makes the initial RAM disk anew.
pub fn initramfs(system: &System) -> &'static str {
    match (system.loader, system.initramfs, system.family) {
        (Loader::NixOs, ..) => "`nixos-rebuild boot`",
        (Loader::Ostree, ..) => "`rpm-ostree initramfs-etc --track=/etc/modprobe.d`",
        (Loader::Transactional, ..) => "`transactional-update initrd`",
        (_, Initramfs::Tools, _) | (_, Initramfs::Unknown, Family::Debian) => {
            "`update-initramfs -u`"
        }
        (_, Initramfs::Dracut, _)
        | (_, Initramfs::Unknown, Family::RedHat | Family::Suse | Family::Void) => {
            "`dracut --force`"
        }
        (_, Initramfs::Mkinitcpio, _) | (_, Initramfs::Unknown, Family::Arch) => "`mkinitcpio -P`",
        (_, Initramfs::Mkinitfs, _) | (_, Initramfs::Unknown, Family::Alpine) => "`mkinitfs`",
        (_, Initramfs::Booster, _) => "`/usr/lib/booster/regenerate_images`",
        (_, Initramfs::Unknown, Family::Gentoo | Family::Other) => "make the initial RAM disk anew",
    }
}
