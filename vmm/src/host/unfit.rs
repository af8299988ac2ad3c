//! What makes a function unfit for a guest, whoever has it.

use berth_devices::pci::HostBdf;
use serde::Serialize;

/// Why a function cannot work in a guest as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Unfit {
    /// Its configuration space reads all ones: it is not reached, such as in D3cold.
    Unreachable,
    /// A memory BAR has no address: firmware and kernel found no room for it.
    BarUnassigned {
        /// The register.
        bar: u8,
        /// Its size in bytes.
        size: u64,
    },
    /// VFIO opens it only with a token of the process that has its physical function
    /// (`vfio_pci_validate_vf_token` in drivers/vfio/pci/vfio_pci_core.c).
    TokenNeeded {
        /// The physical function, which a VFIO driver has.
        physical: HostBdf,
    },
}
