//! Where guest memory comes from, and where the guest sees it.

use std::ops::Range;

use berth_arch::ram;

use super::{MemoryPlan, PageSize, PlanError, RamRegion};
use crate::config::Config;
use crate::host::{HostProfile, Node};

/// Nested paging with four levels, which hosts use unless they need five, translates 48 bits.
const NESTED_PAGING_BITS: u8 = 48;

/// What [`PlanError::AddressSpace`] calls it.
pub(super) const GUEST_RAM: &str = "guest RAM";

/// What every x86-64 CPU has, for hosts that do not say.
const LEAST_PHYSICAL_BITS: u8 = 36;

pub(super) fn plan(
    config: &Config,
    host: &HostProfile,
    node: u32,
) -> Result<MemoryPlan, PlanError> {
    let size = config.memory.size_mib.bytes();
    let page_size = config.memory.page_size;
    check_room(config, host, node)?;

    let regions = place(ram::ram_regions(size, &holes(host)));
    let aligned = |region: &RamRegion| {
        region.guest.start.is_multiple_of(page_size.bytes())
            && region.file_offset.is_multiple_of(page_size.bytes())
    };
    if !regions.iter().all(aligned) {
        let lowest = holes(host).into_iter().min_by_key(|hole| hole.start);
        return Err(PlanError::ReservedLow {
            reserved: lowest.unwrap_or_default(),
            size: page_size,
        });
    }
    let end = regions.last().map_or(0, |region| region.guest.end);
    let too_far = |limit: &'static str, bits: u8| PlanError::AddressSpace {
        what: GUEST_RAM,
        end,
        limit,
        bits,
    };
    let bits = cpu_address_bits(host);
    if end > 1 << bits {
        return Err(too_far("the CPUs'", bits));
    }
    match host.iommu.address_bits {
        // Without devices the IOMMU translates nothing.
        Some(bits) if end > 1 << bits && !config.devices.is_empty() => {
            return Err(too_far("the IOMMU's", bits));
        }
        _ => {}
    }
    Ok(MemoryPlan {
        size,
        page_size,
        // There is no node to bind to where the kernel knows of none.
        node: host.memory.numa.then_some(node),
        locked: page_size == PageSize::Size4K && config.devices.is_empty(),
        regions,
    })
}

/// Width of the guest physical addresses that the host's CPUs translate.
pub(super) fn cpu_address_bits(host: &HostProfile) -> u8 {
    let bits = host.cpus.physical_bits.unwrap_or(LEAST_PHYSICAL_BITS);
    bits.min(NESTED_PAGING_BITS)
}

/// Addresses that devices cannot use, so that guest RAM and BARs leave them out.
pub(super) fn holes(host: &HostProfile) -> Vec<Range<u64>> {
    let groups = host.iommu.groups.values();
    groups
        .flat_map(|group| &group.reserved)
        .filter(|region| region.excludes_ram())
        .map(|region| *region.range.start()..region.range.end().saturating_add(1))
        .collect()
}

/// Whether `node` has the pages that `config` asks for.
pub(super) fn has_room(config: &Config, node: &Node) -> bool {
    let size = config.memory.size_mib.bytes();
    match config.memory.page_size {
        PageSize::Size4K => node.available >= size,
        page_size => {
            node.pools.get(&page_size).is_some_and(|pool| pool.free >= size / page_size.bytes())
        }
    }
}

fn check_room(config: &Config, host: &HostProfile, id: u32) -> Result<(), PlanError> {
    let bytes = config.memory.size_mib.bytes();
    let size = config.memory.page_size;
    let need = bytes / size.bytes();
    let node = &host.memory.nodes[&id];
    if size == PageSize::Size4K {
        return if has_room(config, node) {
            Ok(())
        } else {
            Err(PlanError::TooLittleMemory { need: bytes, node: id, available: node.available })
        };
    }
    // A reservation is made against all nodes, the pages are then taken from one: both must fit.
    let (Some(pool), Some(unreserved)) = (node.pools.get(&size), host.memory.unreserved(size))
    else {
        return Err(PlanError::NoPool { size, gigabyte_pages: host.cpus.gigabyte_pages });
    };
    if pool.free < need {
        let others = host.memory.nodes.iter().filter_map(|(other, node)| {
            let free = node.pools.get(&size)?.free;
            (*other != id && free > 0).then_some((*other, free))
        });
        return Err(PlanError::TooFewPages {
            size,
            need,
            node: id,
            free: pool.free,
            total: pool.total,
            others: others.collect(),
        });
    }
    if unreserved < need {
        return Err(PlanError::PagesPromised { size, need, unreserved });
    }
    Ok(())
}

/// The regions follow each other in the memfd.
fn place(regions: Vec<Range<u64>>) -> Vec<RamRegion> {
    let mut file_offset = 0;
    regions
        .into_iter()
        .map(|guest| {
            let length = guest.end - guest.start;
            let region = RamRegion { guest, file_offset };
            file_offset += length;
            region
        })
        .collect()
}
