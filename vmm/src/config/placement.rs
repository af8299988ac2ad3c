//! `auto`, or a place on the host.

use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Unexpected, Visitor};

use super::visit::{Distinct, bounded};

/// Ids of CPUs and nodes; the largest kernels are built for 8,192 CPUs.
const HOST_IDS: RangeInclusive<u64> = 0..=65_535;

pub(super) fn auto_or_node<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
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

pub(super) fn auto_or_cpus<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<u32>>, D::Error> {
    /// A host CPU's number.
    struct Cpu(u32);

    impl<'de> Deserialize<'de> for Cpu {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let cpu = bounded(deserializer, HOST_IDS, "the number of a host CPU")?;
            Ok(Self(cpu as u32))
        }
    }

    struct CpusVisitor;

    impl<'de> Visitor<'de> for CpusVisitor {
        type Value = Option<Vec<u32>>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("`auto` or a list with one host CPU per vCPU")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            auto(text, &self)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
            let distinct = Distinct { expected: "", key: |cpu: &Cpu| cpu.0 };
            let cpus = distinct.visit_seq(seq)?;
            Ok(Some(cpus.into_iter().map(|Cpu(cpu)| cpu).collect()))
        }
    }

    deserializer.deserialize_any(CpusVisitor)
}

/// `None` for the word `auto`.
fn auto<T, E: de::Error>(text: &str, expected: &dyn de::Expected) -> Result<Option<T>, E> {
    if text == "auto" { Ok(None) } else { Err(E::invalid_value(Unexpected::Str(text), expected)) }
}
