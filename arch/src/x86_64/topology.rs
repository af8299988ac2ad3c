//! How vCPUs are arranged in sockets, cores and threads, and the APIC IDs that follow from it.

use std::collections::{BTreeMap, BTreeSet};

/// Arrangement of vCPUs. Cores need not have as many threads as others: a guest may have pairs of
/// threads beside cores of their own, as hybrid CPUs do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    places: Vec<CpuPlace>,
    cores: u32,
    threads: u32,
    socket_threads: u32,
}

impl Topology {
    /// One socket of `cores` cores with one thread each: what pinned vCPUs on cores of their own
    /// are. APIC IDs equal vCPU indices. `cores` must not be 0.
    #[must_use]
    pub fn flat(cores: u32) -> Self {
        Self::new(1, cores, 1)
    }

    /// `sockets` sockets of `cores` cores of `threads` threads, counted threads first: with two
    /// threads a core, vCPU 0 and 1 share core 0.
    ///
    /// # Panics
    /// If any of them is 0: there is no machine without CPUs, and plans refuse it earlier.
    #[must_use]
    pub fn new(sockets: u32, cores: u32, threads: u32) -> Self {
        let place = |index: u32| CpuPlace {
            socket: index / (cores * threads),
            core: index / threads % cores,
            thread: index % threads,
        };
        Self::of((0..sockets * cores * threads).map(place).collect())
    }

    /// The place of each vCPU, by index. Sockets, cores of a socket and threads of a core are
    /// numbered from 0, and vCPU 0 is the first of all.
    ///
    /// # Panics
    /// If there is no vCPU, if two have one place, or if vCPU 0 is not the first: mistakes in the
    /// program.
    #[must_use]
    pub fn of(places: Vec<CpuPlace>) -> Self {
        let first = CpuPlace { socket: 0, core: 0, thread: 0 };
        assert_eq!(places.first(), Some(&first), "a machine boots on its first CPU");
        let distinct: BTreeSet<&CpuPlace> = places.iter().collect();
        assert_eq!(distinct.len(), places.len(), "each vCPU has a place of its own");
        let most = |number: fn(&CpuPlace) -> u32| places.iter().map(number).max().unwrap_or(0) + 1;
        let (cores, threads) = (most(|place| place.core), most(|place| place.thread));
        let mut of_socket = BTreeMap::new();
        for place in &places {
            *of_socket.entry(place.socket).or_insert(0) += 1;
        }
        let socket_threads = of_socket.into_values().max().unwrap_or(0);
        Self { places, cores, threads, socket_threads }
    }

    /// Number of vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        u32::try_from(self.places.len()).expect("APIC IDs have 32 bits")
    }

    /// Threads of the core that has most.
    #[must_use]
    pub fn threads_per_core(&self) -> u32 {
        self.threads
    }

    /// Threads of the socket that has most.
    #[must_use]
    pub fn threads_per_socket(&self) -> u32 {
        self.socket_threads
    }

    /// Low bits of an APIC ID that number the threads of a core.
    #[must_use]
    pub fn thread_bits(&self) -> u32 {
        bits_for(self.threads)
    }

    /// Low bits of an APIC ID that number the threads of a socket: core and thread.
    #[must_use]
    pub fn socket_bits(&self) -> u32 {
        self.thread_bits() + bits_for(self.cores)
    }

    /// APIC ID of the vCPU with this index (0..[`vcpus`](Self::vcpus)).
    ///
    /// KVM gives a vCPU its id as APIC ID, so `KVM_CREATE_VCPU` needs this number, not the index.
    /// Cores and sockets start at powers of two (Intel SDM volume 3, section 9.9.1), so IDs have
    /// gaps when the counts are none.
    #[must_use]
    pub fn apic_id(&self, index: u32) -> u32 {
        let place = self.place(index);
        place.socket << self.socket_bits() | place.core << self.thread_bits() | place.thread
    }

    /// APIC IDs of all vCPUs, by index.
    #[must_use]
    pub fn apic_ids(&self) -> Vec<u32> {
        (0..self.vcpus()).map(|index| self.apic_id(index)).collect()
    }

    /// Socket, core in the socket and thread in the core of the vCPU with this index.
    #[must_use]
    pub fn place(&self, index: u32) -> CpuPlace {
        self.places[index as usize]
    }
}

/// Where one vCPU is in a [`Topology`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuPlace {
    /// Socket, from 0.
    pub socket: u32,
    /// Core within the socket, from 0.
    pub core: u32,
    /// Thread within the core, from 0.
    pub thread: u32,
}

/// Bits that number `count` things; 0 for one thing.
fn bits_for(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_ids_are_indices() {
        let topology = Topology::flat(5);
        assert_eq!(topology.apic_ids(), [0, 1, 2, 3, 4]);
        assert_eq!((topology.thread_bits(), topology.socket_bits()), (0, 3));
    }

    #[test]
    fn cores_and_sockets_start_at_powers_of_two() {
        let topology = Topology::new(2, 3, 2);
        let ids = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13];
        assert_eq!(topology.apic_ids(), ids);
        let place = CpuPlace { socket: 1, core: 1, thread: 1 };
        assert_eq!(topology.place(9), place);
    }

    #[test]
    fn cores_may_differ_in_their_threads() {
        let places = [(0, 0), (1, 0), (0, 1), (2, 0)];
        let places = places.map(|(core, thread)| CpuPlace { socket: 0, core, thread });
        let topology = Topology::of(places.to_vec());
        assert_eq!(topology.apic_ids(), [0, 2, 1, 4]);
        assert_eq!((topology.threads_per_core(), topology.threads_per_socket()), (2, 4));
    }
}
