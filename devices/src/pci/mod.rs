//! PCI as the guest sees it: addresses, configuration space, BARs, MSI-X.

mod bdf;

pub use bdf::{Bdf, ParseBdfError};
