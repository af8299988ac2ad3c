//! A map from disjoint address ranges to values.

use std::collections::BTreeMap;
use std::ops::Range;

/// Sorted, disjoint, non-empty ranges, each with a value.
#[derive(Clone, Debug)]
pub struct RangeMap<T> {
    /// Start of each range to its end (exclusive) and value.
    ranges: BTreeMap<u64, (u64, T)>,
}

/// The range is empty or meets one that is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{:#x}..{:#x} is empty or overlaps a range in the map", .0.start, .0.end)]
pub struct Overlap(pub Range<u64>);

impl<T> Default for RangeMap<T> {
    fn default() -> Self {
        Self { ranges: BTreeMap::new() }
    }
}

impl<T> RangeMap<T> {
    /// Adds a range, or changes nothing and says why not.
    ///
    /// # Errors
    /// The range overlaps one that is there; nothing has changed.
    pub fn insert(&mut self, range: Range<u64>, value: T) -> Result<(), Overlap> {
        let below = self.ranges.range(..range.end).next_back();
        if range.is_empty() || below.is_some_and(|(_, (end, _))| *end > range.start) {
            return Err(Overlap(range));
        }
        self.ranges.insert(range.start, (range.end, value));
        Ok(())
    }

    /// The value of the range that holds `address`, and how far into the range that is.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(&T, u64)> {
        let (start, (end, value)) = self.ranges.range(..=address).next_back()?;
        (address < *end).then(|| (value, address - start))
    }

    /// Takes out exactly this range; any other is left alone.
    pub fn remove(&mut self, range: &Range<u64>) -> Option<T> {
        let (end, _) = self.ranges.get(&range.start)?;
        if *end != range.end {
            return None;
        }
        self.ranges.remove(&range.start).map(|(_, value)| value)
    }

    /// Ranges in address order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, &T)> {
        self.ranges.iter().map(|(start, (end, value))| (*start..*end, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the model that a newcomer would write: a list, searched from its start.
        #[test]
        fn behaves_like_a_list(steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..16), 0..80)) {
            let mut map = RangeMap::default();
            let mut list: Vec<(Range<u64>, usize)> = Vec::new();
            for (value, (insert, start, length)) in steps.into_iter().enumerate() {
                let range = start..start + length;
                if insert {
                    let free = length > 0 && list.iter().all(|(r, _)| r.end <= range.start || range.end <= r.start);
                    prop_assert_eq!(map.insert(range.clone(), value).is_ok(), free);
                    if free {
                        list.push((range, value));
                    }
                } else {
                    let at = list.iter().position(|(r, _)| *r == range);
                    prop_assert_eq!(map.remove(&range), at.map(|i| list.remove(i).1));
                }
                for address in 0..82 {
                    let expected = list.iter().find(|(r, _)| r.contains(&address));
                    let found = map.find(address).map(|(v, offset)| (*v, offset));
                    prop_assert_eq!(found, expected.map(|(r, v)| (*v, address - r.start)));
                }
            }
        }
    }

    #[test]
    fn holds_ranges_up_to_the_last_address() {
        let mut map = RangeMap::default();
        assert!(map.insert(u64::MAX - 4095..u64::MAX, ()).is_ok());
        assert_eq!(map.find(u64::MAX - 1), Some((&(), 4094)));
        assert_eq!(map.find(u64::MAX), None);
    }
}
