//! Sets of CPUs or nodes in the kernel's notation, `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Ids of CPUs or NUMA nodes; reads and prints like `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSet(BTreeSet<u32>);

/// The text is no list of ids.
#[derive(Debug, thiserror::Error)]
#[error("not a list of ids such as 0-3,8")]
pub struct ParseIdSetError;

/// Ids are below this, and a list has no more of them: the largest kernels are built for 8,192
/// CPUs. It keeps a malformed list from filling memory, or from taking long.
const ID_LIMIT: u32 = 1 << 13;

impl IdSet {
    /// Whether `id` is in the set.
    pub fn contains(&self, id: u32) -> bool {
        self.0.contains(&id)
    }

    /// Ids in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.0.iter().copied()
    }

    /// The smallest id.
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The set that a mask of the kernel describes, `00000000,0000ff00`: words of 32 bits, the
    /// highest first.
    pub fn from_mask(text: &str) -> Option<Self> {
        let mut ids = BTreeSet::new();
        for (word, digits) in (0..).zip(text.trim().rsplit(',')) {
            let bits = u32::from_str_radix(digits, 16).ok()?;
            // Words beyond may be there, but say nothing.
            if word >= ID_LIMIT / 32 {
                if bits != 0 {
                    return None;
                }
                continue;
            }
            ids.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| word * 32 + bit));
        }
        Some(Self(ids))
    }

    /// The kernel's mask of the set, `00000001,0000ff00`.
    pub fn to_mask(&self) -> String {
        let highest = self.0.last().map_or(0, |last| last / 32);
        let word = |word: u32| {
            let bits = self.iter().filter(|id| id / 32 == word);
            format!("{:08x}", bits.fold(0u32, |mask, id| mask | 1 << (id % 32)))
        };
        (0..=highest).rev().map(word).collect::<Vec<_>>().join(",")
    }

    /// Ids in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// Ids in either set.
    pub fn union(&self, other: &Self) -> Self {
        Self(&self.0 | &other.0)
    }

    /// Ids of this set that are not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }
}

impl FromIterator<u32> for IdSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

impl FromStr for IdSet {
    type Err = ParseIdSetError;

    fn from_str(text: &str) -> Result<Self, ParseIdSetError> {
        let id = |text: &str| {
            let id: u32 = text.trim().parse().map_err(|_| ParseIdSetError)?;
            (id < ID_LIMIT).then_some(id).ok_or(ParseIdSetError)
        };
        let mut ids = BTreeSet::new();
        let mut named = 0;
        // An empty file is an empty set: no isolated CPUs, a node without CPUs.
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            match part.split_once('-') {
                Some((first, last)) => {
                    let range = id(first)?..=id(last)?;
                    named += range.size_hint().0;
                    // The kernel names each once, so what names more is no list of its.
                    if named > ID_LIMIT as usize {
                        return Err(ParseIdSetError);
                    }
                    ids.extend(range);
                }
                None => ids.extend([id(part)?]),
            }
        }
        Ok(Self(ids))
    }
}

impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let mut ids = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if(|&next| next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl Serialize for IdSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_the_kernels_notation() {
        for (text, printed, len) in
            [("0-3,8\n", "0-3,8", 5), ("", "none", 0), ("7", "7", 1), ("1,2,4-5", "1-2,4-5", 4)]
        {
            let set: IdSet = text.parse().expect("a list");
            assert_eq!((set.to_string().as_str(), set.len()), (printed, len));
        }
    }

    #[test]
    fn reads_the_kernels_masks() {
        let set = IdSet::from_mask("00000001,0000ff00\n").expect("a mask");
        assert_eq!(set.to_string(), "8-15,32");
        assert_eq!(set.to_mask(), "00000001,0000ff00");
        assert!(IdSet::from_mask("x").is_none());
    }

    #[test]
    fn refuses_what_is_no_list() {
        for text in ["a", "1-", "-1", "0-4294967295", "0-65535", "0-8192", "8192"] {
            assert!(text.parse::<IdSet>().is_err(), "{text}");
        }
        assert_eq!("0-8191".parse::<IdSet>().expect("a list").len(), 8192);
    }

    #[test]
    fn no_list_takes_long() {
        // Each id once is all that the kernel prints.
        let text = "0-8191,".repeat(9000);
        assert!(text.parse::<IdSet>().is_err());
        let mask = "ffffffff,".repeat(256) + "1";
        assert!(IdSet::from_mask(&mask).is_none());
        assert_eq!(
            IdSet::from_mask(&("00000000,".repeat(300) + "1")).map(|set| set.len()),
            Some(1)
        );
    }
}
