//! The address space above the fixed map: where RAM lies and where 64-bit BARs may.

use std::ops::Range;

use super::layout::{GIB, MIB, RAM_HIGH_START, RAM_LOW};

/// Physical addresses on x86-64 have at most 52 bits (AMD APM volume 2, section 5.3).
const ADDRESS_LIMIT: u64 = 1 << 52;

/// Lays out `size` bytes of guest RAM, in address order, around the 32-bit hole and `holes`.
///
/// `holes` are guest physical addresses that must not be RAM, in any order, overlapping or not:
/// the IOMMU's reserved regions, for instance, such as 1012 GiB..1 TiB on AMD hosts. They are
/// widened to 1 GiB boundaries, so that every region starts and ends on one and can be mapped with
/// 1 GiB leaves; only the last region is as short as `size` demands. A hole in the first GiB is
/// widened to 2 MiB only, because machines boot there. Parts of holes beyond 52 bits do not count.
///
/// The sizes always add up to `size`. Whether the last address is within the guest's and the
/// IOMMU's width is the caller's to check. `size` below 2^62 bytes and a multiple of the page size
/// gives regions that are multiples of it.
#[must_use]
pub fn ram_regions(size: u64, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut holes: Vec<Range<u64>> = holes.iter().filter_map(widen).collect();
    holes.push(RAM_LOW.end..RAM_HIGH_START);
    holes.sort_by_key(|hole| hole.start);

    let mut regions = Vec::new();
    let mut at = RAM_LOW.start;
    let mut left = size;
    for hole in holes {
        let length = hole.start.saturating_sub(at).min(left);
        if length > 0 {
            regions.push(at..at + length);
            left -= length;
        }
        at = at.max(hole.end);
    }
    if left > 0 {
        regions.push(at..at + left);
    }
    regions
}

/// Finds the window for 64-bit BARs: the lowest addresses above `ram_end` and above 4 GiB that
/// hold `needed` bytes.
///
/// `ram_end` is the end of the last RAM region. The window starts on a multiple of `align` (a
/// power of two: the largest BAR's size) and of 1 GiB, and goes on to the next of `holes` or to
/// the end of the address space, `address_bits` wide. `holes` matter here too, since the IOMMU
/// maps BARs for traffic between devices.
///
/// `None` if there is no such place; that is also the answer for a `needed` of 0 when even the
/// first GiB is not free.
#[must_use]
pub fn pci_window64(
    ram_end: u64,
    needed: u64,
    align: u64,
    address_bits: u8,
    holes: &[Range<u64>],
) -> Option<Range<u64>> {
    let limit = ADDRESS_LIMIT.min(1u64.checked_shl(address_bits.into())?);
    let align = align.max(GIB);
    let needed = needed.max(GIB);
    let mut holes: Vec<Range<u64>> = holes.iter().filter_map(widen).collect();
    holes.push(limit..u64::MAX);
    holes.sort_by_key(|hole| hole.start);

    let mut at = ram_end.max(RAM_HIGH_START).checked_next_multiple_of(align)?;
    for hole in holes {
        let end = hole.start.min(limit);
        if end.saturating_sub(at) >= needed {
            return Some(at..end);
        }
        at = at.max(hole.end.checked_next_multiple_of(align)?);
    }
    None
}

/// A hole with the boundaries that regions beside it shall have; `None` if it is empty.
fn widen(hole: &Range<u64>) -> Option<Range<u64>> {
    let end = hole.end.min(ADDRESS_LIMIT);
    if hole.start >= end {
        return None;
    }
    let grain = |address: u64| if address < GIB { 2 * MIB } else { GIB };
    Some(hole.start / grain(hole.start) * grain(hole.start)..end.next_multiple_of(grain(end)))
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of one range are what is meant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ram_splits_at_the_hole() {
        assert_eq!(ram_regions(512 * MIB, &[]), [0..512 * MIB]);
        assert_eq!(ram_regions(3 * GIB, &[]), [0..3 * GIB]);
        assert_eq!(ram_regions(5 * GIB + MIB, &[]), [0..3 * GIB, 4 * GIB..6 * GIB + MIB]);
        assert!(ram_regions(0, &[]).is_empty());
    }

    #[test]
    fn ram_avoids_the_hole_of_amd_iommus() {
        let holes = [1012 * GIB..1024 * GIB, 0xfee0_0000..0xfef0_0000];
        assert_eq!(
            ram_regions(1020 * GIB, &holes),
            [0..3 * GIB, 4 * GIB..1012 * GIB, 1024 * GIB..1033 * GIB]
        );
    }

    #[test]
    fn holes_grow_to_whole_leaves() {
        assert_eq!(
            ram_regions(4 * GIB, &[GIB + 5..GIB + 6]),
            [0..GIB, 2 * GIB..3 * GIB, 4 * GIB..6 * GIB]
        );
        assert_eq!(ram_regions(64 * MIB, &[33 * MIB..34 * MIB]), [0..32 * MIB, 34 * MIB..66 * MIB]);
    }

    #[test]
    fn window_starts_above_ram_and_ends_with_the_address_space() {
        assert_eq!(pci_window64(GIB, GIB, 1, 40, &[]), Some(4 * GIB..1024 * GIB));
        assert_eq!(
            pci_window64(6 * GIB + MIB, 64 * GIB, 32 * GIB, 40, &[]),
            Some(32 * GIB..1024 * GIB)
        );
        assert_eq!(pci_window64(5 * GIB, GIB, 1, 32, &[]), None);
        assert_eq!(pci_window64(5 * GIB, 1 << 40, 1, 40, &[]), None);
    }

    #[test]
    fn window_stays_between_holes() {
        let amd = [1012 * GIB..1024 * GIB];
        assert_eq!(
            pci_window64(64 * GIB, 16 * GIB, 16 * GIB, 48, &amd),
            Some(64 * GIB..1012 * GIB)
        );
        assert_eq!(
            pci_window64(1000 * GIB, 16 * GIB, 16 * GIB, 48, &amd),
            Some(1024 * GIB..1 << 48)
        );
    }

    fn holes() -> impl Strategy<Value = Vec<Range<u64>>> {
        let hole = (0..2048 * GIB, 0..40 * GIB).prop_map(|(start, length)| start..start + length);
        prop::collection::vec(hole, 0..6)
    }

    fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
        a.start.max(b.start) < a.end.min(b.end)
    }

    proptest! {
        #[test]
        fn regions_hold_all_ram_and_avoid_every_hole(
            pages in 0u64..4096 * GIB / 4096,
            holes in holes(),
        ) {
            let size = pages * 4096;
            let regions = ram_regions(size, &holes);
            prop_assert_eq!(regions.iter().map(|r| r.end - r.start).sum::<u64>(), size);
            prop_assert!(regions.windows(2).all(|w| w[0].end < w[1].start));
            for region in &regions {
                prop_assert!(!region.is_empty());
                prop_assert!(!overlap(region, &(RAM_LOW.end..RAM_HIGH_START)));
                prop_assert!(holes.iter().all(|hole| !overlap(region, hole)));
            }
            for region in regions.iter().filter(|r| r.start >= GIB) {
                prop_assert_eq!(region.start % GIB, 0);
            }
            for region in regions.iter().rev().skip(1).filter(|r| r.end >= GIB) {
                prop_assert_eq!(region.end % GIB, 0);
            }
        }

        #[test]
        fn window_is_large_aligned_and_free(
            ram_end in 0..2048 * GIB,
            needed in 0..512 * GIB,
            align_bits in 12u32..39,
            address_bits in 30u8..64,
            holes in holes(),
        ) {
            let align = 1u64 << align_bits;
            if let Some(window) = pci_window64(ram_end, needed, align, address_bits, &holes) {
                prop_assert!(window.start >= ram_end.max(4 * GIB));
                prop_assert!(window.end - window.start >= needed);
                prop_assert!(window.start % align == 0 && window.start % GIB == 0);
                prop_assert!(window.end <= ADDRESS_LIMIT.min(1 << address_bits));
                prop_assert!(holes.iter().all(|hole| !overlap(&window, hole)));
            } else {
                prop_assert!(address_bits < 43, "the upper TiBs of 8 are free");
            }
        }
    }
}
