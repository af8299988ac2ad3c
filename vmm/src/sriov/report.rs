//! What `berth sriov` prints: the physical function and its virtual ones, as they are now.

use std::fmt;

use berth_devices::pci::HostBdf;
use serde::Serialize;

use crate::binding::{BindingError, Report, find, ports, sriov};
use crate::host::{Functions, HostUse, Root};
use crate::units::VfPort;

/// A physical function and its virtual ones.
#[derive(Debug, Serialize)]
pub struct SriovReport {
    /// Its address.
    pub address: HostBdf,
    /// How many virtual functions it can have.
    pub max: u32,
    /// Its network interface.
    pub interface: Option<String>,
    /// Whether the host's drivers take new virtual functions.
    pub autoprobe: bool,
    /// Those that it has, by index.
    pub functions: Vec<VirtualFunction>,
    /// What was changed, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Report>,
}

/// A virtual function.
#[derive(Debug, Serialize)]
pub struct VirtualFunction {
    /// Its address.
    pub address: HostBdf,
    /// Its driver.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// What it is used for.
    pub uses: Vec<HostUse>,
    /// Its port, where the physical function's driver tells.
    pub port: Option<VfPort>,
}

impl SriovReport {
    pub(super) fn read(
        root: &Root,
        address: HostBdf,
        change: Option<Report>,
    ) -> Result<Self, BindingError> {
        let host = Functions::read_to_take(root, &[address])?;
        let sriov = sriov(&host, address)?;
        let mut ports = ports(sriov)?.into_iter();
        let mut functions = Vec::new();
        for &address in &sriov.functions {
            let found = find(&host, address)?;
            functions.push(VirtualFunction {
                address,
                driver: found.function.driver.clone(),
                group: found.function.group,
                uses: found.uses.clone(),
                port: ports.next(),
            });
        }
        Ok(Self {
            address,
            max: sriov.max,
            interface: sriov.interface.clone(),
            autoprobe: sriov.autoprobe,
            functions,
            change,
        })
    }
}

impl fmt::Display for SriovReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(change) = self.change.as_ref().filter(|change| change.dry_run) {
            return write!(f, "{change}");
        }
        let Self { address, max, interface, functions, .. } = self;
        let interface = interface.as_deref().unwrap_or("no interface");
        writeln!(f, "{address}  {interface}  {} of {max} VFs", functions.len())?;
        for (index, function) in functions.iter().enumerate() {
            let driver = function.driver.as_deref().unwrap_or("no driver");
            write!(f, "  {index:3}  {}  {driver}", function.address)?;
            if let Some(port) = &function.port {
                write!(f, "  {port}")?;
            }
            for use_ in &function.uses {
                write!(f, "; {use_}")?;
            }
            writeln!(f)?;
        }
        if let Some(change) = &self.change {
            if change.changes.is_empty() {
                writeln!(f, "nothing to change")?;
            }
            for note in &change.notes {
                writeln!(f, "note: {note}")?;
            }
        }
        Ok(())
    }
}
