//! A plan as text for people.

mod cpus;
mod interrupts;
mod memory;
mod pci;

use std::fmt::{self, Formatter};

use berth_devices::vfio::IommuBackend;

use super::text::{Bytes, list};
use super::{ConsolePlan, IommuPlan, Plan};
use crate::config::OnRemoval;
use crate::units::Layer;

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
            self.on_nodes(),
        )?;
        self.fmt_boot(f)?;
        self.fmt_memory(f)?;
        self.fmt_cpus(f)?;
        self.fmt_numa(f)?;
        self.fmt_pci(f)?;
        self.fmt_iommu(f)?;
        self.fmt_interrupts(f)?;
        writeln!(f, "\nlimits")?;
        writeln!(f, "  locked memory  {}", Bytes(self.limits.memlock))?;
        writeln!(f, "  open files     {}", self.limits.open_files)?;
        if !self.sandbox.layers.is_empty() {
            writeln!(f, "\nsandbox")?;
            writeln!(f, "  layers         {}", self.sandbox_layers())?;
        }
        self.fmt_shortfalls(f)?;
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
    fn sandbox_layers(&self) -> String {
        let missing = Layer::ALL.into_iter().filter(|layer| !self.sandbox.has(*layer));
        let missing: Vec<&str> = missing.map(Layer::name).collect();
        let user = self.sandbox.uid.map(|uid| format!(" (uid {uid})")).unwrap_or_default();
        let layers = self.sandbox.layers.iter().map(|layer| match layer {
            Layer::User => format!("{layer}{user}"),
            _ => layer.to_string(),
        });
        let layers: Vec<String> = layers.chain(["seccomp".to_owned()]).collect();
        let without = match missing[..] {
            [] => String::new(),
            _ => format!("; without {}", missing.join(", ")),
        };
        layers.join(", ") + &without
    }

    fn on_nodes(&self) -> String {
        let nodes: Vec<u32> = self.memory.pages.iter().filter_map(|pages| pages.node).collect();
        match nodes[..] {
            [] => String::new(),
            [node] => on_node(Some(node)),
            _ => format!(" on NUMA nodes {}", list(nodes)),
        }
    }

    fn fmt_shortfalls(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let all = self.shortfalls.len();
        if all == 0 {
            return Ok(());
        }
        let fixable = self.shortfalls.iter().filter(|finding| !finding.remedy.is_empty()).count();
        let how_many = match fixable {
            0 => "on this host it cannot".to_owned(),
            fixable if fixable == all => "here is how".to_owned(),
            fixable => format!("{fixable} of {all} on this host"),
        };
        writeln!(f, "\ncould be better: {how_many}")?;
        for finding in &self.shortfalls {
            writeln!(f, "  {}  {}", finding.code, finding.seen)?;
            for step in &finding.remedy {
                writeln!(f, "    - {step}")?;
            }
        }
        Ok(())
    }

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
            ConsolePlan::File { path, limit, .. } => {
                writeln!(f, "  console   {}, at most {}", path.display(), Bytes(*limit))?;
            }
            ConsolePlan::Fifo { path } => writeln!(f, "  console   fifo {}", path.display())?,
            ConsolePlan::Socket { path } => writeln!(f, "  console   socket {}", path.display())?,
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

    fn fmt_iommu(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(iommu) = &self.iommu else { return Ok(()) };
        let IommuPlan { backend, reason, .. } = iommu;
        writeln!(f, "\nIOMMU")?;
        writeln!(f, "  backend       {backend}: {reason}")?;
        writeln!(f, "  files         {}", list(self.vfio_files()))?;
        match iommu.peer_to_peer {
            None => Ok(()),
            Some(true) => writeln!(f, "  peer-to-peer  devices reach each other's BARs"),
            Some(false) if iommu.backend == IommuBackend::Iommufd => {
                writeln!(f, "  peer-to-peer  none: iommufd cannot map BARs")
            }
            Some(false) => writeln!(f, "  peer-to-peer  off, as the config says"),
        }
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
}

fn on_node(node: Option<u32>) -> String {
    node.map_or_else(String::new, |node| format!(" on NUMA node {node}"))
}
