//! Codes of these refusals, and what to do about them. One for a fault that `berth check` finds
//! has the fault's code and its remedy.

use std::io;

use berth_devices::pci::HostBdf;

use super::BindingError;
use crate::advice::{Code, Steps, binding, device, iommu, vfio};
use crate::binding::setting::Setting;
use crate::host::{HostProfile, HostUse, ModuleState};

impl BindingError {
    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Host(error) => error.code(),
            Self::NoSuchDevice { .. } => Code::DeviceAbsent,
            Self::Bridge { .. } => Code::DeviceBridge,
            Self::NoGroup { .. } => Code::DeviceNoIommu,
            Self::NoVfioPci(_) => Code::VfioNoModule,
            Self::NotAtBoot { .. } => Code::PersistVf,
            Self::InUse { .. } | Self::NotSeen { .. } | Self::HasVirtualFunctions { .. } => {
                Code::DeviceInUse
            }
            Self::NoSriov { .. } => Code::SriovAbsent,
            Self::TooManyVirtualFunctions { .. } => Code::SriovFew,
            Self::NoRoom { .. } => Code::SriovNoRoom,
            Self::NoSuchIndex { .. } => Code::VfAbsent,
            Self::Switchdev { .. } | Self::NoInterface { .. } => Code::PortsUnsettable,
            Self::NotVirtual { .. } => Code::DeviceNotVirtual,
            Self::Ports { .. } => Code::PortsUnreadable,
            Self::BelongsToRun { .. } => Code::BelongsToRun,
            Self::Unreadable { .. } => Code::SettingUnreadable,
            Self::Refused { .. } => Code::SettingRefused,
            Self::Unchanged { setting: Setting::HugePages { .. }, .. } => Code::HugepagesShort,
            Self::Unchanged { .. } => Code::SettingUnchanged,
            Self::Gone { .. } => Code::SettingGone,
            Self::NoGroupFile { .. } => Code::VfioNoAccess,
            Self::NotRestored { .. } => Code::NotRestored,
            Self::Journal { .. } => Code::JournalUnusable,
            Self::State(error) => error.code(),
            Self::Damaged { .. } => Code::JournalDamaged,
            Self::Persist { .. } => Code::PersistFailed,
            Self::Guard(_) => Code::GuardFailed,
        }
    }

    /// The function that it concerns, where its own facts decide what to do.
    pub fn device(&self) -> Option<HostBdf> {
        match self {
            Self::NoGroup { device } | Self::NoRoom { device } | Self::InUse { device, .. } => {
                Some(*device)
            }
            _ => None,
        }
    }

    /// What to do about it on `host`, step by step; commands stand in backticks.
    pub fn help(&self, host: &HostProfile) -> Steps {
        self.function(host).or_else(|| self.change()).unwrap_or_default()
    }

    /// What is wrong with the function that was asked for.
    fn function(&self, host: &HostProfile) -> Option<Steps> {
        Some(match self {
            Self::Host(error) => error.steps(),
            Self::NoSuchDevice { .. } => binding::absent(&[]),
            Self::Bridge { .. } => binding::bridge(&[]),
            Self::NoGroup { .. } if host.iommu.units.is_empty() => iommu::off(host).1.steps,
            Self::NoGroup { device } => match host.functions.get(*device) {
                Some(found) => {
                    iommu::not_behind(host, &found.function, found.path.is_empty()).steps
                }
                None => vec!["choose another function".to_owned()],
            },
            Self::NoVfioPci(_) => vec![
                "as root, with the kernel's vfio-pci module installed and not on a blacklist: \
                 `berth check` looks for what keeps it away"
                    .to_owned(),
            ],
            Self::NotAtBoot { physical, .. } => vec![format!(
                "leave out --persist, and run `berth sriov {physical} N --bind` from a unit at boot"
            )],
            Self::InUse { uses, .. } => {
                let mut steps: Steps =
                    uses.iter().flat_map(|usage| binding::in_use(host, usage)).collect();
                if !matches!(&uses[..], [HostUse::OpenVfio { .. }]) {
                    steps.push("or take the function all the same with --force".to_owned());
                }
                steps
            }
            Self::NotSeen { .. } => {
                let mut steps = binding::not_seen();
                steps.push("or take the function all the same with --force".to_owned());
                steps
            }
            Self::HasVirtualFunctions { device, .. } => binding::has_virtual_functions(*device),
            Self::NoSriov { .. } => vec![
                "`berth sriov` takes a physical function; \
                 `ls /sys/bus/pci/devices/*/sriov_totalvfs` lists them"
                    .to_owned(),
            ],
            Self::TooManyVirtualFunctions { max, .. } => vec![format!("ask for {max} or fewer")],
            Self::NoRoom { device } => device::no_room(host, *device).steps,
            Self::Switchdev { device } => vec![
                "set them at the port's own interface, its representor: `bridge vlan` or `tc` for a \
                 VLAN; `ip -d link show` names it (pf0vf0, ...)"
                    .to_owned(),
                format!("or, when nobody needs that mode: `devlink dev eswitch set pci/{device} mode legacy`"),
            ],
            Self::NoSuchIndex { .. } => vec!["indexes of --vf begin at 0".to_owned()],
            Self::NoInterface { device, is_network: true } => {
                vec![format!("its network driver sets them: `berth unbind {device}`")]
            }
            Self::NoInterface { is_network: false, .. } => vec![
                "leave --vf out: only network functions have a mac, vlan, trust and spoof_check"
                    .to_owned(),
            ],
            Self::NotVirtual { .. } => {
                vec!["leave these fields out, or name a virtual function".to_owned()]
            }
            Self::BelongsToRun { .. } => vec!["they are undone when it ends".to_owned()],
            _ => return None,
        })
    }

    /// What is wrong with a change of the host, or with what is noted of it.
    fn change(&self) -> Option<Steps> {
        Some(match self {
            Self::Refused { source, setting, .. } => refused(setting, source),
            Self::Unchanged { setting: Setting::HugePages { .. }, .. } => vec![
                "memory is too fragmented for more: reserve them when the host boots; \
                 `berth check` shows how"
                    .to_owned(),
            ],
            Self::Unreadable { .. } | Self::Unchanged { .. } | Self::Gone { .. } => vec![
                "`dmesg | tail` may say why; `berth restore` puts back what was changed".to_owned(),
            ],
            Self::NoGroupFile { .. } => {
                let mut steps = vfio::module("vfio_iommu_type1", ModuleState::Unknown);
                steps.push("`dmesg | grep -i vfio` may say why".to_owned());
                steps
            }
            Self::NotRestored { .. } => {
                vec!["the journal keeps them: `berth restore` tries again".to_owned()]
            }
            Self::Journal { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                vec![
                    "only root can change drivers; BERTH_STATE_DIR names another folder".to_owned(),
                ]
            }
            Self::Journal { .. } => vec!["BERTH_STATE_DIR names another folder".to_owned()],
            Self::State(error) => error.help(),
            Self::Damaged { .. } => vec![
                "use the berth that wrote it, or put the drivers back by hand as its lines say \
                 and remove it"
                    .to_owned(),
            ],
            _ => return None,
        })
    }
}

fn refused(setting: &Setting, source: &io::Error) -> Steps {
    vec![
        match (setting, source.kind()) {
            (_, io::ErrorKind::PermissionDenied) => "only root can change drivers",
            (_, io::ErrorKind::ReadOnlyFilesystem) => {
                "/sys is read-only here, as in a container or with ProtectKernelTunables= of a \
                 unit: make it writable, or `berth bind` the functions outside"
            }
            (Setting::Driver(_), io::ErrorKind::NotFound) => {
                "the driver is not loaded: `modprobe` it"
            }
            _ => "`dmesg | tail` may say why",
        }
        .to_owned(),
    ]
}
