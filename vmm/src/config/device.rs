//! A device of the config: which function of the host, and how berth comes by it.

use std::fmt;
use std::str::FromStr;

use berth_devices::pci::HostBdf;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::visit::{Distinct, Object, bounded, parsed};
use crate::units::{Mac, VfPortChange};

const ADDRESS: &str = "a PCI address such as \"0000:41:00.0\"";

/// One PCI function of the host that the guest gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Which one.
    pub address: DeviceAddress,
    /// Whether berth takes it from its driver.
    #[serde(default)]
    pub bind: BindMode,
    /// Its MAC, if it is a virtual function.
    #[serde(default, deserialize_with = "mac", skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The VLAN its frames are in outside, if it is a virtual function; 0 is none.
    #[serde(default, deserialize_with = "vlan", skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Whether the guest may choose MACs and become promiscuous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// Whether frames from other MACs than its own are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoof_check: Option<bool>,
    /// Whether there is no machine unless the device can be reset.
    #[serde(default)]
    pub reset: DeviceReset,
    /// What follows when it reports an uncorrectable error.
    #[serde(default)]
    pub on_error: OnError,
    /// What follows when the host wants it back.
    #[serde(default)]
    pub on_removal: OnRemoval,
}

/// What a machine asks for of the reset of a device, before the guest has it and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceReset {
    /// The best that there is on this host, which may be none: that is said.
    #[default]
    Best,
    /// There is no machine unless the device can be reset, and is when the machine starts.
    Required,
}

/// What follows when a device reports an uncorrectable error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The machine ends.
    #[default]
    Stop,
    /// The machine ends as after a reset by the guest, so that whoever started it does so again.
    Reset,
    /// It is said, and the guest goes on.
    Log,
}

/// What follows when the host wants a device back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRemoval {
    /// The machine ends.
    #[default]
    Stop,
    /// The guest is asked to let go of it, and goes on without.
    Unplug,
}

impl DeviceConfig {
    /// What its port is to be.
    pub fn port(&self) -> VfPortChange {
        let Self { mac, vlan, trust, spoof_check, .. } = *self;
        VfPortChange { mac, vlan, trust, spoof_check }
    }
}

/// Which function of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum DeviceAddress {
    /// This one.
    Is(HostBdf),
    /// Any virtual function that nobody uses.
    FreeVf {
        /// The physical function.
        free_vf_of: HostBdf,
    },
    /// One of those that an environment variable lists, in the order in which the config's
    /// devices mention it. Kubernetes' SR-IOV device plugin hands functions over like this.
    Environment {
        /// The variable.
        env: String,
    },
}

impl fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(address) => write!(f, "{address}"),
            Self::FreeVf { free_vf_of } => write!(f, "a free VF of {free_vf_of}"),
            Self::Environment { env } => write!(f, "${env}"),
        }
    }
}

impl<'de> Deserialize<'de> for DeviceAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AddressVisitor;

        impl<'de> Visitor<'de> for AddressVisitor {
            type Value = DeviceAddress;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{ADDRESS}, {{\"free_vf_of\": ADDRESS}} or {{\"env\": VARIABLE}}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DeviceAddress, E> {
                text.parse().map(DeviceAddress::Is).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DeviceAddress, A::Error> {
                #[derive(Deserialize)]
                #[serde(rename_all = "snake_case")]
                enum Other {
                    FreeVfOf(#[serde(deserialize_with = "address")] HostBdf),
                    Env(#[serde(deserialize_with = "variable")] String),
                }
                let map = de::value::MapAccessDeserializer::new(map);
                Ok(match Other::deserialize(map)? {
                    Other::FreeVfOf(free_vf_of) => DeviceAddress::FreeVf { free_vf_of },
                    Other::Env(env) => DeviceAddress::Environment { env },
                })
            }
        }

        deserializer.deserialize_any(AddressVisitor)
    }
}

/// Whether berth takes a device from its driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindMode {
    /// It has to be bound to vfio-pci already.
    #[default]
    Manual,
    /// For the run; its driver gets it back.
    Auto,
}

pub(super) fn devices<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<DeviceConfig>, D::Error> {
    // A device is in the list once; others than plain addresses may name several.
    let key = |device: &Object<DeviceConfig>| match &device.0.address {
        DeviceAddress::Is(address) => Some(*address),
        DeviceAddress::FreeVf { .. } | DeviceAddress::Environment { .. } => None,
    };
    let devices = deserializer.deserialize_seq(Distinct { expected: "a list of devices", key })?;
    Ok(devices.into_iter().map(|Object(device)| device).collect())
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HostBdf, D::Error> {
    parsed(deserializer, ADDRESS)
}

fn variable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Variable(String);

    impl FromStr for Variable {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, String> {
            if text.is_empty() || text.contains(['=', '\0']) {
                return Err(format!("`{text}` is not the name of an environment variable"));
            }
            Ok(Self(text.to_owned()))
        }
    }

    parsed::<_, Variable>(deserializer, "the name of an environment variable")
        .map(|Variable(name)| name)
}

fn mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mac>, D::Error> {
    parsed(deserializer, "a MAC address such as \"52:54:00:12:34:56\"").map(Some)
}

fn vlan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let vlan = bounded(deserializer, 0..=4094, "a VLAN from 1 to 4094, or 0 for none")?;
    Ok(Some(vlan as u16))
}
