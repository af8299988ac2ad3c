//! What keeps berth in, beside the filters of system calls.

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use super::visit::{Distinct, bounded};
use crate::units::Layer;

/// What keeps berth in while the guest runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// The user that berth becomes when root starts it; `None` is one that nobody else is.
    #[serde(deserialize_with = "id", skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group; `None` is the user's number.
    #[serde(deserialize_with = "id", skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Layers to do without. A machine whose host cannot have the others does not start.
    #[serde(deserialize_with = "layers")]
    pub without: Vec<Layer>,
}

/// Neither root nor the number that stands for none (`(uid_t)-1`).
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    const IDS: std::ops::RangeInclusive<u64> = 1..=(u32::MAX as u64 - 1);
    let id = bounded(deserializer, IDS, "the number of a user or group other than root")?;
    Ok(Some(id as u32))
}

fn layers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Layer>, D::Error> {
    let without = deserializer.deserialize_seq(Distinct {
        expected: "a list of `user`, `namespaces`, `root` and `landlock`",
        key: |layer: &Layer| Some(*layer),
    })?;
    // Else the host's own mounts would go.
    if without.contains(&Layer::Namespaces) && !without.contains(&Layer::Root) {
        return Err(de::Error::custom("`root` is part of `namespaces`; name both, or neither"));
    }
    Ok(without)
}
