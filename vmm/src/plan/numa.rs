//! The guest's proximity domains: which of them stands for which node of the host.

use serde::Serialize;

use super::{NodePages, VcpuPlan};

/// The guest's proximity domains. The first ones are where its memory is; the others are nodes of
/// the host that have one of its CPUs or devices, in the order of vCPUs and devices. A guest then
/// finds near and far as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NumaPlan {
    /// Node of the host, by domain; `None` where the host knows of no nodes.
    pub domains: Vec<Option<u32>>,
}

impl NumaPlan {
    /// From the nodes of the memory, those of the vCPUs and those of the devices.
    pub(super) fn new(
        memory: &[NodePages],
        vcpus: &[VcpuPlan],
        devices: impl Iterator<Item = Option<u32>>,
    ) -> Self {
        let mut domains: Vec<Option<u32>> = memory.iter().map(|pages| pages.node).collect();
        if domains.iter().all(Option::is_some) {
            for node in vcpus.iter().map(|vcpu| vcpu.node).chain(devices) {
                if node.is_some() && !domains.contains(&node) {
                    domains.push(node);
                }
            }
        }
        Self { domains }
    }

    /// The domain of a node. What is on no known node is taken for near.
    pub fn domain(&self, node: Option<u32>) -> u32 {
        let domain = self.domains.iter().position(|other| *other == node);
        domain.unwrap_or(0) as u32
    }
}

#[cfg(test)]
mod tests {
    use berth_arch::topology::CpuPlace;

    use super::*;
    use crate::plan::PinReason;

    #[test]
    fn memory_is_domain_0() {
        let vcpu = |node| VcpuPlan {
            index: 0,
            apic_id: 0,
            place: CpuPlace { socket: 0, core: 0, thread: 0 },
            cpu: 0,
            node: Some(node),
            why: PinReason::Named,
            siblings: Vec::new(),
        };
        let vcpus = [1, 0].map(vcpu);
        let pages = |node| [NodePages { node, pages: 1, free: 1 }];
        let numa = NumaPlan::new(&pages(Some(1)), &vcpus, [None, Some(3), Some(0)].into_iter());
        assert_eq!(numa.domains, [Some(1), Some(0), Some(3)]);
        assert_eq!([Some(1), Some(0), Some(3), None].map(|node| numa.domain(node)), [0, 1, 2, 0]);
        assert_eq!(NumaPlan::new(&pages(None), &vcpus, [Some(3)].into_iter()).domains, [None]);
    }
}
