//! What a plan of a config wants to know of the host.

use crate::config::{BindMode, Config, DeviceAddress};
use crate::host::{Query, Taking};

impl From<&Config> for Query {
    fn from(config: &Config) -> Self {
        let mut query = Self {
            kernel: Some(config.kernel.clone()),
            initrd: config.initrd.clone(),
            config: config.origin.clone(),
            console: config.console.place().map(|(kind, path)| (kind, path.to_owned())),
            ..Self::default()
        };
        for device in &config.devices {
            let taking = match device.bind {
                BindMode::Auto => Taking::Yes,
                BindMode::Manual => Taking::No,
            };
            match &device.address {
                DeviceAddress::Is(address) => query.add(*address, taking),
                DeviceAddress::FreeVf { free_vf_of } => {
                    query.free_vf_of.insert(*free_vf_of);
                }
                DeviceAddress::Environment { env } => {
                    let entry = query.variables.entry(env.clone()).or_default();
                    *entry = taking.max(*entry);
                }
            }
        }
        query
    }
}
