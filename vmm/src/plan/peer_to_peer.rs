//! Which BARs the devices of one machine reach by DMA, without a detour through RAM.

use super::{FunctionPlan, IommuPlan, Note, PciPlan};
use crate::config::{Config, PeerToPeer};
use crate::host::{HostProfile, LinuxVersion};

/// The first kernel that maps a BAR into the IOMMU by whole huge pages (commit 0fd06844de5d,
/// "vfio/type1: Use mapping page mask for pfnmaps"). Those before take a second for 32 GiB, as
/// that commit says, each time that the guest switches the BAR on, with its vCPU waiting.
const HUGE_MAPPINGS: LinuxVersion = LinuxVersion(6, 15);

/// What older kernels map within 0.2 seconds.
const SLOW_LIMIT: u64 = 4 << 30;

/// Bytes of the largest BAR that other devices reach; 0 for none.
pub(super) fn largest_bar(config: &Config, host: &HostProfile, iommu: &Option<IommuPlan>) -> u64 {
    match config.peer_to_peer {
        _ if iommu.as_ref().is_none_or(|iommu| iommu.peer_to_peer != Some(true)) => 0,
        PeerToPeer::Off => 0,
        PeerToPeer::On => u64::MAX,
        PeerToPeer::Auto if host.linux >= Some(HUGE_MAPPINGS) => u64::MAX,
        PeerToPeer::Auto => SLOW_LIMIT,
    }
}

/// Says which BARs are left out, and why.
pub(super) fn note(config: &Config, host: &HostProfile, pci: &PciPlan, notes: &mut Vec<Note>) {
    if config.peer_to_peer != PeerToPeer::Auto || pci.largest_peer_bar == 0 {
        return;
    }
    for FunctionPlan { host: address, bars, .. } in &pci.functions {
        for bar in bars.iter().filter(|bar| bar.size > pci.largest_peer_bar) {
            notes.push(Note::BarSlowToMap {
                device: *address,
                bar: bar.index,
                size: bar.size,
                linux: host.linux,
                fast: HUGE_MAPPINGS,
            });
        }
    }
}
