//! One module per face that the machine shows to its guest.

pub mod acpi;
pub mod boot;
pub mod cpuid;
pub mod layout;
pub mod ram;
pub mod regs;
pub mod topology;
