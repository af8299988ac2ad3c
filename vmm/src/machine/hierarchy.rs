//! The plan's PCI hierarchy, as devices and as ACPI tells of it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use berth_arch::acpi::{Numa, PciRoot};
use berth_devices::irq::MsiRouter;
use berth_devices::pci::{
    GuestBdf, HostBridge, HotPlug, PciFunction, RootBus, RootPort, RootPortConfig, Space,
};
use vmm_sys_util::eventfd::EventFd;

use crate::plan::{PciPlan, Plan, PortPlan, RootPlan};

/// The fabric: host bridge, root ports, and the buses that they make.
pub struct Fabric {
    /// Functions of the fabric itself, without its ports.
    pub functions: Vec<(GuestBdf, Box<dyn PciFunction>)>,
    /// Root ports.
    pub ports: Vec<(GuestBdf, RootPort)>,
    /// Root buses.
    pub roots: Vec<RootBus>,
}

impl Fabric {
    /// What the plan says. `switched_off` is rung by hot-plug slots that the guest switches off.
    pub fn new(
        plan: &PciPlan,
        router: &Arc<MsiRouter>,
        switched_off: &EventFd,
    ) -> io::Result<Self> {
        // Function 0 of bus 0 is where kernels look for a sign that there is PCI at all
        // (`pci_sanity_check` in Linux's arch/x86/pci/direct.c). Other root buses have none.
        let bridge = GuestBdf::new(0, 0, 0).expect("device 0, function 0");
        let functions: Vec<(GuestBdf, Box<dyn PciFunction>)> =
            vec![(bridge, Box::new(HostBridge::default()))];
        let (mut all_ports, mut roots) = (Vec::new(), Vec::new());
        for RootPlan { buses, ports, .. } in &plan.roots {
            let mut numbers = Vec::new();
            for PortPlan { guest, secondary, link, windows, hot_plug } in ports {
                let config = RootPortConfig {
                    primary: *buses.start(),
                    secondary: *secondary,
                    slot: *secondary,
                    link: *link,
                    windows: windows.clone(),
                };
                let wiring = || {
                    let (route, switched_off) = (router.allocate()?, switched_off.try_clone()?);
                    Ok::<_, io::Error>(HotPlug { route, switched_off })
                };
                let port = RootPort::new(&config, hot_plug.then(wiring).transpose()?);
                numbers.push(port.buses());
                all_ports.push((*guest, port));
            }
            roots.push(RootBus::new(buses.clone(), numbers));
        }
        Ok(Self { functions, ports: all_ports, roots })
    }
}

/// The host bridges' windows, in which BARs may answer.
pub fn windows(plan: &PciPlan) -> Vec<(Space, Range<u64>)> {
    let of = |root: &RootPlan| {
        let io = root.io.iter().map(|window| (Space::Io, window.clone()));
        let memory = root.window32.iter().chain(&root.window64);
        io.chain(memory.map(|window| (Space::Memory, window.clone()))).collect::<Vec<_>>()
    };
    plan.roots.iter().flat_map(of).collect()
}

/// The host bridges, as the DSDT describes them.
pub fn acpi_roots(plan: &PciPlan) -> Vec<PciRoot> {
    let root = |root: &RootPlan| PciRoot {
        buses: root.buses.clone(),
        io: root.io.as_ref().map(|io| io.start as u32..io.end as u32),
        window32: root.window32.clone(),
        window64: root.window64.clone(),
        proximity_domain: Some(root.domain),
    };
    plan.roots.iter().map(root).collect()
}

/// Domains of memory, vCPUs and devices, as the SRAT tells of them.
pub fn acpi_numa(plan: &Plan) -> Numa {
    let functions = &plan.pci.functions;
    let domain = |function: GuestBdf| {
        let root = plan.pci.roots.iter().find(|root| root.buses.contains(&function.bus()));
        root.map_or(0, |root| root.domain)
    };
    Numa {
        vcpus: plan.vcpus.iter().map(|vcpu| plan.numa.domain(vcpu.node)).collect(),
        memory: plan
            .memory
            .regions
            .iter()
            .map(|region| (region.guest.clone(), plan.numa.domain(region.node)))
            .collect(),
        initiators: functions.iter().map(|f| (f.guest.routing_id(), domain(f.guest))).collect(),
    }
}
