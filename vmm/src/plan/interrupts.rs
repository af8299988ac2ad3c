//! Which CPUs of the host the devices' interrupts disturb.
//!
//! A vector is an interrupt of the host until KVM has it, unless the IOMMU posts it to the vCPU by
//! itself: on the CPU of a vCPU it would stop the guest for what often is another vCPU's.

use std::collections::BTreeMap;

use super::PlanError;
use super::devices::Assigned;
use super::placement::{Placement, interrupt_cpus};
use crate::config::{Config, InterruptCpus};
use crate::host::{HostProfile, IdSet};

/// Chooses the CPUs of each function's interrupts.
pub(super) fn steer(
    config: &Config,
    host: &HostProfile,
    placement: &Placement,
    assigned: &mut [Assigned],
) -> Result<(), PlanError> {
    if let InterruptCpus::Named(cpus) = &config.placement.interrupt_cpus
        && let Some(&cpu) = cpus.iter().find(|cpu| !host.cpus.online.contains(**cpu))
    {
        return Err(PlanError::InterruptCpuNotOnline { cpu, online: host.cpus.online.clone() });
    }
    let vcpus: IdSet = placement.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    let mut by_node: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for device in assigned {
        let node = device.function.node.unwrap_or(placement.shares[0].cpu_node);
        let of_node = || interrupt_cpus(config, host, node, &vcpus).unwrap_or_default();
        device.interrupt_cpus = by_node.entry(node).or_insert_with(of_node).clone();
        device.resteer = !device.interrupt_cpus.is_empty() && host.irqbalance.is_yes();
    }
    Ok(())
}
