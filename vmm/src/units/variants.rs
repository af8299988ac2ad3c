//! For tests that want a case for each variant of an enum: a variant that is left out of the list
//! does not compile.

/// Defines `VARIANTS`, the names of all variants of an enum, and `variant`, the name of a value's.
macro_rules! variants {
    ($enum:ident: $($variant:ident)*) => {
        const VARIANTS: &[&str] = &[$(stringify!($variant)),*];

        fn variant(value: &$enum) -> &'static str {
            match value {
                $($enum::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

pub(crate) use variants;
