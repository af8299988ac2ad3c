//! Parameters of the kernel whose values may be shown and sent: those that concern CPUs, memory,
//! IOMMUs and drivers. Any other may hold what nobody means to send: passwords, addresses, names
//! of disks and servers.

/// By their first letters.
const NAMES: [&str; 38] = [
    "acpi",
    "amd_iommu",
    "audit",
    "console",
    "cpuidle",
    "default_hugepagesz",
    "efi",
    "hugepages",
    "hugetlb",
    "idle",
    "initcall_blacklist",
    "intel_",
    "intremap",
    "iommu",
    "irqaffinity",
    "isolcpus",
    "kthread_cpus",
    "kvm",
    "ivrs_",
    "lockdown",
    "maxcpus",
    "mem",
    "mitigations",
    "modprobe.blacklist",
    "module_blacklist",
    "nohz",
    "nosmt",
    "nr_cpus",
    "numa",
    "pci",
    "preempt",
    "processor",
    "rcu",
    "rd.driver",
    "sysfb",
    "transparent_hugepage",
    "vfio",
    "video",
];

/// Whether a parameter is one of them.
pub(super) fn is_plain(parameter: &str) -> bool {
    NAMES.iter().any(|name| parameter.starts_with(name))
}
