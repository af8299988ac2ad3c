//! The system itself, where it is not one that berth runs on or leaves berth short of something.

use super::Steps;
use crate::host::{Family, System};

/// irqbalance's own configuration.
pub fn irqbalance_file(system: &System) -> &'static str {
    match system.family {
        Family::Debian => "/etc/default/irqbalance",
        Family::RedHat | Family::Suse => "/etc/sysconfig/irqbalance",
        Family::Arch | Family::Alpine | Family::Gentoo | Family::Void | Family::Other => {
            "its environment (`systemctl edit irqbalance`)"
        }
    }
}

/// irqbalance may use these CPUs, which are vCPUs'.
pub fn irqbalance(system: &System, cpus: &crate::host::IdSet) -> Steps {
    vec![
        format!("set `IRQBALANCE_BANNED_CPULIST={cpus}` in {}", irqbalance_file(system)),
        "`systemctl restart irqbalance`".to_owned(),
    ]
}
