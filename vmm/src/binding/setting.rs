//! What berth may change on a host: each thing with its values and the writes that change it.

use std::fmt;

use berth_devices::pci::HostBdf;
use serde::{Deserialize, Serialize};

use crate::units::PageSize;
use crate::units::{VfPort, VfPortChange};

const DEVICES: &str = "/sys/bus/pci/devices";
const DRIVERS: &str = "/sys/bus/pci/drivers";

/// One thing on the host that berth may change and must be able to put back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// The only driver that may take a function.
    Override(HostBdf),
    /// The driver that has a function.
    Driver(HostBdf),
    /// Number of virtual functions.
    VfCount(HostBdf),
    /// Whether the host's drivers take new virtual functions by themselves.
    VfAutoprobe(HostBdf),
    /// The port of a virtual function in its card's switch.
    VfPort {
        /// The physical function.
        physical: HostBdf,
        /// Which of its virtual functions.
        index: u32,
    },
    /// Huge pages of a node.
    HugePages {
        /// The node; `None` where the kernel knows of none.
        node: Option<u32>,
        /// Their size.
        size: PageSize,
    },
}

/// What a setting is set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// No driver, or no override.
    Nothing,
    /// A number: functions, pages, 0 and 1 for off and on.
    Count(u64),
    /// A driver.
    Name(String),
    /// A port.
    Port(VfPort),
}

/// Where a step leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This very value.
    Is(Value),
    /// The driver that the kernel picks.
    Probe,
    /// A port that fulfils this; the rest of it stays.
    Port(VfPortChange),
    /// The setting goes with its function; only its value is kept, for the way back.
    Lost,
}

/// A change of one setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What changes.
    pub setting: Setting,
    /// What it was when the step was decided.
    pub before: Value,
    /// What it is to become.
    pub after: Goal,
    /// The physical function whose virtual function the setting is about.
    #[serde(skip)]
    pub virtual_of: Option<HostBdf>,
}

/// One system call that changes the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A write to a file of sysfs.
    Write {
        /// The file.
        path: String,
        /// What is written.
        text: String,
    },
    /// A message to the driver of a physical function.
    SetPort {
        /// The physical function.
        physical: HostBdf,
        /// Which of its virtual functions.
        index: u32,
        /// The port as it was.
        before: VfPort,
        /// The port as it is to be.
        port: VfPort,
    },
}

impl Setting {
    /// The file of sysfs that holds it; a port has none.
    pub fn path(&self) -> Option<String> {
        Some(match self {
            Self::Override(function) => format!("{DEVICES}/{function}/driver_override"),
            Self::Driver(function) => format!("{DEVICES}/{function}/driver"),
            Self::VfCount(physical) => format!("{DEVICES}/{physical}/sriov_numvfs"),
            Self::VfAutoprobe(physical) => format!("{DEVICES}/{physical}/sriov_drivers_autoprobe"),
            Self::VfPort { .. } => return None,
            Self::HugePages { node, size } => {
                let folder = match node {
                    Some(node) => format!("/sys/devices/system/node/node{node}"),
                    None => "/sys/kernel/mm".to_owned(),
                };
                format!("{folder}/hugepages/{}/nr_hugepages", size.pool_folder())
            }
        })
    }

    /// The function that it is about.
    pub fn function(&self) -> Option<HostBdf> {
        match self {
            Self::Override(function)
            | Self::Driver(function)
            | Self::VfCount(function)
            | Self::VfAutoprobe(function)
            | Self::VfPort { physical: function, .. } => Some(*function),
            Self::HugePages { .. } => None,
        }
    }

    /// The calls that bring it from `now` to `goal`.
    pub fn acts(&self, now: &Value, goal: &Goal) -> Vec<Act> {
        let port;
        let target = match goal {
            goal if goal.is_met_by(now) => return Vec::new(),
            Goal::Is(value) => Some(value),
            Goal::Port(wish) => {
                let Value::Port(now) = now else { return Vec::new() };
                port = Value::Port(wish.applied_to(now));
                Some(&port)
            }
            Goal::Probe => None,
            Goal::Lost => return Vec::new(),
        };
        let write = |path: String, text: String| Act::Write { path, text };
        let number = |value: &Value| if let Value::Count(count) = value { *count } else { 0 };
        match (self, target) {
            (Self::Driver(function), target) => {
                let mut acts = Vec::new();
                if *now != Value::Nothing {
                    let path = format!("{DEVICES}/{function}/driver/unbind");
                    acts.push(write(path, function.to_string()));
                }
                match target {
                    // A driver's own `bind` rather than `drivers_probe`: it names the driver where
                    // two would match, and it returns why a probe failed.
                    Some(Value::Name(driver)) => {
                        acts.push(write(format!("{DRIVERS}/{driver}/bind"), function.to_string()));
                    }
                    None => {
                        let path = "/sys/bus/pci/drivers_probe".to_owned();
                        acts.push(write(path, function.to_string()));
                    }
                    Some(_) => {}
                }
                acts
            }
            (_, None) => Vec::new(),
            (Self::VfPort { physical, index }, Some(target)) => match (now, target) {
                (Value::Port(before), Value::Port(port)) => vec![Act::SetPort {
                    physical: *physical,
                    index: *index,
                    before: before.clone(),
                    port: port.clone(),
                }],
                _ => Vec::new(),
            },
            (Self::VfCount(_), Some(target)) => {
                // The kernel refuses to go from one number to another (EBUSY).
                let numbers = [0, number(target)];
                let skip = usize::from(number(now) == 0);
                let end = if number(target) == 0 { 1 } else { 2 };
                let path = self.path().unwrap_or_default();
                numbers[skip.min(end)..end]
                    .iter()
                    .map(|count| write(path.clone(), count.to_string()))
                    .collect()
            }
            (_, Some(target)) => {
                let text = match target {
                    // An empty line clears the override; nothing at all is no write.
                    Value::Nothing => "\n".to_owned(),
                    Value::Name(name) => name.clone(),
                    other => number(other).to_string(),
                };
                self.path().map(|path| write(path, text)).into_iter().collect()
            }
        }
    }

    /// Where it comes among others on the way back: what others need comes first. Virtual
    /// functions need their physical one's driver and number, and a driver needs the override, or
    /// that drivers take virtual functions at all (`pci_device_can_probe` in the kernel's
    /// drivers/pci/pci-driver.c).
    pub fn rank(&self, is_virtual: bool) -> u8 {
        match self {
            Self::Override(_) if !is_virtual => 0,
            Self::Driver(_) if !is_virtual => 1,
            Self::VfCount(_) => 2,
            Self::VfPort { .. } => 3,
            Self::VfAutoprobe(_) => 4,
            Self::Override(_) => 5,
            Self::Driver(_) => 6,
            Self::HugePages { .. } => 7,
        }
    }
}

impl Step {
    /// A step to a value.
    pub fn to(setting: Setting, before: Value, after: Value) -> Self {
        Self::new(setting, before, Goal::Is(after))
    }

    /// A step to a goal.
    pub fn new(setting: Setting, before: Value, after: Goal) -> Self {
        let virtual_of = match setting {
            Setting::VfPort { physical, .. } => Some(physical),
            _ => None,
        };
        Self { setting, before, after, virtual_of }
    }

    /// The same for a virtual function.
    pub fn of(self, physical: Option<HostBdf>) -> Self {
        Self { virtual_of: physical.or(self.virtual_of), ..self }
    }

    /// Whether anything has to be done for it.
    pub fn changes(&self) -> bool {
        !self.after.is_met_by(&self.before)
    }
}

impl Goal {
    /// Whether a setting that is `value` has arrived.
    pub fn is_met_by(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Is(wanted), value) => wanted == value,
            (Self::Port(wish), Value::Port(port)) => wish.applied_to(port) == *port,
            (Self::Port(_) | Self::Probe | Self::Lost, _) => false,
        }
    }
}

impl Value {
    /// A name, or nothing.
    pub fn name(name: Option<&str>) -> Self {
        name.map_or(Self::Nothing, |name| Self::Name(name.to_owned()))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Override(function) => write!(f, "driver_override of {function}"),
            Self::Driver(function) => write!(f, "driver of {function}"),
            Self::VfCount(physical) => write!(f, "number of VFs of {physical}"),
            Self::VfAutoprobe(physical) => write!(f, "sriov_drivers_autoprobe of {physical}"),
            Self::VfPort { physical, index } => write!(f, "port of VF {index} of {physical}"),
            Self::HugePages { node: Some(node), size } => write!(f, "{size} pages of node {node}"),
            Self::HugePages { node: None, size } => write!(f, "{size} pages"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("none"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Name(name) => f.write_str(name),
            Self::Port(port) => write!(f, "{port}"),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(value) => write!(f, "{value}"),
            Self::Port(wish) => write!(f, "{}", wish.applied_to(&VfPort::default())),
            Self::Probe => f.write_str("the kernel's options"),
            Self::Lost => f.write_str("gone"),
        }
    }
}

/// As a command that a shell as root would do the same with.
impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, text } if text == "\n" => write!(f, "echo > {path}"),
            Self::Write { path, text } => write!(f, "echo {text} > {path}"),
            Self::SetPort { physical, index, port, .. } => {
                write!(f, "ip link set dev $(ls {DEVICES}/{physical}/net) vf {index} {port}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
