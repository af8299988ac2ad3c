//! How a machine is shared out over nodes of the host.

/// What one node has of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// The node of the memory.
    pub(super) node: u32,
    /// The node of the vCPUs: the same, if it has CPUs.
    pub(super) cpu_node: u32,
    /// Bytes of guest memory.
    pub(super) memory: u64,
    /// vCPUs, when the config names no CPUs.
    pub(super) vcpus: usize,
}
