//! What keeps berth in, beside the filters of system calls.

use serde::Serialize;

use crate::config::{Config, ConsoleConfig};
use crate::units::Layer;

/// What keeps berth in while the guest runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SandboxPlan {
    /// The user that berth becomes when root starts it; `None` is one that nobody else is.
    pub uid: Option<u32>,
    /// The group; `None` is the user's number.
    pub gid: Option<u32>,
    /// The layers that it has to have.
    pub layers: Vec<Layer>,
    /// Most bytes that a file of its has; `None` where standard output and error are all that it
    /// writes to, whose size is not its own affair.
    pub file_size: Option<u64>,
}

impl SandboxPlan {
    pub(super) fn new(config: &Config) -> Self {
        let sandbox = &config.sandbox;
        let wanted = |layer: &Layer| !sandbox.without.contains(layer);
        Self {
            uid: sandbox.uid,
            gid: sandbox.gid,
            layers: Layer::ALL.into_iter().filter(wanted).collect(),
            file_size: match &config.console {
                ConsoleConfig::File(console) => Some(console.limit_mib.bytes()),
                _ => None,
            },
        }
    }

    /// Whether it has to have `layer`.
    pub fn has(&self, layer: Layer) -> bool {
        self.layers.contains(&layer)
    }
}
