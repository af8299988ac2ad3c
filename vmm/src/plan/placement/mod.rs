//! Where a machine lives: nodes of its memory, CPUs of its vCPUs, of berth itself, and of the
//! interrupts of its devices.

mod choose;
mod cores;
mod cpus;
mod dedicated;
mod nodes;
mod topology;
mod vmm_cpus;

use super::devices::Assigned;
use super::{Avoided, Note, PlanError, Share, VcpuPlan};
use crate::config::Config;
use crate::host::{HostProfile, IdSet};

pub(super) use dedicated::check_dedicated;
pub(super) use vmm_cpus::interrupt_cpus;

/// Where a machine lives.
pub(super) struct Placement {
    /// Nodes of its memory, the first of them that of its first vCPU.
    pub(super) shares: Vec<Share>,
    /// CPU of each vCPU.
    pub(super) vcpus: Vec<VcpuPlan>,
    /// CPUs of berth's own threads.
    pub(super) vmm_cpus: Vec<u32>,
    /// CPUs that were left to others.
    pub(super) avoided: Vec<Avoided>,
}

pub(super) fn place(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    notes: &mut Vec<Note>,
) -> Result<Placement, PlanError> {
    let shares = nodes::shares(config, host, assigned, notes)?;
    let pins = cpus::pin(config, host, &shares)?;
    let vcpus = topology::arrange(host, &pins, config.placement.cpus.named().is_some());
    let taken: IdSet = vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    let vmm_cpus = vmm_cpus::cpus(config, host, shares[0].cpu_node, &taken);
    let ours: IdSet = taken.iter().chain(vmm_cpus.iter().copied()).collect();
    Ok(Placement {
        avoided: cpus::avoided(config, host, &shares, &taken, &ours),
        vmm_cpus,
        vcpus,
        shares,
    })
}

/// What this process may run on.
fn usable(host: &HostProfile) -> IdSet {
    host.process.cpus.intersection(&host.cpus.online).difference(&host.cpus.partitioned)
}

/// CPUs that share a core with a vCPU of another machine: what one thread of a core does, the
/// other can measure, and both are slower. So a core is one machine's.
fn taken_by_machines(host: &HostProfile) -> IdSet {
    let vcpus = host.machines.iter().flat_map(|machine| machine.vcpus.iter());
    let cores: IdSet = vcpus.map(|cpu| host.cpus.core_of(cpu)).collect();
    host.cpus.online.iter().filter(|&cpu| cores.contains(host.cpus.core_of(cpu))).collect()
}

/// The node of a CPU, where the kernel knows of nodes.
fn node_of(host: &HostProfile, cpu: u32) -> Option<u32> {
    let mut nodes = host.memory.nodes.iter();
    nodes.find(|(_, node)| node.cpus.contains(cpu)).map(|(id, _)| *id)
}
