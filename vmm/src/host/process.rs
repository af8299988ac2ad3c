//! What this process may use: CPUs, nodes, limits, capabilities.

use serde::Serialize;

use super::HostError;
use super::id_set::IdSet;
use super::root::Root;

/// What this process may use.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Process {
    /// CPUs of its affinity, which its cpuset bounds.
    pub cpus: IdSet,
    /// NUMA nodes that its cpuset lets it take memory from; empty when the kernel names none.
    pub nodes: IdSet,
    /// Hard limit of bytes of locked memory (RLIMIT_MEMLOCK); `None` is unlimited.
    pub memlock: Option<u64>,
    /// Hard limit of open files (RLIMIT_NOFILE); `None` is unlimited.
    pub open_files: Option<u64>,
    /// Hard limit of bytes of a file that it writes (RLIMIT_FSIZE), as of guest RAM, which is a
    /// file in memory; `None` is unlimited.
    pub file_size: Option<u64>,
    /// Hard limit of bytes of address space (RLIMIT_AS); `None` is unlimited.
    pub address_space: Option<u64>,
    /// Seconds of CPU time after which the kernel kills it (RLIMIT_CPU); `None` is unlimited.
    pub cpu_time: Option<u64>,
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
}

/// A capability that decides whether a limit counts (capabilities(7)).
#[derive(Clone, Copy, Debug)]
pub enum Capability {
    /// Writes files whatever their mode.
    DacOverride = 1,
    /// Locks memory beyond RLIMIT_MEMLOCK.
    IpcLock = 14,
    /// Raises its own limits.
    SysResource = 24,
}

impl Process {
    /// `online` is what it may use where a snapshot does not say.
    pub(super) fn read(root: &Root, online: &IdSet) -> Result<Self, HostError> {
        const STATUS: &str = "/proc/self/status";
        const LIMITS: &str = "/proc/self/limits";

        let mut process = Self::default();
        let Some(status) = root.text(STATUS)? else {
            if root.is_live() {
                return Err(HostError::Absent { path: root.path(STATUS) });
            }
            // Whoever plans for another host means a process that may do all.
            let capabilities = u64::MAX;
            return Ok(Self { cpus: online.clone(), capabilities, ..process });
        };
        for (key, value) in status.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match key {
                "Cpus_allowed_list" => {
                    process.cpus = root.parse(STATUS, value, "a list of CPUs")?;
                }
                "Mems_allowed_list" => {
                    process.nodes = root.parse(STATUS, value, "a list of nodes")?;
                }
                "CapEff" => {
                    process.capabilities = u64::from_str_radix(value, 16).unwrap_or_default();
                }
                _ => {}
            }
        }
        let limits = root.text(LIMITS)?.unwrap_or_default();
        // "Max open files            1024                 524288               files"
        let hard = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        process.memlock = hard("Max locked memory");
        process.open_files = hard("Max open files");
        process.file_size = hard("Max file size");
        process.address_space = hard("Max address space");
        process.cpu_time = hard("Max cpu time");
        Ok(process)
    }

    /// Whether it has `capability`.
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities >> capability as u32 & 1 == 1
    }
}
