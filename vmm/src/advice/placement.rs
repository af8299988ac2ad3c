//! CPUs of vCPUs: how the host's own work stays away from them.

use super::{Steps, parameters};
use crate::host::{HostProfile, IdSet};

/// `cores` are the vCPUs' CPUs and the other threads of their cores: what ran on such a thread
/// would take turns with the vCPU.
pub fn isolate(host: &HostProfile, cores: &IdSet) -> Steps {
    let all = [
        ("isolcpus=", format!("isolcpus=managed_irq,domain,{cores}")),
        ("nohz_full=", format!("nohz_full={cores}")),
        ("rcu_nocbs=", format!("rcu_nocbs={cores}")),
    ];
    let given: Vec<&str> = all
        .iter()
        .filter_map(|(name, wanted)| {
            parameters::find(host, |word| word.starts_with(name) && word != wanted)
        })
        .collect();
    let add: Vec<&str> = all.iter().map(|(_, parameter)| parameter.as_str()).collect();
    let remove = (!given.is_empty()).then(|| given.join(" "));
    parameters::change(host, &add.join(" "), remove.as_deref())
}

/// The other threads of the vCPUs' cores, on which the host runs.
pub fn idle_siblings(shared: &IdSet) -> Steps {
    const SHOWN: usize = 4;
    let mut steps = vec![
        "give them to the guest too: set placement.smt to \"siblings\"".to_owned(),
        "or leave them idle:".to_owned(),
    ];
    let offline =
        shared.iter().map(|cpu| format!("`echo 0 > /sys/devices/system/cpu/cpu{cpu}/online`"));
    steps.extend(offline.take(SHOWN));
    if shared.len() > SHOWN {
        steps.push("and so on".to_owned());
    }
    steps
}
