//! How the devices' interrupts reach the guest, and which CPUs of the host they disturb.
//!
//! A vector is an interrupt of the host until KVM has it, unless the IOMMU posts it to the vCPU by
//! itself: on the CPU of a vCPU it would stop the guest for what often is another vCPU's.

use berth_devices::pci::{Bdf, GuestBdf};
use serde::Serialize;

use super::devices::Assigned;
use super::placement::{Placement, interrupt_cpus};
use super::{PciPlan, PlanError};
use crate::config::{Config, InterruptCpus};
use crate::host::{HostProfile, IdSet};

/// The way of a function's interrupts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterruptPlan {
    /// The function, as the host names it.
    pub host: Bdf,
    /// The function, as the guest names it.
    pub guest: GuestBdf,
    /// MSI-X vectors that the guest may use: an eventfd, a route of KVM's and an interrupt of the
    /// host each.
    pub msix_vectors: u16,
    /// GSI of the interrupt pin.
    pub intx_gsi: Option<u32>,
    /// Host CPUs that its vectors are steered to; empty leaves them to the host's kernel.
    pub cpus: Vec<u32>,
    /// Something on the host moves interrupts, and these are put back time and again.
    pub kept: bool,
}

pub(super) fn plan(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    placement: &Placement,
    pci: &PciPlan,
) -> Result<Vec<InterruptPlan>, PlanError> {
    if let InterruptCpus::Named(cpus) = &config.placement.interrupt_cpus
        && let Some(&cpu) = cpus.iter().find(|cpu| !host.cpus.online.contains(**cpu))
    {
        return Err(PlanError::InterruptCpuNotOnline { cpu, online: host.cpus.online.clone() });
    }
    let vcpus: IdSet = placement.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
    let of = |(device, function): (&Assigned, &super::FunctionPlan)| {
        let node = device.function.node.unwrap_or(placement.shares[0].cpu_node);
        let cpus = interrupt_cpus(config, host, node, &vcpus).unwrap_or_default();
        InterruptPlan {
            kept: !cpus.is_empty() && host.irqbalance.is_yes(),
            host: function.host,
            guest: function.guest,
            msix_vectors: function.msix_vectors,
            intx_gsi: function.intx_gsi,
            cpus,
        }
    };
    Ok(assigned.iter().zip(&pci.functions).map(of).collect())
}
