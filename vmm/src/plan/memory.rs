//! Where guest memory comes from, and where the guest sees it.

use std::collections::BTreeSet;
use std::ops::Range;

use berth_arch::ram;
use berth_devices::vfio::IommuBackend;

use super::devices::Assigned;
use super::{Fill, FillReason, MemoryPlan, NodePages, PlanError, RamRegion, Share};
use crate::config::{Config, MemoryFill};
use crate::host::{Capability, HostProfile};
use crate::units::PageSize;

/// Nested paging with four levels, which hosts use unless they need five, translates 48 bits.
const NESTED_PAGING_BITS: u8 = 48;

/// What [`PlanError::AddressSpace`] calls it.
pub(super) const GUEST_RAM: &str = "guest RAM";

/// What every x86-64 CPU has, for hosts that do not say.
const LEAST_PHYSICAL_BITS: u8 = 36;

pub(super) fn plan(
    config: &Config,
    host: &HostProfile,
    shares: &[Share],
    assigned: &[Assigned],
    backend: Option<IommuBackend>,
) -> Result<MemoryPlan, PlanError> {
    let size = config.memory.size_mib.bytes();
    let page_size = config.memory.page_size;
    for share in shares {
        check_room(page_size, size / page_size.bytes(), host, share)?;
    }

    let holes = holes(host, assigned.iter().map(|device| device.group));
    // There is no node to bind to where the kernel knows of none.
    let bound = |node: u32| host.memory.numa.then_some(node);
    let parts = shares.iter().map(|share| (bound(share.node), share.memory));
    let regions = place(ram::ram_regions(size, &holes), parts);
    let aligned = |region: &RamRegion| {
        region.guest.start.is_multiple_of(page_size.bytes())
            && region.file_offset.is_multiple_of(page_size.bytes())
    };
    if !regions.iter().all(aligned) {
        let lowest = holes.into_iter().min_by_key(|hole| hole.start);
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
        node: bound(shares[0].node),
        pages: shares
            .iter()
            .map(|share| NodePages {
                node: bound(share.node),
                pages: share.memory / page_size.bytes(),
                free: host.memory.nodes[&share.node].free_pages(page_size),
            })
            .collect(),
        locked: page_size == PageSize::Size4K && config.devices.is_empty(),
        fill: fill(config, host, backend),
        regions,
    })
}

/// Most memory that the first driver which makes its device a bus master waits for. Linux complains of
/// a CPU that has been stuck for 20 s. That four threads clear 20 GB/s, and that base pages, which are
/// pinned one by one, take eight times as long, is a guess on the safe side.
fn most_behind(page_size: PageSize) -> u64 {
    match page_size {
        PageSize::Size1G | PageSize::Size2M => 256 << 30,
        PageSize::Size4K => 32 << 30,
    }
}

/// Behind the guest's start, unless that could fail where before it does not: by then berth is no
/// longer the user that it was started as, and may not lock memory beyond its limit.
fn fill(config: &Config, host: &HostProfile, backend: Option<IommuBackend>) -> Fill {
    let locks = backend.is_some() || config.memory.page_size == PageSize::Size4K;
    let size = config.memory.size_mib.bytes();
    let is_short = host.process.memlock.is_some_and(|limit| limit < size);
    let before = |why| Fill::Before { why };
    if config.memory.fill == MemoryFill::Before {
        before(FillReason::Asked)
    } else if backend == Some(IommuBackend::Iommufd) && config.sandbox.uid.is_some() {
        // iommufd counts what a user has pinned in all processes (`IOPT_PAGES_ACCOUNT_USER` in
        // drivers/iommu/iommufd/pages.c).
        before(FillReason::SharedUser)
    } else if locks && is_short && !host.process.has(Capability::SysResource) {
        before(FillReason::LockLimit)
    } else if backend.is_some() && size > most_behind(config.memory.page_size) {
        before(FillReason::Large)
    } else {
        Fill::Behind
    }
}

/// Width of the guest physical addresses that the host's CPUs translate.
pub(super) fn cpu_address_bits(host: &HostProfile) -> u8 {
    let bits = host.cpus.physical_bits.unwrap_or(LEAST_PHYSICAL_BITS);
    bits.min(NESTED_PAGING_BITS)
}

/// Addresses that the devices of `groups` cannot use, so that guest RAM and BARs leave them out.
pub(super) fn holes(host: &HostProfile, groups: impl Iterator<Item = u32>) -> Vec<Range<u64>> {
    let groups: BTreeSet<u32> = groups.collect();
    let groups = groups.iter().filter_map(|group| host.functions.groups.get(group));
    groups
        .flat_map(|group| &group.reserved)
        .filter(|region| region.excludes_ram())
        .map(|region| *region.range.start()..region.range.end().saturating_add(1))
        .collect()
}

/// `all` is the number of pages of the whole guest.
fn check_room(
    size: PageSize,
    all: u64,
    host: &HostProfile,
    share: &Share,
) -> Result<(), PlanError> {
    let Share { node: id, memory: bytes, .. } = *share;
    let need = bytes / size.bytes();
    let node = &host.memory.nodes[&id];
    if size == PageSize::Size4K {
        return if node.has_room(size, bytes) {
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
    if unreserved < all {
        return Err(PlanError::PagesPromised { size, need: all, unreserved });
    }
    Ok(())
}

/// The regions follow each other in the file of huge pages. Each part goes on where the one before ends, so
/// that a node's memory is as much in one piece as the holes let it be.
fn place(
    regions: Vec<Range<u64>>,
    parts: impl Iterator<Item = (Option<u32>, u64)>,
) -> Vec<RamRegion> {
    let mut placed = Vec::new();
    let mut file_offset = 0;
    let mut regions = regions.into_iter();
    let mut rest = regions.next();
    for (node, mut bytes) in parts {
        while bytes > 0 {
            let Some(region) = rest.take().or_else(|| regions.next()) else { break };
            let length = bytes.min(region.end - region.start);
            let guest = region.start..region.start + length;
            rest = (guest.end < region.end).then_some(guest.end..region.end);
            placed.push(RamRegion { guest, file_offset, node });
            file_offset += length;
            bytes -= length;
        }
    }
    placed
}
