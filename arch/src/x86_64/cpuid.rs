//! CPUID of each vCPU: what KVM can do, arranged as the guest's own CPUs and nobody else's.
//!
//! KVM's answer describes the host CPU that asked: its APIC ID, its cores, its caches' sharing.
//! A guest that believed it would schedule for a machine that it does not have.
//!
//! Leaves: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; `Documentation/virt/kvm/x86/
//! cpuid.rst` of the kernel for 0x4000_0000 and up.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::topology::Topology;

const EXTENDED_TOPOLOGY: u32 = 0xb;
const EXTENDED_TOPOLOGY_V2: u32 = 0x1f;
const KVM_FEATURES: u32 = 0x4000_0001;
const AMD_FEATURES: u32 = 0x8000_0001;
const AMD_SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_EXTENDED_TOPOLOGY: u32 = 0x8000_0026;

/// Choices that are the same for all vCPUs of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidConfig {
    /// Sockets, cores and threads.
    pub topology: Topology,
    /// The host has `KVM_CAP_TSC_DEADLINE_TIMER`. KVM never reports the feature in CPUID, since it
    /// depends on an in-kernel local APIC (KVM API, section 4.46), which berth always has.
    pub tsc_deadline: bool,
    /// vCPUs have host CPUs of their own: guests then spin instead of yielding
    /// (`KVM_HINTS_REALTIME`).
    pub dedicated: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    /// AMD, or Hygon, whose CPUs are AMD's in all that matters here.
    Amd,
    Other,
}

/// CPUID of the vCPU with index `index` (0..`config.topology.vcpus()`), from `supported`, KVM's
/// `KVM_GET_SUPPORTED_CPUID`.
///
/// Nested virtualization and MONITOR/MWAIT are hidden: berth offers neither. The performance
/// counters (leaf 0xa) stay as KVM virtualizes them.
#[must_use]
pub fn vcpu_cpuid(
    supported: &[kvm_cpuid_entry2],
    config: &CpuidConfig,
    index: u32,
) -> Vec<kvm_cpuid_entry2> {
    let topology = &config.topology;
    let apic_id = topology.apic_id(index);
    let vendor = vendor(supported);
    let topoext = find(supported, AMD_FEATURES).is_some_and(|leaf| leaf.ecx & 1 << 22 != 0);
    let v2 = find(supported, 0).is_some_and(|leaf| leaf.eax >= EXTENDED_TOPOLOGY_V2);

    let mut entries = Vec::with_capacity(supported.len() + 8);
    for entry in supported {
        let mut entry = *entry;
        match entry.function {
            // These are written from nothing below, or describe the host only.
            EXTENDED_TOPOLOGY | EXTENDED_TOPOLOGY_V2 | AMD_TOPOLOGY | AMD_EXTENDED_TOPOLOGY => {
                continue;
            }
            0 => entry.eax = entry.eax.max(EXTENDED_TOPOLOGY),
            1 => features(&mut entry, config, apic_id),
            4 if vendor == Vendor::Intel => intel_cache(&mut entry, topology),
            // MONITOR/MWAIT: sizes and sub-states.
            5 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            KVM_FEATURES => entry.edx = u32::from(config.dedicated),
            AMD_FEATURES => amd_features(&mut entry, topology, vendor),
            AMD_SIZES if vendor == Vendor::Amd => amd_sizes(&mut entry, topology),
            AMD_CACHES => amd_cache(&mut entry, topology),
            _ => {}
        }
        entries.push(entry);
    }
    entries.extend(extended_topology(EXTENDED_TOPOLOGY, topology, apic_id));
    if v2 {
        entries.extend(extended_topology(EXTENDED_TOPOLOGY_V2, topology, apic_id));
    }
    if vendor == Vendor::Amd && topoext {
        entries.push(amd_topology(topology, index, apic_id));
    }
    entries
}

/// Width in bits of the guest's physical addresses, from `KVM_GET_SUPPORTED_CPUID`; 36, what every
/// 64-bit CPU has, if the leaf is missing.
#[must_use]
pub fn physical_address_bits(supported: &[kvm_cpuid_entry2]) -> u8 {
    find(supported, AMD_SIZES).map_or(36, |leaf| leaf.eax.to_le_bytes()[0])
}

fn find(entries: &[kvm_cpuid_entry2], function: u32) -> Option<&kvm_cpuid_entry2> {
    entries.iter().find(|entry| entry.function == function)
}

fn vendor(supported: &[kvm_cpuid_entry2]) -> Vendor {
    let Some(leaf) = find(supported, 0) else {
        return Vendor::Other;
    };
    let words = [leaf.ebx, leaf.edx, leaf.ecx];
    let name: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    match name.as_slice() {
        b"GenuineIntel" => Vendor::Intel,
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Other,
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = *register & !(1 << bit) | u32::from(on) << bit;
}

/// Replaces `count` bits of a register from bit `low` on; a value too large becomes the largest.
fn put(register: &mut u32, low: u32, count: u32, value: u32) {
    let largest = (1 << count) - 1;
    *register = *register & !(largest << low) | value.min(largest) << low;
}

fn features(entry: &mut kvm_cpuid_entry2, config: &CpuidConfig, apic_id: u32) {
    let threads = config.topology.threads_per_socket();
    set(&mut entry.ecx, 3, false); // MONITOR
    set(&mut entry.ecx, 5, false); // VMX
    set(&mut entry.ecx, 21, true); // x2APIC, always emulated
    set(&mut entry.ecx, 24, config.tsc_deadline);
    set(&mut entry.ecx, 31, true); // a hypervisor is present
    set(&mut entry.edx, 28, threads > 1); // HTT: the thread count below is valid
    put(&mut entry.ebx, 16, 8, threads);
    entry.ebx = entry.ebx & 0x00ff_ffff | apic_id << 24; // leaf 0xb has the upper bits
}

/// Bits of an APIC ID below which two threads share a cache of this level: L1 and L2 belong to a
/// core, larger ones to the socket.
fn sharing_bits(topology: &Topology, level: u32) -> u32 {
    match level {
        0..=2 => topology.thread_bits(),
        _ => topology.socket_bits(),
    }
}

/// Leaf 4. The counts in it are numbers of APIC IDs, gaps included.
fn intel_cache(entry: &mut kvm_cpuid_entry2, topology: &Topology) {
    if entry.eax & 0x1f == 0 {
        return; // no cache: the end of the list
    }
    let sharing = 1 << sharing_bits(topology, entry.eax >> 5 & 7);
    let cores = 1 << (topology.socket_bits() - topology.thread_bits());
    put(&mut entry.eax, 14, 12, sharing - 1);
    put(&mut entry.eax, 26, 6, cores - 1);
}

/// Leaf 0x8000_001d, with the layout of leaf 4 but no count of cores.
fn amd_cache(entry: &mut kvm_cpuid_entry2, topology: &Topology) {
    if entry.eax & 0x1f != 0 {
        let sharing = 1 << sharing_bits(topology, entry.eax >> 5 & 7);
        put(&mut entry.eax, 14, 12, sharing - 1);
    }
}

fn amd_features(entry: &mut kvm_cpuid_entry2, topology: &Topology, vendor: Vendor) {
    if vendor == Vendor::Amd {
        // CmpLegacy: the threads that leaf 1 counts are cores.
        let cores_only = topology.threads_per_core() == 1 && topology.threads_per_socket() > 1;
        set(&mut entry.ecx, 1, cores_only);
        set(&mut entry.ecx, 2, false); // SVM
    }
}

/// Threads of the socket and bits of the APIC ID that number them.
fn amd_sizes(entry: &mut kvm_cpuid_entry2, topology: &Topology) {
    put(&mut entry.ecx, 0, 8, topology.threads_per_socket() - 1);
    put(&mut entry.ecx, 12, 4, topology.socket_bits());
}

/// Leaf 0x8000_001e: one node per socket.
fn amd_topology(topology: &Topology, index: u32, apic_id: u32) -> kvm_cpuid_entry2 {
    let place = topology.place(index);
    kvm_cpuid_entry2 {
        function: AMD_TOPOLOGY,
        eax: apic_id,
        ebx: (topology.threads_per_core() - 1) << 8 | place.core & 0xff,
        ecx: place.socket & 0xff,
        ..Default::default()
    }
}

/// Leaf 0xb or 0x1f: the level of threads, the level of cores, the end.
fn extended_topology(function: u32, topology: &Topology, apic_id: u32) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let levels = [
        (topology.thread_bits(), topology.threads_per_core(), THREAD),
        (topology.socket_bits(), topology.threads_per_socket(), CORE),
        (0, 0, 0),
    ];
    let mut index = 0;
    levels.map(|(shift, threads, kind)| {
        let entry = kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: threads,
            ecx: kind << 8 | index,
            edx: apic_id,
            ..Default::default()
        };
        index += 1;
        entry
    })
}

#[cfg(test)]
mod tests;
