//! The guest's PCI tree, with addresses and BARs.

use std::fmt::{self, Formatter};

use berth_devices::pci::BarKind;

use super::super::text::{Bytes, range};
use super::super::{BarPlan, FunctionPlan, Plan, PortPlan, RomPlan};
use super::on_node;
use crate::config::{OnError, OnRemoval};

impl Plan {
    pub(super) fn fmt_pci(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nPCI")?;
        if self.pci.functions.is_empty() {
            writeln!(f, "  no devices")?;
        }
        for root in &self.pci.roots {
            let (bus, last) = (*root.buses.start(), *root.buses.end());
            if self.pci.roots.len() > 1 {
                writeln!(
                    f,
                    "  root bus {bus:02x}, buses up to {last:02x}, in domain {}",
                    root.domain
                )?;
            }
            let of_bus = |bus: u8| self.pci.functions.iter().filter(move |f| f.guest.bus() == bus);
            for function in of_bus(bus) {
                fmt_function(f, "  ", function)?;
            }
            for port in &root.ports {
                fmt_port(f, port)?;
                for function in of_bus(port.secondary) {
                    fmt_function(f, "    ", function)?;
                }
            }
        }
        Ok(())
    }
}

fn fmt_port(f: &mut Formatter<'_>, port: &PortPlan) -> fmt::Result {
    let link = port.link;
    let capable = match link.capable {
        same if same == link.negotiated => String::new(),
        more => format!(", capable of {more}"),
    };
    writeln!(
        f,
        "  {}  root port to bus {:02x}, {}{capable}, payload {} of {} bytes{}",
        port.guest,
        port.secondary,
        link.negotiated,
        link.payload.bytes(),
        link.payload_supported.bytes(),
        if port.hot_plug { ", hot-plug slot" } else { "" },
    )?;
    let windows = &port.windows;
    for (name, window) in
        [("I/O", &windows.io), ("memory", &windows.memory), ("prefetchable", &windows.prefetchable)]
    {
        if let Some(window) = window {
            let size = Bytes(window.end - window.start);
            writeln!(f, "    {}  {size:>9}  {name}", range(window))?;
        }
    }
    Ok(())
}

fn fmt_function(f: &mut Formatter<'_>, indent: &str, function: &FunctionPlan) -> fmt::Result {
    let [vendor, device] = function.id;
    writeln!(
        f,
        "{indent}{}  is {} [{vendor:04x}:{device:04x}]{}, IOMMU group {}{}{}, {}",
        function.guest,
        function.host,
        on_node(function.node),
        function.group,
        match function.msix_vectors {
            0 => String::new(),
            vectors => format!(", {vectors} MSI-X vectors"),
        },
        function.intx_gsi.map_or_else(String::new, |gsi| format!(", INTx on GSI {gsi}")),
        function.reset,
    )?;
    let on_error = match function.on_error {
        OnError::Stop => None,
        OnError::Reset => Some("on error: reset"),
        OnError::Log => Some("on error: log"),
    };
    let on_removal = match function.on_removal {
        OnRemoval::Stop => None,
        OnRemoval::Unplug => Some("on removal: unplug"),
    };
    let policies: Vec<&str> = on_error.into_iter().chain(on_removal).collect();
    if !policies.is_empty() {
        writeln!(f, "{indent}  {}", policies.join(", "))?;
    }
    for BarPlan { index, kind, size, address } in &function.bars {
        let size = Bytes(*size);
        let kind = kind_name(*kind);
        writeln!(f, "{indent}  BAR {index}  {address:#014x}  {size:>9}  {kind}")?;
    }
    if let Some(RomPlan { size, address }) = function.rom {
        let size = Bytes(size);
        writeln!(f, "{indent}  ROM    {address:#014x}  {size:>9}")?;
    }
    Ok(())
}

fn kind_name(kind: BarKind) -> &'static str {
    match kind {
        BarKind::Io => "I/O ports",
        BarKind::Memory32 { prefetchable: false } => "32-bit",
        BarKind::Memory32 { prefetchable: true } => "32-bit prefetchable",
        BarKind::Memory64 { prefetchable: false } => "64-bit",
        BarKind::Memory64 { prefetchable: true } => "64-bit prefetchable",
    }
}
