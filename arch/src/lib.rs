//! The x86-64 machine as guests see it: addresses, ACPI tables, CPUID, boot protocols.
//!
//! Nothing here opens a device or starts a thread. Most functions are pure; the rest write to
//! guest memory that they are given ([`boot`]) or to a vCPU that they are given ([`regs`]).
//!
//! A machine is put together in this order:
//!
//! 1. [`ram::ram_regions`] and [`ram::pci_window64`] lay out the guest's address space;
//! 2. [`topology::Topology`] gives every vCPU its APIC ID;
//! 3. [`acpi::AcpiTables::new`] describes the result;
//! 4. [`boot::load`] puts kernel, initial RAM disk, tables and boot structures into memory;
//! 5. [`cpuid::vcpu_cpuid`], [`regs::set_up_vcpu`] and, for the boot vCPU,
//!    [`regs::set_up_entry`] prepare the vCPUs.

#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![warn(clippy::missing_errors_doc, clippy::must_use_candidate)]

#[cfg(not(target_arch = "x86_64"))]
compile_error!("berth builds x86-64 machines on x86-64 hosts only");

mod x86_64;

pub use x86_64::{acpi, boot, cpuid, layout, ram, regs, topology};
