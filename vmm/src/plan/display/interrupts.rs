//! The ways of the devices' interrupts.

use std::fmt::{self, Formatter};

use super::super::{FunctionPlan, Plan};
use crate::host::IdSet;

impl Plan {
    pub(super) fn fmt_interrupts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.pci.functions.is_empty() {
            return Ok(());
        }
        writeln!(f, "\ninterrupts")?;
        for function in &self.pci.functions {
            let FunctionPlan { guest, msix_vectors, intx_gsi, interrupt_cpus, .. } = function;
            let vectors = match msix_vectors {
                0 => "vectors".to_owned(),
                1 => "1 vector".to_owned(),
                count => format!("{count} vectors"),
            };
            let cpus: IdSet = interrupt_cpus.iter().copied().collect();
            let landing = if cpus.is_empty() {
                "any CPU of the host".to_owned()
            } else {
                format!("the host's CPU {cpus}")
            };
            let pin = intx_gsi.map_or_else(String::new, |gsi| format!("; its pin: GSI {gsi}"));
            writeln!(f, "  {guest}  {vectors}: {landing} -> a KVM route each -> a vCPU{pin}")?;
        }
        Ok(())
    }
}
