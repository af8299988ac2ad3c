//! The guest's address space as a picture, lowest addresses first, and the pages by node.

use std::fmt::{self, Formatter};
use std::ops::Range;

use berth_arch::layout;

use super::super::text::Bytes;
use super::super::{Fill, FillReason, NodePages, Plan, RamRegion, RootPlan};

impl fmt::Display for FillReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "the config asks for it",
            Self::SharedUser => {
                "iommufd counts what sandbox.uid has pinned in all of its processes together"
            }
            Self::Large => "the guest's drivers would have to wait for so much for too long",
            Self::LockLimit => {
                "RLIMIT_MEMLOCK is below its size, and berth has CAP_IPC_LOCK until then only"
            }
        })
    }
}

/// What is at some addresses.
struct Area {
    addresses: Range<u64>,
    name: String,
    remark: String,
}

impl Plan {
    pub(super) fn fmt_memory(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let areas = self.areas();
        let width = areas.iter().map(|area| area.name.len()).max().unwrap_or_default();
        let line = format!("+{}+", "-".repeat(width + 2));
        writeln!(f, "\nguest memory map")?;
        let mut end = None;
        for Area { addresses, name, remark } in &areas {
            if let Some(end) = end.filter(|end| *end != addresses.start) {
                writeln!(f, "  {end:#014x} {line}")?;
                writeln!(f, "  {:14} : {:width$} :", "", "")?;
            }
            let size = Bytes(addresses.end - addresses.start);
            writeln!(f, "  {:#014x} {line}", addresses.start)?;
            let text = format!("  {:14} | {name:width$} |  {size:>9}  {remark}", "");
            writeln!(f, "{}", text.trim_end())?;
            end = Some(addresses.end);
        }
        if let Some(end) = end {
            writeln!(f, "  {end:#014x} {line}")?;
        }
        writeln!(f, "\nhost memory")?;
        for NodePages { node, pages, free } in &self.memory.pages {
            let place = node.map_or("the host".to_owned(), |node| format!("node {node}"));
            let size = self.memory.page_size;
            let bytes = Bytes(pages * size.bytes());
            writeln!(f, "  {place}  {pages} of {free} free {size} pages, {bytes}")?;
        }
        match self.memory.fill {
            Fill::Behind => writeln!(f, "  filled behind the guest's start"),
            Fill::Before { why } => writeln!(f, "  filled before the guest starts: {why}"),
        }
    }

    fn areas(&self) -> Vec<Area> {
        let plain = |addresses: &Range<u64>, name: &str| Area {
            addresses: addresses.clone(),
            name: name.to_owned(),
            remark: String::new(),
        };
        // Interrupt controllers, and the pages that KVM takes.
        let mut areas = vec![
            plain(&layout::ECAM, "PCI configuration"),
            plain(&(layout::IO_APIC..layout::RAM_HIGH_START), "interrupt controllers"),
        ];
        let several = self.pci.roots.len() > 1;
        for RootPlan { buses, window32, window64, .. } in &self.pci.roots {
            let below =
                if several { format!(" below bus {:02x}", buses.start()) } else { String::new() };
            areas.extend(window32.iter().map(|w| plain(w, &format!("32-bit BARs{below}"))));
            areas.extend(window64.iter().map(|w| plain(w, &format!("64-bit BARs{below}"))));
        }
        for RamRegion { guest, node, .. } in &self.memory.regions {
            let size = self.memory.page_size;
            let pages = (guest.end - guest.start) / size.bytes();
            let of = node.map_or_else(String::new, |node| format!(" of node {node}"));
            let plural = if pages == 1 { "" } else { "s" };
            let remark = format!("{pages} {size} page{plural}{of}");
            areas.push(Area { addresses: guest.clone(), name: "RAM".to_owned(), remark });
        }
        areas.sort_by_key(|area| area.addresses.start);
        areas
    }
}
