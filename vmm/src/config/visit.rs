//! Ways to read a JSON value that say what was expected in the user's words.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};

/// An integer within `range`.
pub(super) fn bounded<'de, D: Deserializer<'de>>(
    deserializer: D,
    range: RangeInclusive<u64>,
    expected: &'static str,
) -> Result<u64, D::Error> {
    struct Bounded(RangeInclusive<u64>, &'static str);

    impl Visitor<'_> for Bounded {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str(self.1)
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
            if self.0.contains(&value) {
                Ok(value)
            } else {
                Err(E::invalid_value(Unexpected::Unsigned(value), &self))
            }
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
            Err(E::invalid_value(Unexpected::Signed(value), &self))
        }
    }

    deserializer.deserialize_u64(Bounded(range, expected))
}

/// A value written as a string.
pub(super) fn parsed<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Parsed<T>(&'static str, std::marker::PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parsed<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Parsed(expected, std::marker::PhantomData))
}

/// A JSON object. What is derived would take a list of its members' values, too.
pub(super) fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Members<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object: { \"field\": value, ... }")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(Members(std::marker::PhantomData))
}

/// A value that is an object in JSON.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// A list whose elements differ in their key.
pub(super) struct Distinct<T, K> {
    pub(super) expected: &'static str,
    /// `None` for an element that may be there more than once.
    pub(super) key: fn(&T) -> Option<K>,
}

impl<'de, T: Deserialize<'de>, K: Ord + fmt::Display> Visitor<'de> for Distinct<T, K> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let (mut list, mut keys) = (Vec::new(), BTreeSet::new());
        // A seed, because only an error from inside the element carries the element's index.
        while let Some(element) =
            seq.next_element_seed(DistinctElement { before: &mut keys, key: self.key })?
        {
            list.push(element);
        }
        Ok(list)
    }
}

struct DistinctElement<'a, T, K> {
    before: &'a mut BTreeSet<K>,
    key: fn(&T) -> Option<K>,
}

impl<'de, T: Deserialize<'de>, K: Ord + fmt::Display> DeserializeSeed<'de>
    for DistinctElement<'_, T, K>
{
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        let element = T::deserialize(deserializer)?;
        let key = (self.key)(&element);
        if let Some(key) = key
            && let Some(key) = self.before.replace(key)
        {
            return Err(de::Error::custom(format_args!(
                "{key} is in the list already; name it once"
            )));
        }
        Ok(element)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;

    thread_local! {
        static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    /// A key that counts how often it is held against another.
    struct Counted(u64);

    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARED.set(COMPARED.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }

    impl Eq for Counted {}

    impl fmt::Display for Counted {
        fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    #[test]
    fn a_long_list_is_not_compared_pair_by_pair() {
        const LENGTH: u64 = 4096;

        let list = (0..LENGTH).chain([7]).map(|number| number.to_string()).collect::<Vec<_>>();
        let text = format!("[{}]", list.join(","));
        let distinct = Distinct { expected: "numbers", key: |n: &u64| Some(Counted(*n)) };
        let read = serde_json::Deserializer::from_str(&text).deserialize_seq(distinct);
        let error = read.expect_err("7 is there twice").to_string();
        assert!(error.starts_with("7 is in the list already"), "{error}");
        assert!(COMPARED.get() < 100 * LENGTH as usize, "{} comparisons", COMPARED.get());
    }
}
