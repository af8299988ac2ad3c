//! Decisions of a plan that its user may want to know of: neither faults nor refusals.

use std::fmt;

use berth_devices::pci::HostBdf;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::text::{Bytes, list};
use crate::host::LinuxVersion;

/// A decision that a user may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "variants are documented, and a field is what it is called")]
pub enum Note {
    /// Nothing tells the devices' node.
    NodeGuessed { node: u32 },
    /// berth takes a device from the host for the run.
    Taken { device: HostBdf, driver: Option<String>, loads_vfio_pci: bool },
    /// Whether the host uses a device cannot be seen.
    NotSeen { device: HostBdf, why: String },
    /// A device could send any interrupt, which the host allows.
    InterruptsUnsafe,
    /// A device cannot be reset.
    ResetNone { device: HostBdf, bystanders: Vec<HostBdf> },
    /// A device can be reset in a poor way only.
    ResetPoor { device: HostBdf, bystanders: Vec<HostBdf> },
    /// Other devices do not reach a BAR: it has no address that the IOMMU takes.
    BarOutOfReach { device: HostBdf, bar: u8, why: String },
    /// Other devices do not reach a BAR: this kernel maps it slowly.
    BarSlowToMap {
        device: HostBdf,
        bar: u8,
        size: u64,
        linux: Option<LinuxVersion>,
        fast: LinuxVersion,
    },
    /// Nothing can be unplugged where the device is.
    NotUnpluggable { device: HostBdf },
    /// Capabilities are hidden from this user.
    CapabilitiesHidden { device: HostBdf },
    /// A device does without I/O BARs.
    WithoutIo { device: HostBdf },
    /// All devices do without expansion ROMs.
    WithoutRoms,
    /// A device is behind no port.
    WithoutPort { device: HostBdf, bar: u8, size: u64 },
    /// The kernel ends the machine after so much CPU time.
    CpuTimeLimited { seconds: u64 },
    /// A snapshot does not have all that plans are made from.
    NotInSnapshot { lacks: Vec<String> },
}

impl Note {
    /// As scripts see it; never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NodeGuessed { .. } => "NODE-GUESSED",
            Self::Taken { .. } => "DEVICE-TAKEN",
            Self::NotSeen { .. } => "DEVICE-NOT-SEEN",
            Self::InterruptsUnsafe => "UNSAFE-INTERRUPTS",
            Self::ResetNone { .. } => "RESET-NONE",
            Self::ResetPoor { .. } => "RESET-POOR",
            Self::BarOutOfReach { .. } => "BAR-OUT-OF-REACH",
            Self::BarSlowToMap { .. } => "BAR-SLOW-TO-MAP",
            Self::NotUnpluggable { .. } => "NOT-UNPLUGGABLE",
            Self::CapabilitiesHidden { .. } => "CAPABILITIES-HIDDEN",
            Self::WithoutIo { .. } => "WITHOUT-IO",
            Self::WithoutRoms => "WITHOUT-ROMS",
            Self::WithoutPort { .. } => "WITHOUT-PORT",
            Self::CpuTimeLimited { .. } => "CPU-TIME-LIMITED",
            Self::NotInSnapshot { .. } => "NOT-IN-SNAPSHOT",
        }
    }

    /// The device that it concerns, when it concerns one.
    pub fn device(&self) -> Option<HostBdf> {
        match self {
            Self::Taken { device, .. }
            | Self::NotSeen { device, .. }
            | Self::ResetNone { device, .. }
            | Self::ResetPoor { device, .. }
            | Self::BarOutOfReach { device, .. }
            | Self::BarSlowToMap { device, .. }
            | Self::NotUnpluggable { device }
            | Self::CapabilitiesHidden { device }
            | Self::WithoutIo { device }
            | Self::WithoutPort { device, .. } => Some(*device),
            Self::NodeGuessed { .. }
            | Self::InterruptsUnsafe
            | Self::WithoutRoms
            | Self::CpuTimeLimited { .. }
            | Self::NotInSnapshot { .. } => None,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeGuessed { node } => {
                write!(f, "the firmware names no NUMA node for the devices; node {node} was chosen")
            }
            Self::Taken { device, driver, loads_vfio_pci } => {
                match driver {
                    Some(driver) => write!(f, "berth takes {device} from {driver} for the run")?,
                    None => write!(f, "berth binds {device} to vfio-pci for the run")?,
                }
                f.write_str(if *loads_vfio_pci { ", and loads vfio-pci" } else { "" })
            }
            Self::NotSeen { device, why } => write!(f, "{device} {why}"),
            Self::InterruptsUnsafe => f.write_str(
                "the host does not remap interrupts and allows it: trust this guest as you trust \
                 the host",
            ),
            Self::ResetNone { device, bystanders } => {
                write!(f, "{device} has no reset: the guest finds it as its last user left it")?;
                would_hit(f, bystanders)
            }
            Self::ResetPoor { device, bystanders } => {
                write!(
                    f,
                    "{device} has no better reset than a PM reset, over which some devices keep \
                     state"
                )?;
                would_hit(f, bystanders)
            }
            Self::BarOutOfReach { device, bar, why } => {
                write!(f, "no other device reaches BAR {bar} of {device}: {why}")
            }
            Self::BarSlowToMap { device, bar, size, linux, fast } => {
                let linux = linux.map_or("the host's kernel".to_owned(), |linux| linux.to_string());
                write!(
                    f,
                    "other devices do not reach BAR {bar} of {device}, {}: {linux} is slow to map \
                     so much, {fast} is not; `\"peer_to_peer\": \"on\"` maps it all the same",
                    Bytes(*size)
                )
            }
            Self::NotUnpluggable { device } => write!(
                f,
                "{device} is behind no port, where nothing can be unplugged: when the host wants \
                 it back, the machine ends"
            ),
            Self::CapabilitiesHidden { device } => write!(
                f,
                "only root sees the capabilities of {device}; its MSI-X vectors are not counted"
            ),
            Self::WithoutIo { device } => {
                write!(f, "{device} does without I/O BARs: other devices' take all I/O ports")
            }
            Self::WithoutRoms => {
                f.write_str("the devices do without expansion ROMs: 32-bit BARs need the room")
            }
            Self::WithoutPort { device, bar, size } => write!(
                f,
                "{device} is on the root bus, behind no port: ports forward BARs such as its BAR \
                 {bar} of {}, 64-bit but not prefetchable, below 4 GiB only, where room is short",
                Bytes(*size)
            ),
            Self::CpuTimeLimited { seconds } => {
                write!(f, "the kernel kills the machine after {seconds} s of CPU time (RLIMIT_CPU)")
            }
            Self::NotInSnapshot { lacks } => {
                write!(f, "not in the snapshot, and taken to be as needed: {}", list(lacks))
            }
        }
    }
}

fn would_hit(f: &mut fmt::Formatter<'_>, bystanders: &[HostBdf]) -> fmt::Result {
    if bystanders.is_empty() {
        return Ok(());
    }
    write!(f, "; a hot reset would hit {}, not assigned to this guest", list(bystanders))
}

impl Serialize for Note {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut note = serializer.serialize_struct("Note", 3)?;
        note.serialize_field("code", self.code())?;
        note.serialize_field("device", &self.device())?;
        note.serialize_field("text", &self.to_string())?;
        note.end()
    }
}
