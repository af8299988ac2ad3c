//! Limits of the process: of its login, its unit, its container.

use super::{Advice, Code, Steps};
use crate::host::{CgroupLimit, Container, HostProfile};
use crate::units::{Bytes, PageSize};

/// Not enough memory may be locked; `need` is in bytes.
pub fn locked_memory(host: &HostProfile, need: u64) -> Steps {
    let kib = need.div_ceil(1024);
    match host.system.container {
        Some(Container::Pod) => vec![
            "add the capability IPC_LOCK to the container: \
             securityContext.capabilities.add: [\"IPC_LOCK\"]"
                .to_owned(),
            "or raise LimitMEMLOCK of the node's containerd or CRI-O (`systemctl edit`)".to_owned(),
        ],
        Some(Container::Engine) => vec![
            "start the container with `--ulimit memlock=-1`, or with `--cap-add IPC_LOCK`"
                .to_owned(),
        ],
        None => vec![
            format!("`ulimit -l {kib}`, from a shell that may"),
            format!("or `LimitMEMLOCK={need}` in berth's systemd unit"),
            format!("or `USER - memlock {kib}` in /etc/security/limits.conf"),
            "or give berth CAP_IPC_LOCK".to_owned(),
        ],
    }
}

/// Not enough files may be open.
pub fn open_files(host: &HostProfile, need: u64) -> Steps {
    vec![match host.system.container {
        Some(Container::Pod) => {
            format!("raise LimitNOFILE of the node's containerd or CRI-O to {need}")
        }
        Some(Container::Engine) => {
            format!("start the container with `--ulimit nofile={need}`")
        }
        None => format!("`ulimit -n {need}`, or `LimitNOFILE={need}` in berth's systemd unit"),
    }]
}

/// A limit of the process that guest memory counts against whatever it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeLimit {
    /// RLIMIT_FSIZE: guest memory is a file, and the kernel kills who makes one larger.
    File,
    /// RLIMIT_AS: guest memory and the devices' memory are mapped.
    AddressSpace,
}

impl SizeLimit {
    /// The fault of having too little of it.
    pub fn code(self) -> Code {
        match self {
            Self::File => Code::FileSizeLow,
            Self::AddressSpace => Code::AddressLimitLow,
        }
    }

    /// As getrlimit(2) calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "RLIMIT_FSIZE",
            Self::AddressSpace => "RLIMIT_AS",
        }
    }

    /// What takes so much of it, as the beginning of a sentence that an amount ends.
    pub fn consumer(self) -> &'static str {
        match self {
            Self::File => "guest memory is a file of",
            Self::AddressSpace => "guest memory and the devices' memory take addresses of",
        }
    }
}

/// Addresses that berth takes beside guest memory, at most: its code, and a stack for each thread.
const OWN_ADDRESSES: u64 = 1 << 30;

/// A size that the process may have is below `need` bytes.
pub fn size(host: &HostProfile, limit: SizeLimit, need: u64) -> Steps {
    let (flag, unit, name, bytes) = match limit {
        SizeLimit::File => ("f", "LimitFSIZE", "fsize", need),
        SizeLimit::AddressSpace => ("v", "LimitAS", "as", need + OWN_ADDRESSES),
    };
    vec![match host.system.container {
        Some(Container::Pod) => {
            format!("raise {unit} of the node's containerd or CRI-O to {bytes}")
        }
        Some(Container::Engine) => format!("start the container with `--ulimit {name}={bytes}`"),
        None => format!(
            "`ulimit -{flag} {}` in bash, or `{unit}={bytes}` in berth's systemd unit",
            bytes.div_ceil(1024)
        ),
    }]
}

/// What a cgroup limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupResource {
    /// Huge pages of this size, in bytes.
    HugePages(PageSize),
    /// Memory, in bytes.
    Memory,
    /// Processes and threads.
    Tasks,
}

impl CgroupResource {
    /// The fault of having too little of it.
    pub fn code(self) -> Code {
        match self {
            Self::HugePages(_) => Code::HugepagesLimited,
            Self::Memory => Code::MemoryLimited,
            Self::Tasks => Code::TasksLimited,
        }
    }

    /// An amount of it as people read it.
    pub fn amount(self, amount: u64) -> String {
        match self {
            Self::HugePages(size) => format!("{} of {size} pages", Bytes(amount)),
            Self::Memory => format!("{} of memory", Bytes(amount)),
            Self::Tasks => format!("{amount} threads"),
        }
    }
}

/// A cgroup allows less than `need`.
pub fn cgroup(
    host: &HostProfile,
    resource: CgroupResource,
    need: u64,
    limit: &CgroupLimit,
) -> Advice {
    let seen = format!(
        "{} are needed, and the cgroup leaves {} of {}",
        resource.amount(need),
        resource.amount(limit.room),
        resource.amount(limit.max)
    );
    let gib = |name: &str| format!("request {name}: {}Gi in the pod", need.div_ceil(1 << 30));
    let mib = |name: &str| format!("request {name}: {}Mi in the pod", need.div_ceil(1 << 20));
    let step = match (host.system.container, resource) {
        (Some(Container::Pod), CgroupResource::HugePages(PageSize::Size1G)) => gib("hugepages-1Gi"),
        (Some(Container::Pod), CgroupResource::HugePages(_)) => mib("hugepages-2Mi"),
        (Some(Container::Pod), CgroupResource::Memory) => {
            format!("raise limits.memory of the container to {}Mi or more", need.div_ceil(1 << 20))
        }
        (Some(Container::Pod), CgroupResource::Tasks) => {
            "raise podPidsLimit of the node's kubelet".to_owned()
        }
        (Some(Container::Engine), CgroupResource::Memory) => {
            format!("start the container with `--memory` of {} or more", Bytes(need))
        }
        (Some(Container::Engine), CgroupResource::Tasks) => {
            "start the container with a larger `--pids-limit`".to_owned()
        }
        (None, CgroupResource::Memory) => {
            format!("raise MemoryMax of berth's unit or slice to {} or more", Bytes(need))
        }
        (None, CgroupResource::Tasks) => "raise TasksMax of berth's unit or slice".to_owned(),
        (_, CgroupResource::HugePages(_)) => {
            format!(
                "`echo max > {}`, and in the cgroups above it; in a pod, {}",
                limit.file,
                match resource {
                    CgroupResource::HugePages(PageSize::Size1G) => gib("hugepages-1Gi"),
                    _ => mib("hugepages-2Mi"),
                }
            )
        }
    };
    Advice::new(limit.file.clone(), seen).step(step)
}

/// Resources that a cgroup may limit, with what a machine needs of each: `bytes` of guest memory
/// in pages of `size`, and `threads`.
pub fn cgroup_needs(size: PageSize, bytes: u64, threads: u64) -> [(CgroupResource, u64); 2] {
    // Huge pages count as memory only where the tree was mounted so (memory_hugetlb_accounting).
    let memory = match size {
        PageSize::Size4K => CgroupResource::Memory,
        PageSize::Size2M | PageSize::Size1G => CgroupResource::HugePages(size),
    };
    [(memory, bytes), (CgroupResource::Tasks, threads)]
}

/// The limit of a resource on this host.
pub fn cgroup_limit(host: &HostProfile, resource: CgroupResource) -> Option<&CgroupLimit> {
    match resource {
        CgroupResource::HugePages(size) => host.cgroup.huge_pages.get(&size),
        CgroupResource::Memory => host.cgroup.memory.as_ref(),
        CgroupResource::Tasks => host.cgroup.tasks.as_ref(),
    }
}
