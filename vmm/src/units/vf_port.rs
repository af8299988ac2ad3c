//! The port of a virtual function in its card's switch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// An Ethernet address of one station.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Option<Vec<u8>> = text
            .split(':')
            .map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten())
            .collect();
        match parts.and_then(|parts| <[u8; 6]>::try_from(parts).ok()) {
            // The lowest bit marks a group; drivers refuse to give one to a function.
            Some(bytes) if bytes[0] & 1 == 0 => Ok(Self(bytes)),
            _ => Err(format!(
                "`{text}` is not a station's MAC address; expected one such as 52:54:00:12:34:56"
            )),
        }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A port as its card has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfPort {
    /// Its function's address; all zeros leave it to the function's driver.
    pub mac: Mac,
    /// The VLAN that its frames are in outside; 0 is none.
    pub vlan: u16,
    /// Whether its driver may choose MACs and become promiscuous.
    pub trust: bool,
    /// Whether frames from other addresses than its own are dropped.
    pub spoof_check: bool,
}

/// As the arguments of `ip link set ... vf N`.
impl fmt::Display for VfPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |on| if on { "on" } else { "off" };
        let Self { mac, vlan, trust, spoof_check } = self;
        write!(f, "mac {mac} vlan {vlan} trust {} spoofchk {}", word(*trust), word(*spoof_check))
    }
}

/// What a port is to be; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfPortChange {
    /// Its function's address.
    pub mac: Option<Mac>,
    /// The VLAN, 1 to 4094; 0 is none.
    pub vlan: Option<u16>,
    /// Whether its driver may choose MACs and become promiscuous.
    pub trust: Option<bool>,
    /// Whether frames from other addresses than its own are dropped.
    pub spoof_check: Option<bool>,
}

impl VfPortChange {
    /// Whether anything changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `port` with the change made.
    pub fn applied_to(&self, port: &VfPort) -> VfPort {
        VfPort {
            mac: self.mac.unwrap_or(port.mac),
            vlan: self.vlan.unwrap_or(port.vlan),
            trust: self.trust.unwrap_or(port.trust),
            spoof_check: self.spoof_check.unwrap_or(port.spoof_check),
        }
    }
}

/// `INDEX,mac=MAC,vlan=ID,trust=on|off,spoof-check=on|off` of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VfPortArgument {
    /// Which of the virtual functions.
    pub index: u32,
    /// What its port is to be.
    pub change: VfPortChange,
}

impl FromStr for VfPortArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let index = parts.next().unwrap_or_default();
        let index = index.parse().map_err(|_| format!("`{index}` is not the index of a VF"))?;
        let mut change = VfPortChange::default();
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let switch = || match value {
                "on" => Ok(Some(true)),
                "off" => Ok(Some(false)),
                _ => Err(format!("{key} is `{value}`; expected on or off")),
            };
            match key {
                "mac" => change.mac = Some(value.parse()?),
                "vlan" => change.vlan = Some(vlan(value)?),
                "trust" => change.trust = switch()?,
                "spoof-check" => change.spoof_check = switch()?,
                _ => {
                    return Err(format!(
                        "`{key}` is none of mac=MAC, vlan=ID, trust=on|off and spoof-check=on|off"
                    ));
                }
            }
        }
        Ok(Self { index, change })
    }
}

/// 4095 is reserved (IEEE 802.1Q, table 9-2).
fn vlan(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(vlan @ 0..=4094) => Ok(vlan),
        _ => Err(format!("vlan is `{text}`; expected 1 to 4094, or 0 for none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vf_of_the_command_line_says_all_about_its_port() {
        let text = "1,mac=52:54:00:00:00:0a,vlan=7,trust=on,spoof-check=off";
        let VfPortArgument { index, change } = text.parse().expect("a good one");
        assert_eq!(index, 1);
        let port = change.applied_to(&VfPort { spoof_check: true, ..VfPort::default() });
        assert_eq!(port.to_string(), "mac 52:54:00:00:00:0a vlan 7 trust on spoofchk off");
        let nothing: VfPortArgument = "0".parse().expect("a good one");
        assert_eq!(nothing.change.applied_to(&port), port);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("a", "`a` is not the index of a VF"),
            ("0,vlan=4095", "vlan is `4095`; expected 1 to 4094, or 0 for none"),
            ("0,trust=yes", "trust is `yes`; expected on or off"),
            (
                "0,mac=01:00:5e:00:00:01",
                "`01:00:5e:00:00:01` is not a station's MAC address; expected one such as 52:54:00:12:34:56",
            ),
            ("0,rate=1", "`rate` is none of mac=MAC, vlan=ID, trust=on|off and spoof-check=on|off"),
        ] {
            assert_eq!(text.parse::<VfPortArgument>().expect_err(text), message);
        }
    }
}
