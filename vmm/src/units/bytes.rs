//! Amounts of memory as people read them.

use std::fmt;

/// Bytes in the largest binary unit that divides them, as `2 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0;
        let mut unit = 0;
        while value != 0 && value.is_multiple_of(1024) && unit + 1 < UNITS.len() {
            value /= 1024;
            unit += 1;
        }
        // What no unit divides is rounded to the unit that leaves up to four digits.
        while value >= 10_000 && unit + 1 < UNITS.len() {
            value /= 1024;
            unit += 1;
        }
        f.pad(&format!("{value} {}", UNITS[unit]))
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn bytes_print_in_their_largest_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1536 << 20, "1536 MiB"),
            (2 << 30, "2 GiB"),
            (1 << 40, "1 TiB"),
            ((5 << 30) + 1, "5120 MiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
