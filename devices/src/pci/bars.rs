//! Base address registers: what they are, and who answers at an address of the PCI windows.

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use serde::Serialize;

use super::GuestBdf;
use super::regs::{BAR_IO, BAR_MEMORY_64, BAR_PREFETCHABLE, BAR0, ROM_ADDRESS};
use crate::range_map::{Overlap, RangeMap};

/// Number of a base address register, 0..=5, or [`Bar::ROM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Bar(u8);

impl Bar {
    /// The expansion ROM's base address register: a BAR with an enable bit, at another place.
    pub const ROM: Self = Self(6);

    /// How many there are, the expansion ROM's included.
    pub const COUNT: usize = 7;

    /// Checks the range, 0..=5.
    #[must_use]
    pub const fn new(index: u8) -> Option<Self> {
        if index < 6 { Some(Self(index)) } else { None }
    }

    /// 0..=5, and 6 for the expansion ROM.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The same, as the kernel counts regions.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Offset of the register in configuration space.
    #[must_use]
    pub const fn register(self) -> u16 {
        if self.0 == Self::ROM.0 { ROM_ADDRESS } else { BAR0 + 4 * self.0 as u16 }
    }
}

/// Kind of a base address register (PCI Local Bus 3.0, section 6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// 32-bit memory.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// 64-bit memory; takes this register and the next.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

impl BarKind {
    /// From the lowest bits of the register.
    #[must_use]
    pub fn from_register(low: u32) -> Self {
        let prefetchable = low & BAR_PREFETCHABLE != 0;
        match low {
            low if low & BAR_IO != 0 => Self::Io,
            low if low & 0b110 == BAR_MEMORY_64 => Self::Memory64 { prefetchable },
            _ => Self::Memory32 { prefetchable },
        }
    }

    /// The register's read-only low bits.
    #[must_use]
    pub fn low_bits(self) -> u32 {
        let flag = |prefetchable| if prefetchable { BAR_PREFETCHABLE } else { 0 };
        match self {
            Self::Io => BAR_IO,
            Self::Memory32 { prefetchable } => flag(prefetchable),
            Self::Memory64 { prefetchable } => BAR_MEMORY_64 | flag(prefetchable),
        }
    }
}

/// One BAR: where it is in configuration space and how much it decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BarSpec {
    /// Register; of a 64-bit BAR the lower one.
    pub bar: Bar,
    /// Kind.
    pub kind: BarKind,
    /// Bytes, a power of two; at least 16 of memory, 4 of I/O, or 2,048 of the expansion ROM.
    pub size: u64,
    /// Address that the guest's kernel finds in it, naturally aligned.
    pub address: u64,
}

/// An address space of PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Memory space.
    Memory,
    /// I/O ports.
    Io,
}

impl From<BarKind> for Space {
    fn from(kind: BarKind) -> Self {
        if kind == BarKind::Io { Self::Io } else { Self::Memory }
    }
}

/// Where each BAR of a function answers now; `None` where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BarDecode(pub [Option<(Space, Range<u64>)>; Bar::COUNT]);

/// The window's owner of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarHit {
    /// Function in the guest.
    pub function: GuestBdf,
    /// Its register.
    pub bar: Bar,
    /// Offset into the BAR.
    pub offset: u64,
}

/// Why a BAR does not answer where its register says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The host bridge forwards only its windows, as its `_CRS` says; RAM, the interrupt
    /// controllers and ECAM lie outside and cannot be hidden by a BAR.
    #[error("{:#x}..{:#x} is in no window of the host bridge", .0.start, .0.end)]
    OutsideWindows(Range<u64>),
    /// Another BAR answers there.
    #[error(transparent)]
    Overlap(#[from] Overlap),
}

/// Who answers in the host bridge's windows.
///
/// Its lock is taken with at most one function's lock held, and nothing is locked under it.
#[derive(Debug)]
pub struct BarRoutes {
    windows: Vec<(Space, Range<u64>)>,
    maps: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    memory: RangeMap<(GuestBdf, Bar)>,
    io: RangeMap<(GuestBdf, Bar)>,
}

impl Maps {
    fn of(&mut self, space: Space) -> &mut RangeMap<(GuestBdf, Bar)> {
        match space {
            Space::Memory => &mut self.memory,
            Space::Io => &mut self.io,
        }
    }
}

impl BarRoutes {
    /// No BARs yet in these windows.
    #[must_use]
    pub fn new(windows: Vec<(Space, Range<u64>)>) -> Self {
        Self { windows, maps: RwLock::default() }
    }

    /// Lets `bar` answer at `range`, or changes nothing.
    ///
    /// # Errors
    /// The range lies in no window of its space, or another BAR answers in it.
    pub fn insert(
        &self,
        space: Space,
        range: Range<u64>,
        function: GuestBdf,
        bar: Bar,
    ) -> Result<(), Refused> {
        let holds = |(kind, window): &(Space, Range<u64>)| {
            *kind == space && window.start <= range.start && range.end <= window.end
        };
        if !self.windows.iter().any(holds) {
            return Err(Refused::OutsideWindows(range));
        }
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        Ok(maps.of(space).insert(range, (function, bar))?)
    }

    /// Nothing answers at `range` from now on.
    pub fn remove(&self, space: Space, range: &Range<u64>) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.of(space).remove(range);
    }

    /// Who answers at `address`.
    pub fn find(&self, space: Space, address: u64) -> Option<BarHit> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let map = match space {
            Space::Memory => &maps.memory,
            Space::Io => &maps.io,
        };
        map.find(address).map(|((function, bar), offset)| BarHit {
            function: *function,
            bar: *bar,
            offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTION: GuestBdf = GuestBdf::new(0, 1, 0).expect("device 1, function 0");
    const BAR0: Bar = Bar::new(0).expect("0 is below 6");

    #[test]
    fn kinds_round_trip_through_the_register() {
        for low in [0b0000, 0b0001, 0b1000, 0b0100, 0b1100] {
            assert_eq!(BarKind::from_register(low).low_bits(), low);
        }
        // Below 1 MiB, and reserved: both are taken for 32 bits, as Linux does.
        for low in [0b0010, 0b0110] {
            let kind = BarKind::Memory32 { prefetchable: false };
            assert_eq!(BarKind::from_register(low), kind);
        }
    }

    #[test]
    fn a_bar_answers_inside_the_windows_of_its_space_only() {
        let routes = BarRoutes::new(vec![
            (Space::Memory, 0xc000_0000..0xe000_0000),
            (Space::Io, 0x1000..0x1_0000),
        ]);
        for range in [
            0..0x1000,
            0xbfff_f000..0xc000_1000,
            0xdfff_f000..0xe000_1000,
            0xfee0_0000..0xfee0_1000,
            0x1000..0x1100,
        ] {
            let refused = routes.insert(Space::Memory, range.clone(), FUNCTION, BAR0);
            assert_eq!(refused, Err(Refused::OutsideWindows(range)));
        }
        assert_eq!(routes.insert(Space::Memory, 0xc000_0000..0xc000_4000, FUNCTION, BAR0), Ok(()));
        assert_eq!(
            routes.find(Space::Memory, 0xc000_3ffc),
            Some(BarHit { function: FUNCTION, bar: BAR0, offset: 0x3ffc })
        );
        assert_eq!(routes.find(Space::Io, 0xc000_3ffc), None);
    }
}
