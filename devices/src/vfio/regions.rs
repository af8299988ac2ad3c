//! Which parts of a BAR the guest reaches directly, and which exit.

use std::ops::Range;

use super::backend::{DeviceProfile, RegionProfile};
use crate::pci::msix::MsixCapability;
use crate::pci::{Bar, BarKind};

/// Granularity of memory slots.
const PAGE: u64 = 4096;

/// Parts of `bar` to map into the guest, page-aligned and in order.
///
/// The MSI-X table's pages are always left out, also where the host allows mapping them
/// (`VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`): the guest would write the real table with addresses
/// of its own, and no interrupt would arrive. Only its pages, because hot registers may share
/// the BAR. The pending bits are left to the device where they do not share those pages: vectors
/// are masked on KVM's side, so that the device's own bits stay clear.
pub fn direct_parts(
    profile: &DeviceProfile,
    bar: Bar,
    kind: BarKind,
    msix: Option<&MsixCapability>,
) -> Vec<Range<u64>> {
    let region: &RegionProfile = &profile.bars[bar.index()];
    if kind == BarKind::Io {
        return Vec::new();
    }
    let table = msix.filter(|msix| msix.table_bar == bar).map(|msix| pages_around(&msix.table()));
    let mut parts = Vec::new();
    for area in &region.mappable {
        let area = area.start.next_multiple_of(PAGE)..area.end.min(region.size) / PAGE * PAGE;
        match &table {
            Some(table) => {
                parts.push(area.start..area.end.min(table.start));
                parts.push(area.start.max(table.end)..area.end);
            }
            None => parts.push(area),
        }
    }
    parts.retain(|part| part.start < part.end);
    parts.sort_by_key(|part| part.start);
    parts
}

fn pages_around(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BAR: Bar = Bar::new(3).expect("below 6");
    const KIND: BarKind = BarKind::Memory32 { prefetchable: false };

    fn profile(size: u64, mappable: Vec<Range<u64>>) -> DeviceProfile {
        let mut profile = DeviceProfile::default();
        profile.bars[BAR.index()] = RegionProfile { size, mappable };
        profile
    }

    fn msix(vectors: u16, table_offset: u64) -> MsixCapability {
        MsixCapability {
            offset: 0x70,
            vectors,
            table_bar: BAR,
            table_offset,
            pba_bar: BAR,
            pba_offset: 0,
        }
    }

    #[test]
    fn registers_beside_the_table_stay_direct() {
        let profile = profile(0x4000, std::iter::once(0..0x4000).collect());
        let parts = direct_parts(&profile, BAR, KIND, Some(&msix(10, 0x1800)));
        assert_eq!(parts, [0..0x1000, 0x2000..0x4000]);
    }

    #[test]
    fn an_area_ends_with_the_region() {
        let profile = profile(0x3000, vec![0x1000..0x8000, 0x3000..0x4000]);
        let parts = direct_parts(&profile, BAR, KIND, None);
        assert_eq!(parts, std::slice::from_ref(&(0x1000..0x3000)));
    }

    #[test]
    fn io_ports_and_small_bars_exit() {
        let small = profile(0x800, std::iter::once(0..0x800).collect());
        assert!(direct_parts(&small, BAR, KIND, None).is_empty());
        let ports = profile(0x1000, std::iter::once(0..0x1000).collect());
        assert!(direct_parts(&ports, BAR, BarKind::Io, None).is_empty());
    }

    proptest! {
        /// Page by page: direct when the host allows it and no table entry is in it.
        #[test]
        fn every_page_is_direct_or_has_a_reason(
            pages in 1u64..32, cuts in prop::collection::btree_set(0u64..32, 0..6),
            vectors in 1u16..600, table in 0u64..0x4000,
        ) {
            let cuts: Vec<u64> = cuts.into_iter().filter(|c| *c <= pages).map(|c| c * PAGE).collect();
            let areas: Vec<_> = cuts.chunks_exact(2).map(|c| c[0]..c[1]).collect();
            let profile = profile(pages * PAGE, areas.clone());
            let msix = msix(vectors, table * 8);
            let parts = direct_parts(&profile, BAR, KIND, Some(&msix));
            for page in (0..pages).map(|page| page * PAGE) {
                let allowed = areas.iter().any(|a| a.contains(&page));
                let table = msix.table().start < page + PAGE && page < msix.table().end;
                let direct = parts.iter().filter(|p| p.contains(&page)).count();
                prop_assert_eq!(direct, usize::from(allowed && !table));
            }
        }
    }
}
