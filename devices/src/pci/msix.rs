//! The MSI-X table and pending bits that the guest sees (PCI Local Bus 3.0, section 6.8.2).

use std::ops::Range;

use super::Bar;
use super::capability::{read_u16, read_u32};
use super::regs::{MSIX_CONTROL, MSIX_PBA, MSIX_SIZE, MSIX_TABLE};
use crate::irq::MsiMessage;

/// Bytes of a table entry: address, upper address, data, vector control.
pub const ENTRY_SIZE: u64 = 16;
/// Vector control: masked.
const VECTOR_MASKED: u32 = 1;

/// What the MSI-X capability says: how many vectors, and where table and pending bits lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixCapability {
    /// Offset of the capability in configuration space.
    pub offset: u16,
    /// Vectors, 1..=2048.
    pub vectors: u16,
    /// BAR that holds the table.
    pub table_bar: Bar,
    /// Offset of the table in its BAR.
    pub table_offset: u64,
    /// BAR that holds the pending bits.
    pub pba_bar: Bar,
    /// Offset of the pending bits in their BAR.
    pub pba_offset: u64,
}

impl MsixCapability {
    /// Reads the capability at `offset`; `None` when it names a BAR that cannot exist.
    #[must_use]
    pub fn parse(config: &[u8], offset: u16) -> Option<Self> {
        let place = |register: u16| {
            let value = read_u32(config, offset + register);
            Some((Bar::new((value & 7) as u8)?, u64::from(value & !7)))
        };
        let (table_bar, table_offset) = place(MSIX_TABLE)?;
        let (pba_bar, pba_offset) = place(MSIX_PBA)?;
        let vectors = (read_u16(config, offset + MSIX_CONTROL) & MSIX_SIZE) + 1;
        Some(Self { offset, vectors, table_bar, table_offset, pba_bar, pba_offset })
    }

    /// Bytes of the table in its BAR.
    #[must_use]
    pub fn table(&self) -> Range<u64> {
        self.table_offset..self.table_offset + u64::from(self.vectors) * ENTRY_SIZE
    }

    /// What is at `offset` of `bar`, if it is not the device's own.
    #[must_use]
    pub fn part(&self, bar: Bar, offset: u64) -> Option<MsixPart> {
        let (table, pba) = (self.table(), self.pba());
        if bar == self.table_bar && table.contains(&offset) {
            return Some(MsixPart::Table(offset - table.start));
        }
        (bar == self.pba_bar && pba.contains(&offset))
            .then(|| MsixPart::Pending(offset - pba.start))
    }

    /// Bytes of the pending bits in their BAR; 64 vectors to a quadword.
    #[must_use]
    pub fn pba(&self) -> Range<u64> {
        self.pba_offset..self.pba_offset + u64::from(self.vectors).div_ceil(64) * 8
    }
}

/// What MSI-X has in a BAR, with an offset into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsixPart {
    /// The table.
    Table(u64),
    /// The pending bits.
    Pending(u64),
}

/// One vector as the guest programmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Address and data.
    pub message: MsiMessage,
    /// The vector's own mask bit.
    pub masked: bool,
}

/// The table's memory. Every vector starts masked.
#[derive(Clone, Debug)]
pub struct MsixTable {
    words: Vec<u32>,
}

impl MsixTable {
    /// A table out of reset.
    #[must_use]
    pub fn new(vectors: u16) -> Self {
        Self { words: [0, 0, 0, VECTOR_MASKED].repeat(usize::from(vectors)) }
    }

    /// Vectors.
    #[must_use]
    pub fn len(&self) -> u16 {
        u16::try_from(self.words.len() / 4).expect("at most 2,048 vectors")
    }

    /// Never: a table has at least one vector.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// What the guest programmed.
    ///
    /// # Panics
    /// `vector` is not below [`Self::len`].
    #[must_use]
    pub fn entry(&self, vector: u16) -> TableEntry {
        let words = &self.words[usize::from(vector) * 4..][..4];
        TableEntry {
            message: MsiMessage {
                address: u64::from(words[0]) | u64::from(words[1]) << 32,
                data: words[2],
            },
            masked: words[3] & VECTOR_MASKED != 0,
        }
    }

    /// Reads at a byte offset into the table; zeros behind its end.
    ///
    /// The specification allows aligned accesses of 4 and 8 bytes; any other reads bytes.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let word = usize::try_from(at / 4).ok().and_then(|index| self.words.get(index));
            *byte = word.map_or(0, |word| word.to_le_bytes()[(at % 4) as usize]);
        }
    }

    /// Writes at a byte offset into the table; returns the vectors that were touched. Accesses
    /// that are not whole aligned words are dropped, as the specification leaves them undefined.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Range<u16> {
        if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) {
            return 0..0;
        }
        let first = usize::try_from(offset / 4).unwrap_or(usize::MAX);
        let mut end = first;
        for (index, bytes) in (first..).zip(data.chunks_exact(4)) {
            let Some(word) = self.words.get_mut(index) else {
                break;
            };
            let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            *word = match index % 4 {
                0 => value & !3,
                // The rest of vector control is reserved or belongs to TPH.
                3 => value & VECTOR_MASKED,
                _ => value,
            };
            end = index + 1;
        }
        let vector = |index| u16::try_from(index).expect("the table has at most 2,048 vectors");
        if end == first { 0..0 } else { vector(first / 4)..vector(end.div_ceil(4)) }
    }
}

/// Reads pending bits at a byte offset; `pending` tells each vector's.
pub fn read_pba(vectors: u16, offset: u64, data: &mut [u8], pending: impl Fn(u16) -> bool) {
    for (at, byte) in (offset..).zip(data) {
        let bit = |n: u64| {
            let vector = at.checked_mul(8).and_then(|first| u16::try_from(first + n).ok());
            vector.is_some_and(|vector| vector < vectors && pending(vector))
        };
        *byte = (0..8).map(|n| u8::from(bit(n)) << n).sum();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_what_an_82576_says() {
        // MSI-X of the 82576: 10 vectors, table at 0 and pending bits at 0x2000 of BAR 3.
        let mut config = [0u8; 256];
        config[0x70..0x7c].copy_from_slice(&[0x11, 0xa0, 9, 0, 3, 0, 0, 0, 3, 0x20, 0, 0]);
        let msix = MsixCapability::parse(&config, 0x70).expect("BAR 3 exists");
        assert_eq!((msix.vectors, msix.table_bar.index(), msix.table()), (10, 3, 0..160));
        assert_eq!((msix.pba_bar.index(), msix.pba()), (3, 0x2000..0x2008));
        config[0x74] = 7;
        assert_eq!(MsixCapability::parse(&config, 0x70), None);
    }

    #[test]
    fn an_entry_is_what_was_written() {
        let mut table = MsixTable::new(3);
        assert!(table.entry(2).masked);
        assert_eq!(table.write(32, &0xfee0_2000_u64.to_le_bytes()), 2..3);
        assert_eq!(table.write(40, &0x41_u64.to_le_bytes()), 2..3);
        let message = MsiMessage { address: 0xfee0_2000, data: 0x41 };
        assert_eq!(table.entry(2), TableEntry { message, masked: false });
        assert!(table.entry(1).masked);
    }

    #[test]
    fn a_messages_address_has_64_bits() {
        let mut table = MsixTable::new(1);
        table.write(0, &0x0123_4567_89ab_cdec_u64.to_le_bytes());
        assert_eq!(table.entry(0).message.address, 0x0123_4567_89ab_cdec);
    }

    #[test]
    fn each_structure_is_in_its_own_bar() {
        let [table_bar, pba_bar] = [1, 2].map(|bar| Bar::new(bar).expect("below 6"));
        let msix = MsixCapability {
            offset: 0x70,
            vectors: 65,
            table_bar,
            table_offset: 0x1000,
            pba_bar,
            pba_offset: 0x1000,
        };
        assert_eq!(msix.part(table_bar, 0x1010), Some(MsixPart::Table(0x10)));
        assert_eq!(msix.part(pba_bar, 0x100f), Some(MsixPart::Pending(0xf)));
        assert_eq!(msix.part(pba_bar, 0x1010), None, "two quadwords, and not the table");
        assert_eq!(msix.part(table_bar, 0x1000 + 65 * 16), None);
        let other = Bar::new(3).expect("below 6");
        assert_eq!([0, 0x1000, 0x1008].map(|offset| msix.part(other, offset)), [None; 3]);
    }

    /// The table as the specification tells it, entry by entry and field by field.
    struct Model(Vec<[u32; 4]>);

    impl Model {
        /// Returns which vectors were touched.
        fn write(&mut self, offset: u64, data: &[u8]) -> Vec<u16> {
            let mut touched = Vec::new();
            if offset & 3 != 0 || data.len() & 3 != 0 {
                return touched;
            }
            for (at, word) in (offset..).step_by(4).zip(data.chunks(4)) {
                let Some(entry) = self.0.get_mut((at / 16) as usize) else { continue };
                let value = word.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
                let writable = [0xffff_fffc, !0, !0, 1][(at % 16 / 4) as usize];
                entry[(at % 16 / 4) as usize] = value & writable;
                touched.push((at / 16) as u16);
            }
            touched.dedup();
            touched
        }

        fn byte(&self, at: u64) -> u8 {
            let Some(entry) = self.0.get((at / 16) as usize) else { return 0 };
            (entry[(at % 16 / 4) as usize] >> (8 * (at % 4))) as u8
        }
    }

    proptest! {
        #[test]
        fn the_table_is_as_the_specification_tells_it(
            vectors in 1u16..5,
            steps in prop::collection::vec(
                (
                    prop_oneof![3 => (0u64..24).prop_map(|word| word * 4), 1 => 0u64..0x60],
                    prop_oneof![
                        3 => prop::collection::vec(any::<u8>(), 4),
                        3 => prop::collection::vec(any::<u8>(), 8),
                        1 => prop::collection::vec(any::<u8>(), 0..9),
                    ],
                ),
                0..40,
            ),
        ) {
            let mut table = MsixTable::new(vectors);
            let mut model = Model(vec![[0, 0, 0, 1]; usize::from(vectors)]);
            for (offset, data) in steps {
                let touched: Vec<u16> = table.write(offset, &data).collect();
                prop_assert_eq!(touched, model.write(offset, &data));
                let mut back = vec![0xa5; data.len()];
                table.read(offset, &mut back);
                let expected: Vec<u8> =
                    (offset..).take(data.len()).map(|at| model.byte(at)).collect();
                prop_assert_eq!(back, expected);
                for (vector, [low, high, data, control]) in (0..).zip(&model.0) {
                    let address = u64::from(*low) | u64::from(*high) << 32;
                    let message = MsiMessage { address, data: *data };
                    let entry = TableEntry { message, masked: control & 1 == 1 };
                    prop_assert_eq!(table.entry(vector), entry);
                }
            }
        }

        #[test]
        fn pending_bits_are_one_to_a_vector(
            pending in prop::collection::vec(any::<bool>(), 1..200),
            offset in 0u64..40,
            length in 0usize..9,
        ) {
            let mut data = vec![0xff; length];
            let vectors = pending.len() as u16;
            read_pba(vectors, offset, &mut data, |vector| pending[usize::from(vector)]);
            for (index, byte) in (0..).zip(data) {
                for bit in 0..8 {
                    let vector = ((offset + index) * 8 + bit) as usize;
                    let expected = pending.get(vector).copied().unwrap_or(false);
                    prop_assert_eq!(byte >> bit & 1 == 1, expected, "{}", vector);
                }
            }
        }

        #[test]
        fn no_offset_in_a_bar_is_too_far(offset in 0..1u64 << 63) {
            let mut table = MsixTable::new(2048);
            let offset = offset | 1 << 20;
            let touched = table.write(offset & !3, &[0xff; 8]);
            prop_assert!(touched.is_empty(), "{touched:?}");
            let (mut data, mut bits) = ([1; 8], [1; 8]);
            table.read(offset, &mut data);
            read_pba(2048, offset, &mut bits, |_| true);
            prop_assert_eq!((data, bits), ([0; 8], [0; 8]));
        }
    }
}
