//! Which functions of the host concern a config, before one of them is chosen.

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::Bdf;

use super::inventory::virtual_functions;
use super::root::Root;
use crate::config::{BindMode, Config, DeviceAddress, DeviceConfig};

/// The functions that a config's devices may be.
#[derive(Default)]
pub(super) struct Wanted {
    /// All of them.
    pub(super) addresses: BTreeSet<Bdf>,
    /// Those that may be taken from the host, if nothing uses them.
    pub(super) to_take: BTreeSet<Bdf>,
    /// Virtual functions of those physical ones of which a free one is wanted.
    pub(super) virtual_functions: BTreeMap<Bdf, Vec<Bdf>>,
    /// Environment variables that name functions.
    pub(super) environment: BTreeMap<String, Option<String>>,
}

impl Wanted {
    /// By `config`.
    pub(super) fn by(root: &Root, config: &Config) -> Self {
        let mut wanted = Self::default();
        for device in &config.devices {
            wanted.add(root, device);
        }
        wanted
    }

    fn add(&mut self, root: &Root, device: &DeviceConfig) {
        let candidates = match &device.address {
            DeviceAddress::Is(address) => vec![*address],
            DeviceAddress::FreeVf { free_vf_of } => {
                let all = virtual_functions(root, *free_vf_of);
                self.addresses.insert(*free_vf_of);
                self.to_take.extend(&all);
                self.virtual_functions.insert(*free_vf_of, all.clone());
                all
            }
            DeviceAddress::Environment { env } => {
                // A capture's processes are not at hand.
                let text = root.is_live().then(|| std::env::var(env).ok()).flatten();
                self.environment.insert(env.clone(), text.clone());
                let text = text.unwrap_or_default();
                text.split(',').filter_map(|part| part.trim().parse().ok()).collect()
            }
        };
        if device.bind == BindMode::Auto {
            self.to_take.extend(&candidates);
        }
        self.addresses.extend(candidates);
    }
}
