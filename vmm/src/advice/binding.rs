//! Devices as they are: there, of the right kind, idle, bound.

use berth_devices::pci::HostBdf;

use super::Steps;
use crate::host::{Holder, HostProfile, HostUse};

/// There is no such function; `near` are those with the most similar addresses.
pub fn absent(near: &[HostBdf]) -> Steps {
    let mut steps = Steps::new();
    if !near.is_empty() {
        let near: Vec<String> = near.iter().map(HostBdf::to_string).collect();
        steps.push(format!("the nearest are {}", near.join(", ")));
    }
    steps.push("`berth devices` lists the host's functions".to_owned());
    steps
}

/// The function is a bridge; `behind` are the endpoints below it, as far as they are known.
pub fn bridge(behind: &[HostBdf]) -> Steps {
    let behind: Vec<String> = behind.iter().map(HostBdf::to_string).collect();
    vec![if behind.is_empty() {
        "name an endpoint behind it, as `berth devices` lists them".to_owned()
    } else {
        format!("name what is behind it: {}", behind.join(", "))
    }]
}

/// The host uses it: how that use ends.
pub fn in_use(host: &HostProfile, usage: &HostUse) -> Steps {
    let without = ", if the host can do without";
    let other_way = || "give the host another way to its network first".to_owned();
    match usage {
        HostUse::Network { interface, master: Some(_), .. } => {
            vec![format!("`ip link set {interface} nomaster`{without}")]
        }
        HostUse::Network { interface, .. } => vec![
            other_way(),
            format!("`ip addr flush dev {interface} && ip link set {interface} down`"),
        ],
        HostUse::NetworkUpper { upper, .. } => vec![
            other_way(),
            format!("take {upper} apart (`ip -d link show {upper}` shows what it is)"),
        ],
        HostUse::NetworkElsewhere { .. } | HostUse::NetworkUpperElsewhere { .. } => vec![
            "end the container or pod that has it; `lsns -t net` lists network namespaces"
                .to_owned(),
            "or choose another function".to_owned(),
        ],
        HostUse::Mounted { at, .. } if at == "swap" => {
            vec!["`swapoff` it, if the host has memory enough".to_owned()]
        }
        HostUse::Mounted { at, .. } => vec![format!("`umount {at}`{without}")],
        HostUse::MountedElsewhere { at, holder: Holder { pid, .. }, .. } => vec![format!(
            "end the container of process {pid}, or `nsenter -m -t {pid} umount {at}`"
        )],
        HostUse::Volume { of, .. } => {
            vec![format!("take {of} apart or stop it{without}: `lsblk` shows what it is")]
        }
        HostUse::Claimed { device } => {
            vec![format!("`lsblk /dev/{device}` and `fuser -v /dev/{device}` tell what has it")]
        }
        HostUse::PoolMember { pools, .. } => vec![
            "`zpool status -P` names the drives of each pool".to_owned(),
            format!("`zpool export {}`{without}", pools.join(" ")),
        ],
        HostUse::OpenNode { holder: Holder { pid, .. }, .. } => {
            vec![format!("end process {pid} first")]
        }
        HostUse::HasDomain { .. } => super::groups::behind_vmd(),
        HostUse::GuestHasVf { function } => vec![format!("end the machine that has {function}")],
        HostUse::Keyboard { .. } | HostUse::ConsolePort { .. } => {
            vec!["log in over the network: the console goes with it".to_owned()]
        }
        HostUse::BootDisplay | HostUse::Console => {
            let dark = "let the firmware start on another display, or log in over the network: the \
                        screen goes dark";
            let framebuffer = super::device::framebuffer(host);
            std::iter::once(dark.to_owned()).chain(framebuffer).collect()
        }
        HostUse::OpenVfio { .. } => vec!["end that process first".to_owned()],
    }
}

/// Whether the host uses it could not be seen.
pub fn not_seen() -> Steps {
    vec!["ask as root on the host itself, outside of a container".to_owned()]
}

/// Its virtual functions go with its driver.
pub fn has_virtual_functions(device: HostBdf) -> Steps {
    vec![
        format!("`berth sriov {device} 0`, when nobody needs them"),
        "or give a guest one of them: \"address\": { \"free_vf_of\": ... }".to_owned(),
    ]
}

/// No VFIO driver has it.
pub fn not_bound(device: HostBdf) -> Steps {
    vec![
        format!("`berth bind {device}`"),
        "or set its \"bind\" to \"auto\", to take it for the run only".to_owned(),
    ]
}

/// Parameters that were meant for a module and are written so that it does not get them:
/// `vfio-pci-ids=` for `vfio-pci.ids=`.
pub fn mistaken_parameter(host: &HostProfile) -> Option<(String, String)> {
    let words = host.command_line.words();
    let mut mistaken = words.filter_map(|word| {
        let (name, value) = word.split_once('=')?;
        let plain = name.replace('_', "-");
        let meant = match plain.as_str() {
            "vfio-pci.ids" => return None,
            "vfio-pci-ids" | "vfio-ids" | "vfio-pci.id" | "vfiopci.ids" | "vfio.ids"
            | "vfio-pci-id" | "pci-vfio.ids" => "vfio-pci.ids",
            _ => return None,
        };
        Some((word.to_owned(), format!("{meant}={value}")))
    });
    mistaken.next()
}
