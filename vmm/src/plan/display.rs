//! A plan as text for people, on one screen.

use std::fmt::{self, Formatter};
use std::ops::Range;

use berth_devices::pci::BarKind;

use super::text::{Bytes, list, range};
use super::{BarPlan, ConsolePlan, FunctionPlan, IommuPlan, Plan, PortPlan, RomPlan, RootPlan};
use crate::config::{OnError, OnRemoval};
use crate::host::IdSet;

/// Pins are a line each up to this many vCPUs, and share lines beyond.
const PIN_LINES: usize = 8;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} vCPU{}, {} of {} pages{}",
            self.name,
            self.vcpus.len(),
            if self.vcpus.len() == 1 { "" } else { "s" },
            Bytes(self.memory.size),
            self.memory.page_size,
            on_node(self.memory.node),
        )?;
        self.fmt_boot(f)?;
        self.fmt_memory(f)?;
        self.fmt_cpus(f)?;
        self.fmt_numa(f)?;
        self.fmt_pci(f)?;
        self.fmt_iommu(f)?;
        writeln!(f, "\nlimits")?;
        writeln!(f, "  locked memory  {}", Bytes(self.limits.memlock))?;
        writeln!(f, "  open files     {}", self.limits.open_files)?;
        if !self.notes.is_empty() {
            writeln!(f, "\nnotes")?;
            for note in &self.notes {
                writeln!(f, "  {note}")?;
            }
        }
        Ok(())
    }
}

impl Plan {
    fn fmt_boot(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nboot")?;
        writeln!(f, "  kernel    {}", self.boot.kernel.display())?;
        if let Some(initrd) = &self.boot.initrd {
            writeln!(f, "  initrd    {}", initrd.display())?;
        }
        if !self.boot.cmdline.is_empty() {
            writeln!(f, "  cmdline   {}", self.boot.cmdline)?;
        }
        match &self.console {
            ConsolePlan::Stdio => writeln!(f, "  console   stdio")?,
            ConsolePlan::File(path) => writeln!(f, "  console   {}", path.display())?,
            ConsolePlan::Off => writeln!(f, "  console   off")?,
        }
        let seconds = self.shutdown_timeout.as_secs();
        writeln!(f, "  shutdown  forced after {seconds} s")?;
        if self.pci.functions.iter().any(|f| f.on_removal == OnRemoval::Unplug) {
            let seconds = self.unplug_timeout.as_secs();
            writeln!(f, "  unplug    ends the machine after {seconds} s without an answer")?;
        }
        Ok(())
    }

    fn fmt_memory(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let several = self.pci.roots.len() > 1;
        let mut map: Vec<(&Range<u64>, String)> = Vec::new();
        for RootPlan { buses, window32, window64, .. } in &self.pci.roots {
            let below =
                if several { format!(" below bus {:02x}", buses.start()) } else { String::new() };
            map.extend(window32.iter().map(|window| (window, format!("32-bit BARs{below}"))));
            map.extend(window64.iter().map(|window| (window, format!("64-bit BARs{below}"))));
        }
        map.extend(self.memory.regions.iter().map(|region| (&region.guest, "RAM".to_owned())));
        map.sort_by_key(|(addresses, _)| addresses.start);
        writeln!(f, "\nguest memory map")?;
        for (addresses, what) in map {
            let size = Bytes(addresses.end - addresses.start);
            writeln!(f, "  {}  {size:>9}  {what}", range(addresses))?;
        }
        Ok(())
    }

    fn fmt_cpus(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nCPUs")?;
        if self.vcpus.len() <= PIN_LINES {
            for vcpu in &self.vcpus {
                let (index, cpu) = (vcpu.index, vcpu.cpu);
                let line = format!("  vCPU {index:<3} CPU {cpu:<4}{}", on_node(vcpu.node));
                writeln!(f, "{}", line.trim_end())?;
            }
        } else {
            for row in self.vcpus.chunks(PIN_LINES) {
                let first = row.first().map_or(0, |vcpu| vcpu.index);
                let last = row.last().map_or(0, |vcpu| vcpu.index);
                let cpus: Vec<String> = row.iter().map(|vcpu| format!("{:<4}", vcpu.cpu)).collect();
                let line = format!("  vCPU {first:>3}-{last:<3} CPU {}", cpus.concat());
                writeln!(f, "{}", line.trim_end())?;
            }
            let nodes: IdSet = self.vcpus.iter().filter_map(|vcpu| vcpu.node).collect();
            writeln!(f, "  on NUMA node {nodes}")?;
        }
        let own: IdSet = self.vmm_cpus.iter().copied().collect();
        writeln!(f, "  berth    CPU {own}")
    }

    /// One domain needs no words.
    fn fmt_numa(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.numa.domains.len() > 1 {
            writeln!(f, "\nNUMA")?;
            let nodes = self.numa.domains.iter().flatten().enumerate();
            for (domain, node) in nodes {
                writeln!(f, "  domain {domain}  the host's NUMA node {node}")?;
            }
        }
        Ok(())
    }

    fn fmt_iommu(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(iommu) = &self.iommu else { return Ok(()) };
        let IommuPlan { backend, reason, .. } = iommu;
        writeln!(f, "\nIOMMU")?;
        writeln!(f, "  backend       {backend}: {reason}")?;
        writeln!(f, "  files         {}", list(iommu.files()))?;
        match iommu.peer_to_peer {
            None => Ok(()),
            Some(true) => writeln!(f, "  peer-to-peer  devices reach each other's BARs"),
            Some(false) => writeln!(f, "  peer-to-peer  none: iommufd cannot map BARs"),
        }
    }

    fn fmt_pci(&self, f: &mut Formatter<'_>) -> fmt::Result {
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

fn on_node(node: Option<u32>) -> String {
    node.map_or_else(String::new, |node| format!(" on NUMA node {node}"))
}
