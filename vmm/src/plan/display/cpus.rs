//! The table of pins: which vCPU is on which CPU, and why; what was left to others.

use std::fmt::{self, Formatter};

use super::super::text::list;
use super::super::{Avoided, PinReason, Plan, VcpuPlan};
use crate::host::IdSet;

/// Pins are a line each up to this many vCPUs, and share lines beyond.
const PIN_LINES: usize = 8;

impl Plan {
    pub(super) fn fmt_cpus(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nCPUs")?;
        if self.vcpus.len() <= PIN_LINES {
            for vcpu in &self.vcpus {
                let node = vcpu.node.map_or_else(String::new, |node| format!("node {node}"));
                let (index, cpu) = (vcpu.index, vcpu.cpu);
                writeln!(f, "  vCPU {index:<3} CPU {cpu:<4} {node:<7} {}", self.why(vcpu))?;
            }
        } else {
            self.fmt_many(f)?;
        }
        writeln!(f, "  within   {}", self.locality)?;
        if self.dedicated {
            writeln!(
                f,
                "  idle     in the guest: HLT and PAUSE do not exit, as far as KVM lets them"
            )?;
        }
        let own: IdSet = self.vmm_cpus.iter().copied().collect();
        writeln!(f, "  berth    CPU {own}")?;
        for Avoided { cpus, why } in &self.avoided {
            let cpus: IdSet = cpus.iter().copied().collect();
            writeln!(f, "  left     CPU {cpus}: {why}")?;
        }
        Ok(())
    }

    fn fmt_many(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for row in self.vcpus.chunks(PIN_LINES) {
            let first = row.first().map_or(0, |vcpu| vcpu.index);
            let last = row.last().map_or(0, |vcpu| vcpu.index);
            let cpus: Vec<String> = row.iter().map(|vcpu| format!("{:<4}", vcpu.cpu)).collect();
            let nodes: IdSet = row.iter().filter_map(|vcpu| vcpu.node).collect();
            let node = if nodes.is_empty() { String::new() } else { format!("node {nodes}") };
            let cpus = cpus.concat();
            let line = format!(
                "  vCPU {first:>3}-{last:<3} CPU {cpus:width$} {node}",
                width = PIN_LINES * 4
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        for (why, text) in [
            (PinReason::Named, "named in placement.cpus"),
            (PinReason::OwnCore, "a core of its own each"),
            (PinReason::SharedCore, "a core with another vCPU, as the guest sees"),
        ] {
            let vcpus = self.vcpus.iter().filter(|vcpu| vcpu.why == why);
            let vcpus: IdSet = vcpus.map(|vcpu| u32::from(vcpu.index)).collect();
            if !vcpus.is_empty() {
                writeln!(f, "  vCPU {vcpus}: {text}")?;
            }
        }
        Ok(())
    }

    fn why(&self, vcpu: &VcpuPlan) -> String {
        let other = |cpu: &u32| self.vcpus.iter().find(|vcpu| vcpu.cpu == *cpu);
        let partners: Vec<u8> =
            vcpu.siblings.iter().filter_map(other).map(|vcpu| vcpu.index).collect();
        let alone: IdSet =
            vcpu.siblings.iter().copied().filter(|cpu| other(cpu).is_none()).collect();
        let mut parts = match vcpu.why {
            PinReason::Named => vec!["named in placement.cpus".to_owned()],
            PinReason::OwnCore => vec!["a core of its own".to_owned()],
            PinReason::SharedCore => Vec::new(),
        };
        if !partners.is_empty() {
            parts.push(format!("a core with vCPU {}", list(partners)));
        }
        if !alone.is_empty() {
            parts.push(format!("no vCPU on {alone} beside it"));
        }
        parts.join(", ")
    }
}
