//! vCPU state at the guest's first instruction.
//!
//! Few system calls: two per vCPU and two more for the boot vCPU. What KVM's reset already leaves
//! as kernels want it is not written again:
//!
//! - the FPU is in its initial state, and kernels execute FNINIT before they use it;
//! - LINT0 of the boot vCPU's local APIC delivers ExtINT (`kvm_lapic_reset`, quirk
//!   `KVM_X86_QUIRK_LINT0_REENABLED`, on by default), and kernels set LINT1 to NMI because the
//!   MADT says so (`setup_local_APIC`);
//! - the other vCPUs wait for INIT and SIPI inside KVM.
//!
//! Special registers are written whole, so they need not be read before.

use kvm_bindings::{
    CpuId, Msrs, kvm_cpuid_entry2, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::boot::Entry;
use super::layout;

/// `IA32_MISC_ENABLE` (Intel SDM volume 4, table 2-2).
const MSR_MISC_ENABLE: u32 = 0x1a0;
/// Fast strings. Linux clears ERMS when the bit is clear (`early_init_intel`).
const MISC_ENABLE_FAST_STRING: u64 = 1 << 0;
/// Branch trace store and PEBS are not there; KVM's own value has both bits too.
const MISC_ENABLE_NO_BTS_PEBS: u64 = 1 << 11 | 1 << 12;

/// `IA32_MTRR_DEF_TYPE` (Intel SDM volume 3, section 12.11.2.1).
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back, page tables decide about devices. With MTRRs off Linux 6.1
/// turns PAT off as well, and no device memory could be write-combining.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set; interrupts are off, as both boot protocols demand.
const RFLAGS: u64 = 1 << 1;
/// `IA32_APIC_BASE` at reset of the boot vCPU: enabled, boot vCPU, xAPIC mode.
const APIC_BASE: u64 = layout::LOCAL_APIC | 1 << 11 | 1 << 8;

/// Selectors; boot.rst prescribes the first two (`__BOOT_CS`, `__BOOT_DS`).
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// Descriptors: base 0, limit 4 GiB, ring 0, accessed (Intel SDM volume 3, section 3.4.5).
const CODE64: u64 = 0x00af_9b00_0000_ffff;
const CODE32: u64 = 0x00cf_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Busy 32/64-bit task state segment, limit 0x67; nothing ever uses it, VM entry demands it.
const TASK: u64 = 0x0000_8b00_0000_0067;

/// Page table bits: present, writable; in a directory also "maps a 2 MiB page".
const TABLE_ENTRY: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7 | TABLE_ENTRY;

/// Why a vCPU could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum RegsError {
    /// More CPUID entries than KVM takes.
    #[error("{0} CPUID entries are more than KVM takes")]
    TooManyCpuidEntries(usize),
    /// KVM refused a call.
    #[error("{call} failed")]
    Kvm {
        /// Name of the call.
        call: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM refused one register of several.
    #[error("KVM refused to set MSR {0:#x}")]
    Msr(u32),
    /// Guest memory refused a write.
    #[error("cannot write {what} to guest memory")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// What guest memory said.
        #[source]
        source: GuestMemoryError,
    },
}

impl RegsError {
    fn kvm(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { call, source }
    }

    fn write(what: &'static str) -> impl FnOnce(GuestMemoryError) -> Self {
        move |source| Self::Write { what, source }
    }
}

/// Prepares any vCPU: CPUID ([`vcpu_cpuid`](super::cpuid::vcpu_cpuid)), then the MSRs that CPUID
/// makes available. Two system calls.
///
/// # Errors
/// [`RegsError`].
pub fn set_up_vcpu(vcpu: &VcpuFd, cpuid: &[kvm_cpuid_entry2]) -> Result<(), RegsError> {
    let entries =
        CpuId::from_entries(cpuid).map_err(|_| RegsError::TooManyCpuidEntries(cpuid.len()))?;
    vcpu.set_cpuid2(&entries).map_err(RegsError::kvm("KVM_SET_CPUID2"))?;

    let values = [
        (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING | MISC_ENABLE_NO_BTS_PEBS),
        (MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ];
    let entries = values.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).expect("two entries fit");
    let set = vcpu.set_msrs(&msrs).map_err(RegsError::kvm("KVM_SET_MSRS"))?;
    match values.get(set) {
        Some((refused, _)) => Err(RegsError::Msr(*refused)),
        None => Ok(()),
    }
}

/// Puts the boot vCPU at the guest's first instruction and writes what it needs there, segment
/// descriptors and page tables, to guest memory. Two system calls.
///
/// # Errors
/// [`RegsError`].
pub fn set_up_entry(vcpu: &VcpuFd, mem: &GuestMemoryMmap, entry: Entry) -> Result<(), RegsError> {
    for (index, descriptor) in (0u64..).zip(descriptors(entry)) {
        mem.write_obj(descriptor, GuestAddress(layout::GDT + index * 8))
            .map_err(RegsError::write("segment descriptors"))?;
    }
    if let Entry::Linux64 { .. } = entry {
        let tables: Vec<u8> = page_tables().flat_map(u64::to_le_bytes).collect();
        mem.write_slice(&tables, GuestAddress(layout::PAGE_TABLES))
            .map_err(RegsError::write("page tables"))?;
    }
    vcpu.set_sregs(&special_registers(entry)).map_err(RegsError::kvm("KVM_SET_SREGS"))?;
    vcpu.set_regs(&registers(entry)).map_err(RegsError::kvm("KVM_SET_REGS"))
}

/// The global descriptor table; the task segment's descriptor has two words in 64-bit mode.
fn descriptors(entry: Entry) -> [u64; 6] {
    let code = match entry {
        Entry::Linux64 { .. } => CODE64,
        Entry::Pvh { .. } => CODE32,
    };
    [0, 0, code, DATA, TASK, 0]
}

/// Identity map of the first 4 GiB, in the layout of [`layout::PAGE_TABLES`].
fn page_tables() -> impl Iterator<Item = u64> {
    const ENTRIES: u64 = 512;
    let directories = layout::PAGE_TABLES_PAGES - 2;
    let table = |page: u64| layout::PAGE_TABLES + page * 4096;

    let padded = |used: u64, first: u64| {
        let unused = (used..ENTRIES).map(|_| 0);
        (0..used).map(move |index| table(first + index) | TABLE_ENTRY).chain(unused)
    };
    let pages = (0..directories * ENTRIES).map(|page| (page * 2 * layout::MIB) | LARGE_PAGE);
    padded(1, 1).chain(padded(directories, 2)).chain(pages)
}

fn registers(entry: Entry) -> kvm_regs {
    let mut regs = kvm_regs { rflags: RFLAGS, ..Default::default() };
    match entry {
        Entry::Linux64 { rip } => {
            regs.rip = rip.0;
            regs.rsi = layout::ZERO_PAGE;
        }
        Entry::Pvh { eip } => {
            regs.rip = eip.0;
            regs.rbx = layout::PVH_START_INFO;
        }
    }
    regs
}

/// A segment register with what its descriptor says, or the task register for [`TASK`].
fn segment(selector: u16, descriptor: u64) -> kvm_segment {
    let bits = |low: u32, count: u32| (descriptor >> low & ((1 << count) - 1)).to_le_bytes()[0];
    let granular = bits(55, 1);
    let limit = descriptor & 0xffff | descriptor >> 32 & 0xf_0000;
    let limit = u32::try_from(limit).expect("it has 20 bits");
    kvm_segment {
        base: 0,
        limit: if granular == 1 { limit << 12 | 0xfff } else { limit },
        selector,
        type_: bits(40, 4),
        s: bits(44, 1),
        dpl: bits(45, 2),
        present: bits(47, 1),
        avl: bits(52, 1),
        l: bits(53, 1),
        db: bits(54, 1),
        g: granular,
        unusable: 0,
        padding: 0,
    }
}

fn special_registers(entry: Entry) -> kvm_sregs {
    let descriptors = descriptors(entry);
    let data = segment(DATA_SELECTOR, DATA);
    let mut sregs = kvm_sregs {
        cs: segment(CODE_SELECTOR, descriptors[usize::from(CODE_SELECTOR / 8)]),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: segment(TASK_SELECTOR, TASK),
        ldt: kvm_segment { unusable: 1, ..Default::default() },
        gdt: kvm_dtable {
            base: layout::GDT,
            limit: u16::try_from(size_of_val(&descriptors) - 1).expect("a few descriptors"),
            ..Default::default()
        },
        // Empty: a fault before the guest has a table of its own is a triple fault.
        idt: kvm_dtable::default(),
        cr0: CR0_PE | CR0_ET,
        apic_base: APIC_BASE,
        ..Default::default()
    };
    if let Entry::Linux64 { .. } = entry {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = layout::PAGE_TABLES;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME | EFER_LMA;
    }
    sregs
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: Entry = Entry::Linux64 { rip: GuestAddress(0x100_0200) };
    const PVH: Entry = Entry::Pvh { eip: GuestAddress(0x100_0000) };

    #[test]
    fn linux_enters_in_64_bit_mode() {
        let sregs = special_registers(LINUX);
        assert_eq!(sregs.cr0, 0x8000_0011);
        assert_eq!((sregs.cr3, sregs.cr4, sregs.efer), (0x9000, 0x20, 0x500));
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!((sregs.ds.selector, sregs.ds.type_), (0x18, 3));
        assert_eq!((sregs.tr.type_, sregs.tr.limit, sregs.tr.s), (11, 0x67, 0));
        let regs = registers(LINUX);
        assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x100_0200, 0x7000, 2));
    }

    #[test]
    fn pvh_enters_without_paging() {
        let sregs = special_registers(PVH);
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.limit), (0, 1, u32::MAX));
        let regs = registers(PVH);
        assert_eq!((regs.rip, regs.rbx, regs.rsi), (0x100_0000, 0x6000, 0));
    }

    /// Walks the tables as a CPU does.
    fn translate(tables: &[u64], address: u64) -> u64 {
        let entry = |table: u64, index: u64| {
            let page = (table & !0xfff) - layout::PAGE_TABLES;
            let entry = tables[(page / 8 + index) as usize];
            assert_eq!(entry & 1, 1, "{address:#x} is not mapped");
            entry
        };
        let pointers = entry(layout::PAGE_TABLES, address >> 39);
        let directory = entry(pointers, address >> 30 & 511);
        let page = entry(directory, address >> 21 & 511);
        page & !0x1f_ffff | address & 0x1f_ffff
    }

    #[test]
    fn page_tables_map_4_gib_to_themselves() {
        let tables: Vec<u64> = page_tables().collect();
        assert_eq!(tables.len() as u64, layout::PAGE_TABLES_PAGES * 512);
        for address in [0, 0x7000, 0x1f_ffff, 0x4000_0000, 0xbfff_ffff, 0xffff_ffff] {
            assert_eq!(translate(&tables, address), address);
        }
    }
}
