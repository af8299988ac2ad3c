//! Both vendors' leaves, checked by the arithmetic that kernels do on them.

use super::*;

fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

fn word(text: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*text)
}

/// A host with everything on that must not get through.
fn host(name: [&[u8; 4]; 3], max: u32) -> Vec<kvm_cpuid_entry2> {
    vec![
        leaf(0, 0, [max, word(name[0]), word(name[2]), word(name[1])]),
        leaf(1, 0, [0x806f8, 0x5540_0800, 1 << 3 | 1 << 5, 0]),
        leaf(4, 0, [0xfc00_0021 | 0x3f << 14, 0, 0, 0]),
        leaf(4, 1, [0xfc00_0063 | 0x3f << 14, 0, 0, 0]),
        leaf(4, 2, [0, 0, 0, 0]),
        leaf(5, 0, [64, 64, 3, 0x20]),
        leaf(0xb, 0, [1, 2, 0x100, 77]),
        leaf(0x1f, 0, [1, 2, 0x100, 77]),
        leaf(0x4000_0001, 0, [0x1_0000, 0, 0, 0]),
        leaf(0x8000_0001, 0, [0, 0, 1 << 22 | 1 << 2, 0]),
        leaf(0x8000_0008, 0, [0x3030, 0, 0x1_703f, 0]),
        leaf(0x8000_001d, 0, [0x121 | 0x3f << 14, 0, 0, 0]),
        leaf(0x8000_001d, 3, [0x163, 0, 0, 0]),
        leaf(0x8000_001e, 0, [77, 0x1ff, 0x300, 0]),
        leaf(0x8000_0026, 0, [77, 77, 77, 77]),
    ]
}

fn amd() -> Vec<kvm_cpuid_entry2> {
    host([b"Auth", b"enti", b"cAMD"], 0x10)
}

fn intel() -> Vec<kvm_cpuid_entry2> {
    host([b"Genu", b"ineI", b"ntel"], 0x20)
}

fn config(topology: Topology) -> CpuidConfig {
    CpuidConfig { topology, tsc_deadline: true, dedicated: true }
}

fn get(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
    let mut found =
        entries.iter().filter(|entry| (entry.function, entry.index) == (function, index));
    let entry = found.next().expect("leaf");
    assert!(found.next().is_none(), "leaf {function:#x} twice");
    [entry.eax, entry.ebx, entry.ecx, entry.edx]
}

fn has(entries: &[kvm_cpuid_entry2], function: u32) -> bool {
    entries.iter().any(|entry| entry.function == function)
}

#[test]
fn features_of_both_vendors() {
    for supported in [amd(), intel()] {
        let cpuid = vcpu_cpuid(&supported, &config(Topology::flat(6)), 5);
        let [_, ebx, ecx, edx] = get(&cpuid, 1, 0);
        assert_eq!(ebx, 5 << 24 | 6 << 16 | 0x800);
        assert_eq!(ecx, 1 << 21 | 1 << 24 | 1 << 31);
        assert_eq!(edx, 1 << 28);
        assert_eq!(get(&cpuid, 5, 0), [0; 4]);
        assert_eq!(get(&cpuid, 0x4000_0001, 0), [0x1_0000, 0, 0, 1]);
        assert_eq!(get(&cpuid, 0xb, 0), [0, 1, 0x100, 5]);
        assert_eq!(get(&cpuid, 0xb, 1), [3, 6, 0x201, 5]);
        assert_eq!(get(&cpuid, 0xb, 2), [0, 0, 2, 5]);
        assert!(!has(&cpuid, 0x8000_0026));
        assert_eq!(physical_address_bits(&cpuid), 48);
    }
}

#[test]
fn second_topology_leaf_only_where_the_host_has_it() {
    let topology = config(Topology::flat(2));
    assert!(has(&vcpu_cpuid(&intel(), &topology, 0), 0x1f));
    assert!(!has(&vcpu_cpuid(&amd(), &topology, 0), 0x1f));
}

#[test]
fn old_hosts_get_the_topology_leaf() {
    let mut supported = amd();
    supported[0].eax = 7;
    let cpuid = vcpu_cpuid(&supported, &config(Topology::flat(2)), 0);
    assert_eq!(get(&cpuid, 0, 0)[0], 0xb);
}

#[test]
fn intel_caches_are_shared_by_core_or_socket() {
    let cpuid = vcpu_cpuid(&intel(), &config(Topology::new(1, 6, 2)), 0);
    let l1 = get(&cpuid, 4, 0)[0];
    assert_eq!((l1 >> 14 & 0xfff, l1 >> 26, l1 & 0x3fff), (1, 7, 0x21));
    let l3 = get(&cpuid, 4, 1)[0];
    assert_eq!((l3 >> 14 & 0xfff, l3 >> 26), (15, 7));
    assert_eq!(get(&cpuid, 4, 2), [0; 4]);
    assert!(!has(&cpuid, 0x8000_001e));
}

#[test]
fn amd_counts_threads_and_caches() {
    let cpuid = vcpu_cpuid(&amd(), &config(Topology::new(2, 3, 2)), 9);
    // Core 1, thread 1 of socket 1: 0b1_01_1.
    assert_eq!(get(&cpuid, 0x8000_001e, 0), [11, 0x101, 1, 0]);
    assert_eq!(get(&cpuid, 0x8000_0008, 0)[2], 0x1_3005);
    assert_eq!(get(&cpuid, 0x8000_0001, 0)[2], 1 << 22);
    assert_eq!(get(&cpuid, 0x8000_001d, 0)[0] >> 14, 1);
    assert_eq!(get(&cpuid, 0x8000_001d, 3)[0] >> 14, 7);
}

#[test]
fn amd_cores_without_threads_say_so() {
    let cpuid = vcpu_cpuid(&amd(), &config(Topology::flat(4)), 0);
    assert_eq!(get(&cpuid, 0x8000_0001, 0)[2], 1 << 22 | 1 << 1);
    let single = vcpu_cpuid(&amd(), &config(Topology::flat(1)), 0);
    assert_eq!(get(&single, 0x8000_0001, 0)[2], 1 << 22);
    assert_eq!(get(&single, 1, 0)[3], 0);
}

#[test]
fn large_counts_saturate() {
    let cpuid = vcpu_cpuid(&intel(), &config(Topology::flat(1000)), 999);
    assert_eq!(get(&cpuid, 1, 0)[1] >> 16, (999 & 0xff) << 8 | 0xff);
    assert_eq!(get(&cpuid, 0xb, 1)[3], 999);
}
