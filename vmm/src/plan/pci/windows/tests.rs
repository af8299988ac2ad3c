use proptest::prelude::*;

use super::*;

fn block(size: u64, align: u64) -> Block {
    Block { size, align }
}

#[test]
fn small_blocks_fill_the_gaps() {
    // 5 at 0, 4-aligned 4 at 8: the gap of 5..8 takes the rest.
    let blocks = [block(1, 1), block(5, 4), block(4, 4), block(2, 2)];
    assert_eq!(pack(&blocks, 1), Some((block(12, 4), vec![5, 0, 8, 6])));
    assert_eq!(pack(&[], 16), Some((block(0, 16), vec![])));
    assert_eq!(pack(&[block(1 << 63, 1 << 63), block(1 << 63, 1 << 63)], 1), None);
}

#[test]
fn roots_divide_the_whole_window() {
    let slots = [(0, true), (2, false)].map(|(root, behind_port)| SlotPlace { root, behind_port });
    let decoders =
        [(0, 1 << 21), (1, 4096)].map(|(slot, size)| Decoder { slot, window: Window::Low, size });
    let low = Arrangement::new(Window::Low, &decoders, &slots, 3).expect("it is small");
    // The window's start is not aligned, and belongs to the first host bridge all the same.
    let low = low.place(0xc000_1000..0xe000_0000).expect("it fits");
    assert_eq!(low.roots(), [Some(0xc000_1000..0xc040_0000), None, Some(0xc040_0000..0xe000_0000)]);
    assert_eq!(low.port(0), Some(0xc020_0000..0xc040_0000));
    assert_eq!((low.port(1), low.decoder(1)), (None, Some(0xc040_0000)));
}

fn window() -> impl Strategy<Value = Window> {
    prop_oneof![Just(Window::Io), Just(Window::Low), Just(Window::High)]
}

fn disjoint(ranges: &mut [Range<u64>]) -> bool {
    ranges.sort_by_key(|range| range.start);
    ranges.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

fn inside(inner: &Range<u64>, outer: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// The lowest address that fits, found by trying: every end of a block, rounded up.
fn first_fit(blocks: &[Block]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..blocks.len()).filter(|index| blocks[*index].size > 0).collect();
    order.sort_by_key(|index| Reverse((blocks[*index].align, blocks[*index].size)));
    let (mut taken, mut offsets) = (Vec::<Range<u64>>::new(), vec![0; blocks.len()]);
    for index in order {
        let Block { size, align } = blocks[index];
        let ends = taken.iter().map(|range| range.end).chain([0]);
        let fits = |start: &u64| taken.iter().all(|t| t.end <= *start || start + size <= t.start);
        let start = ends.map(|end| end.next_multiple_of(align)).filter(fits).min();
        offsets[index] = start.expect("behind all others");
        taken.push(offsets[index]..offsets[index] + size);
    }
    offsets
}

proptest! {
    #[test]
    fn blocks_lie_at_the_lowest_address_that_fits(
        blocks in prop::collection::vec((0u64..6, 0u32..40, 1u64..4), 0..40),
    ) {
        let blocks: Vec<Block> = blocks
            .into_iter()
            .map(|(whole, bits, steps)| Block { size: (whole * steps) << bits, align: 1 << bits })
            .collect();
        let (whole, offsets) = pack(&blocks, 1).expect("they are small");
        let ends = offsets.iter().zip(&blocks).map(|(start, block)| start + block.size);
        prop_assert_eq!(whole.size, ends.max().unwrap_or(0));
        prop_assert_eq!(offsets, first_fit(&blocks));
    }

    #[test]
    fn everything_is_inside_its_window_and_nothing_overlaps(
        places in prop::collection::vec((0usize..3, any::<bool>()), 1..20),
        decoders in prop::collection::vec((0usize..20, window(), 0u32..37), 0..60),
        roots in 1usize..4,
        start in 0u64..1 << 40,
    ) {
        let slots: Vec<SlotPlace> = places
            .iter()
            .map(|(root, behind_port)| SlotPlace { root: root % roots, behind_port: *behind_port })
            .collect();
        let decoders: Vec<Decoder> = decoders
            .into_iter()
            .map(|(slot, window, bits)| {
                let size = match window {
                    Window::Io => 4 << (bits % 7),
                    Window::Low => 16 << (bits % 24),
                    Window::High => 16 << bits,
                };
                Decoder { slot: slot % slots.len(), window, size }
            })
            .collect();
        for window in [Window::Io, Window::Low, Window::High] {
            let arranged = Arrangement::new(window, &decoders, &slots, roots);
            let arranged = arranged.expect("60 BARs of 1 TiB fit 64 bits");
            let Block { size, align } = arranged.whole;
            let tight = start..start.next_multiple_of(align) + size;
            let short = start..tight.end - 1;
            prop_assert!(size == 0 || arranged.clone().place(short).is_none());
            let arranged = arranged.place(tight.clone()).expect("it fits exactly");
            let all = tight;
            let bridges = arranged.roots();
            prop_assert!(bridges.iter().flatten().all(|bridge| inside(bridge, &all)));
            prop_assert!(disjoint(&mut bridges.iter().flatten().cloned().collect::<Vec<_>>()));

            // What lies directly on the root buses: windows of ports, and single BARs.
            let mut tops = Vec::new();
            let mut bars = Vec::new();
            for (slot, place) in slots.iter().enumerate() {
                if let Some(port) = arranged.port(slot) {
                    prop_assert!(place.behind_port && !port.is_empty());
                    let step = if window == Window::Io { 0x1000 } else { 0x10_0000 };
                    prop_assert!(port.start % step == 0 && port.end % step == 0);
                    let bridge = bridges[place.root].as_ref();
                    prop_assert!(bridge.is_some_and(|bridge| inside(&port, bridge)));
                    tops.push(port);
                }
            }
            for (index, decoder) in decoders.iter().enumerate() {
                let address = arranged.decoder(index);
                prop_assert_eq!(address.is_some(), decoder.window == window);
                let Some(address) = address else { continue };
                prop_assert_eq!(address % decoder.size, 0);
                let page = if window == Window::Io { 1 } else { 4096 };
                prop_assert_eq!(address % page, 0);
                let range = address..address + decoder.size.max(page);
                let place = &slots[decoder.slot];
                let outer = match arranged.port(decoder.slot) {
                    Some(port) => port,
                    None => {
                        prop_assert!(!place.behind_port);
                        tops.push(range.clone());
                        bridges[place.root].clone().expect("something is below it")
                    }
                };
                prop_assert!(inside(&range, &outer));
                bars.push(range);
            }
            prop_assert!(disjoint(&mut tops));
            prop_assert!(disjoint(&mut bars));
        }
    }
}
