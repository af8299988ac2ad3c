//! Where on the host a machine lives: each choice is `auto`, or somebody's.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{self, Deserializer, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::visit::{Distinct, bounded};

/// Where on the host the machine lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementConfig {
    /// NUMA node of the guest's memory; `None` is `"auto"`: the devices' node.
    #[serde(deserialize_with = "auto_or_node", serialize_with = "as_auto_or_node")]
    pub node: Option<u32>,
    /// What becomes of devices on several nodes.
    pub several_nodes: SeveralNodes,
    /// Host CPU of each vCPU, by index.
    pub cpus: CpuChoice,
    /// What becomes of the threads that share a core.
    pub smt: Smt,
    /// Host CPUs that take the interrupts of the machine's devices.
    pub interrupt_cpus: InterruptCpus,
}

/// What becomes of a machine whose devices are on several nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeveralNodes {
    /// It lives on the node of most of them.
    #[default]
    Majority,
    /// It lives on all of them: memory and vCPUs are shared out evenly, and the guest sees the
    /// nodes.
    Split,
    /// It does not run.
    Refuse,
}

/// What becomes of the threads that share a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Smt {
    /// A core for each vCPU while there are enough, else siblings.
    #[default]
    Auto,
    /// vCPUs fill whole cores, and the guest sees which share one.
    Siblings,
    /// Each vCPU has a core alone, and nothing of berth's runs on the core's other threads.
    Idle,
}

/// Which host CPUs vCPUs get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CpuChoice {
    /// Those of the memory's node that this process may use.
    #[default]
    Auto,
    /// Those of the memory's node that the scheduler leaves alone (`isolcpus=`).
    Isolated,
    /// These, by the vCPU's index.
    Named(Vec<u32>),
}

impl CpuChoice {
    /// The CPUs that are named.
    pub fn named(&self) -> Option<&[u32]> {
        match self {
            Self::Named(cpus) => Some(cpus),
            Self::Auto | Self::Isolated => None,
        }
    }
}

/// Which host CPUs take the interrupts of the machine's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InterruptCpus {
    /// Those of berth's own threads: near the devices, and no vCPU's.
    #[default]
    Auto,
    /// Wherever the host's kernel puts them.
    Off,
    /// These.
    Named(Vec<u32>),
}

impl Serialize for CpuChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Isolated => serializer.serialize_str("isolated"),
            Self::Named(cpus) => cpus.serialize(serializer),
        }
    }
}

impl Serialize for InterruptCpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_str("off"),
            Self::Named(cpus) => cpus.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CpuChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CpusVisitor {
            expected: "`auto`, `isolated` or a list with one host CPU per vCPU",
            words: [("auto", Self::Auto), ("isolated", Self::Isolated)],
            named: Self::Named,
        })
    }
}

impl<'de> Deserialize<'de> for InterruptCpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let choice = deserializer.deserialize_any(CpusVisitor {
            expected: "`auto`, `off` or a list of host CPUs",
            words: [("auto", Self::Auto), ("off", Self::Off)],
            named: Self::Named,
        })?;
        if choice == Self::Named(Vec::new()) {
            return Err(de::Error::custom("the list is empty; name a CPU, or say `off`"));
        }
        Ok(choice)
    }
}

/// Ids of CPUs and nodes; the largest kernels are built for 8,192 CPUs.
const HOST_IDS: RangeInclusive<u64> = 0..=65_535;

fn as_auto_or_node<S: Serializer>(node: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    match node {
        Some(node) => serializer.serialize_u32(*node),
        None => serializer.serialize_str("auto"),
    }
}

fn auto_or_node<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    struct NodeVisitor;

    impl Visitor<'_> for NodeVisitor {
        type Value = Option<u32>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("`auto` or the number of a NUMA node")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            auto(text, &self)
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
            if HOST_IDS.contains(&value) {
                Ok(Some(value as u32))
            } else {
                Err(E::invalid_value(Unexpected::Unsigned(value), &self))
            }
        }
    }

    deserializer.deserialize_any(NodeVisitor)
}

/// One of two words, or CPUs.
struct CpusVisitor<T> {
    expected: &'static str,
    words: [(&'static str, T); 2],
    named: fn(Vec<u32>) -> T,
}

impl<'de, T> Visitor<'de> for CpusVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        let wrong = E::invalid_value(Unexpected::Str(text), &self);
        let mut words = self.words.into_iter();
        words.find(|(word, _)| *word == text).map(|(_, choice)| choice).ok_or(wrong)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        /// A host CPU's number.
        struct Cpu(u32);

        impl<'de> Deserialize<'de> for Cpu {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let cpu = bounded(deserializer, HOST_IDS, "the number of a host CPU")?;
                Ok(Self(cpu as u32))
            }
        }

        let distinct = Distinct { expected: "", key: |cpu: &Cpu| Some(cpu.0) };
        let cpus = distinct.visit_seq(seq)?;
        Ok((self.named)(cpus.into_iter().map(|Cpu(cpu)| cpu).collect()))
    }
}

/// `None` for the word `auto`.
fn auto<T, E: de::Error>(text: &str, expected: &dyn de::Expected) -> Result<Option<T>, E> {
    if text == "auto" { Ok(None) } else { Err(E::invalid_value(Unexpected::Str(text), expected)) }
}
