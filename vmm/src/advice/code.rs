//! The codes that scripts see: of the faults that `berth check` looks for, and of the refusals
//! that are none of these. A refusal for a fault has the fault's code.

use std::fmt;

use serde::{Serialize, Serializer};

/// Where a code is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A fault that `berth check` looks for; refusals have it too.
    Finding,
    /// Met in what a plan has to say, and in no refusal.
    Shortfall,
    /// The code of refusals only.
    Refusal,
}

macro_rules! codes {
    ($($variant:ident $kind:ident $name:literal $topic:literal $why:literal)*) => {
        /// A fault, or a reason to refuse.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $why] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the checks.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Where it is met.
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// As scripts see it; never changes.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What was looked at, in two or three words.
            pub fn topic(self) -> &'static str {
                match self { $(Self::$variant => $topic,)* }
            }

            /// Why the fault matters.
            pub fn why(self) -> &'static str {
                match self { $(Self::$variant => $why,)* }
            }
        }
    };
}

codes! {
    HostForeign Finding "HOST-FOREIGN" "kind of host"
        "berth runs on x86-64 hosts only"
    SnapshotIncomplete Finding "SNAPSHOT-INCOMPLETE" "snapshot"
        "what was not captured says nothing of the host"
    CpuNoVirt Finding "CPU-NO-VIRT" "CPU virtualization"
        "without it the CPUs cannot run a guest"
    KvmUnavailable Finding "KVM-UNAVAILABLE" "/dev/kvm"
        "berth runs guests through KVM"
    KernelOld Finding "KERNEL-OLD" "kernel version"
        "older kernels lack calls that berth makes"
    Lockdown Finding "LOCKDOWN" "kernel lockdown"
        "a locked down kernel refuses unsigned modules and writes to PCI configuration space"
    IommuAbsent Finding "IOMMU-ABSENT" "IOMMU in the firmware"
        "only an IOMMU keeps a guest's device out of the host's memory"
    IommuOff Finding "IOMMU-OFF" "IOMMU"
        "only an IOMMU keeps a guest's device out of the host's memory"
    IommuNarrow Finding "IOMMU-NARROW" "IOMMU address width"
        "a device reaches no guest memory above what the IOMMU translates"
    HostDmaTranslated Finding "HOST-DMA-TRANSLATED" "host DMA"
        "the host's own devices pay for translation that only guests' devices need"
    IntremapOff Finding "INTREMAP-OFF" "interrupt remapping"
        "without it a guest could send any interrupt through its device, and VFIO refuses"
    UnsafeInterrupts Finding "UNSAFE-INTERRUPTS" "safe interrupts"
        "with this set, VFIO starts guests that can interrupt the host at will"
    VfioNoModule Finding "VFIO-NO-MODULE" "VFIO modules"
        "vfio-pci is the driver that hands devices to guests"
    VfioNoAccess Finding "VFIO-NO-ACCESS" "VFIO device files"
        "berth opens the device's group through them"
    DeviceAbsent Finding "DEVICE-ABSENT" "device present"
        "the machine cannot get what is not there"
    DeviceBridge Finding "DEVICE-BRIDGE" "device kind"
        "only endpoints can be passed through"
    DeviceUnreachable Finding "DEVICE-UNREACHABLE" "device answers"
        "a device that does not answer cannot be reset, and its guest reads all ones"
    BarUnassigned Finding "BAR-UNASSIGNED" "addresses of BARs"
        "neither a driver nor a guest reaches what has no address"
    BarHeld Finding "BAR-HELD" "memory of BARs"
        "a guest cannot map memory that something on the host holds"
    VfToken Finding "VF-TOKEN" "VF token"
        "VFIO opens a VF of a physical function on vfio-pci with a token only, which berth has not"
    DeviceNoIommu Finding "DEVICE-NO-IOMMU" "device behind an IOMMU"
        "VFIO hands over only what an IOMMU is in front of"
    DeviceInUse Finding "DEVICE-IN-USE" "device idle"
        "the host loses it when it is given away"
    DeviceNotBound Finding "DEVICE-NOT-BOUND" "driver"
        "VFIO hands over only what vfio-pci is bound to"
    DeviceTakenBack Finding "DEVICE-TAKEN-BACK" "binding kept"
        "what binds first after a reboot or a rescan has the device"
    PersistMoved Finding "PERSIST-MOVED" "persisted functions"
        "addresses shift when cards are added, and what sits there now goes to vfio-pci at boot"
    GroupNotViable Finding "GROUP-NOT-VIABLE" "IOMMU group viable"
        "functions of a group reach each other's memory: a guest gets all of them or none"
    VfioAttach Finding "VFIO-ATTACH" "VFIO's own answer"
        "a start puts the group into an IOMMU domain before it opens a device"
    GroupHeld Finding "GROUP-HELD" "IOMMU group free"
        "a group belongs to one process at a time"
    AcsMissing Finding "ACS-MISSING" "isolation on the path"
        "a bridge without access control services passes one device's DMA on to another"
    ResetNone Finding "RESET-NONE" "reset method"
        "without a reset the guest finds the device as its last user left it"
    Rmrr Finding "RMRR" "memory reserved for the device"
        "the firmware uses the device itself through this memory, and the kernel refuses to move it"
    LinkReduced Finding "LINK-REDUCED" "PCI Express link"
        "the device moves less data than it and its slot could"
    NodeUnknown Finding "NODE-UNKNOWN" "device's NUMA node"
        "memory and CPUs across the interconnect cost latency and bandwidth"
    DmaFaults Finding "DMA-FAULTS" "IOMMU faults in the log"
        "the IOMMU stopped the device from reaching memory: a driver or the device is at fault"
    DeviceFailed Finding "DEVICE-FAILED" "device's failures in the log"
        "a device that failed once may fail its next guest, and some only mend when they lose power"
    SriovNoRoom Finding "SRIOV-NO-ROOM" "room for virtual functions"
        "the kernel makes no virtual function whose memory has no address"
    HugepagesShort Finding "HUGEPAGES-SHORT" "huge pages"
        "guest memory is made of them, on the device's node"
    HugepagesElsewhere Finding "HUGEPAGES-ELSEWHERE" "huge pages on the right node"
        "memory of another node costs the device and the guest latency and bandwidth"
    SmallPages Finding "SMALL-PAGES" "page size"
        "small pages cost the IOMMU and the CPUs a translation every 4 KiB"
    IovaHoles Finding "IOVA-HOLES" "addresses for DMA"
        "guest memory has to leave out addresses that the IOMMU reserves"
    MemlockLow Finding "MEMLOCK-LOW" "locked memory limit"
        "VFIO counts all guest memory against it"
    FilesLow Finding "FILES-LOW" "open files limit"
        "each interrupt vector needs files"
    HugepagesLimited Finding "HUGEPAGES-LIMITED" "huge pages of the cgroup"
        "a cgroup's limit ends a process at the first page beyond it"
    MemoryLimited Finding "MEMORY-LIMITED" "memory of the cgroup"
        "a cgroup's limit ends a process at the first page beyond it"
    TasksLimited Finding "TASKS-LIMITED" "threads of the cgroup"
        "each vCPU is a thread"
    CpuNotAllowed Finding "CPU-NOT-ALLOWED" "cpuset"
        "berth can only place vCPUs where it may run"
    CpuFar Finding "CPU-FAR" "vCPUs near the device"
        "vCPUs across the interconnect from device and memory are slower"
    CpuSmtShared Finding "CPU-SMT-SHARED" "SMT siblings"
        "what runs on the other thread of a core takes turns with the vCPU"
    CpuNotIsolated Finding "CPU-NOT-ISOLATED" "isolated CPUs"
        "the host's own tasks and timers run on the vCPUs' CPUs too"
    CpuGovernor Finding "CPU-GOVERNOR" "CPU frequency"
        "a CPU that is kept at a low frequency runs its vCPU slowly"
    CpuIdleDeep Finding "CPU-IDLE-DEEP" "idle states"
        "a CPU in deep sleep is late to take an interrupt for its vCPU"
    CpuKindsMixed Finding "CPU-KINDS-MIXED" "kinds of cores"
        "the guest takes its CPUs to be alike, and waits for the slowest"
    IrqOnVcpu Finding "IRQ-ON-VCPU" "device's host interrupts"
        "a host interrupt on a vCPU's CPU makes the guest leave it"
    Irqbalance Finding "IRQBALANCE" "irqbalance"
        "it moves the device's interrupts onto any CPU, those of vCPUs too"
    VectorsMany Finding "VECTORS-MANY" "interrupt vectors"
        "a CPU has some 200 vectors for devices; without one, enabling MSI-X fails"
    Balloon Finding "BALLOON" "balloon of this host"
        "guest memory is pinned and cannot be given back to the hypervisor below"
    Ksm Finding "KSM" "KSM"
        "ksmd costs CPU time, and pinned guest memory is never merged"
    NumaBalancing Finding "NUMA-BALANCING" "NUMA balancing"
        "it unmaps memory to watch it, and pinned guest memory is never moved"
    PlanRefused Finding "PLAN-REFUSED" "plan"
        "the machine does not start"
    CpuSharedByMachines Shortfall "CPU-SHARED-BY-MACHINES" "other machines' CPUs"
        "two machines take turns on a core"
    CpuPackagesSeveral Shortfall "CPU-PACKAGES-SEVERAL" "packages of vCPUs"
        "memory and caches of another package are farther"
    CpuOfHost Shortfall "CPU-OF-HOST" "the host's first core"
        "the host's own work starts on CPU 0"
    CpuOfVmm Shortfall "CPU-OF-VMM" "CPUs of berth's own threads"
        "berth's own threads take turns with vCPUs"
    SmtHidden Shortfall "SMT-HIDDEN" "SMT in the guest"
        "the guest's scheduler takes threads of one core for cores"

    ConfigUnreadable Refusal "CONFIG-UNREADABLE" "config file"
        "the config file cannot be read"
    ConfigInvalid Refusal "CONFIG-INVALID" "config"
        "the config describes no machine"
    HostUnreadable Refusal "HOST-UNREADABLE" "files of the host"
        "a file of the host cannot be read"
    HostMalformed Refusal "HOST-MALFORMED" "files of the host"
        "a file of the host holds something else than the kernel writes"
    HostAbsent Refusal "HOST-ABSENT" "files of the host"
        "a file that every host has is not there"
    SnapshotInvalid Refusal "SNAPSHOT-INVALID" "snapshot"
        "what was given is no snapshot of a host"
    FileUnusable Refusal "FILE-UNUSABLE" "kernel and initrd"
        "a file that the config names cannot be used"
    ConsoleFile Refusal "CONSOLE-FILE" "console's file"
        "the console's file cannot be written"
    KernelFormat Refusal "KERNEL-FORMAT" "guest's kernel"
        "the file is no kernel that berth boots"
    CmdlineLong Refusal "CMDLINE-LONG" "guest's command line"
        "the guest's kernel would cut its command line"
    GuestMemorySmall Refusal "GUEST-MEMORY-SMALL" "guest memory"
        "kernel and initrd do not fit into guest memory"
    DeviceNotVirtual Refusal "DEVICE-NOT-VIRTUAL" "ports of devices"
        "only virtual functions have a port in a card's switch"
    VfNoneFree Refusal "VF-NONE-FREE" "free virtual functions"
        "all virtual functions are taken"
    DevicesVariable Refusal "DEVICES-VARIABLE" "devices of the environment"
        "the environment does not name the devices"
    DeviceTwice Refusal "DEVICE-TWICE" "devices"
        "two devices of the config are one function"
    NodeAbsent Refusal "NODE-ABSENT" "NUMA node"
        "the node is not on this host"
    NodeEmpty Refusal "NODE-EMPTY" "NUMA node"
        "the node has no memory"
    NodeNotAllowed Refusal "NODE-NOT-ALLOWED" "NUMA node"
        "berth may not use that node's memory"
    NodesSeveral Refusal "NODES-SEVERAL" "NUMA nodes of devices"
        "the config does not want devices of several nodes"
    CpusFew Refusal "CPUS-FEW" "CPUs for vCPUs"
        "each vCPU gets a CPU of its own"
    CpuCount Refusal "CPU-COUNT" "placement.cpus"
        "each vCPU needs a CPU"
    CpuNotDedicated Refusal "CPU-NOT-DEDICATED" "cpu.dedicated"
        "who shares a CPU with a vCPU that never gives it away would not run"
    CpuOffline Refusal "CPU-OFFLINE" "placement"
        "a CPU that the config names is not online"
    MemoryShort Refusal "MEMORY-SHORT" "memory of the node"
        "guest memory is taken whole, from one node where that is wanted"
    AddressSpace Refusal "ADDRESS-SPACE" "guest addresses"
        "CPUs or the IOMMU cannot address so much"
    DevicesMany Refusal "DEVICES-MANY" "the guest's bus"
        "a bus has 32 places"
    BarWindowFull Refusal "BAR-WINDOW-FULL" "windows for BARs"
        "BARs of that kind have 512 MiB"
    PersistVf Refusal "PERSIST-VF" "bind --persist"
        "virtual functions are made after the host has booted"
    SriovAbsent Refusal "SRIOV-ABSENT" "SR-IOV"
        "the function cannot have virtual functions"
    SriovFew Refusal "SRIOV-FEW" "SR-IOV"
        "the function has fewer virtual functions to offer"
    VfAbsent Refusal "VF-ABSENT" "virtual functions"
        "there is no such virtual function"
    PortsUnsettable Refusal "PORTS-UNSETTABLE" "ports of virtual functions"
        "ports are set through the physical function's interface"
    PortsUnreadable Refusal "PORTS-UNREADABLE" "ports of virtual functions"
        "the kernel does not tell the ports"
    BelongsToRun Refusal "BELONGS-TO-RUN" "devices of running machines"
        "a machine that runs gives its devices back itself"
    SettingUnreadable Refusal "SETTING-UNREADABLE" "settings of the host"
        "what is to change cannot be read"
    SettingRefused Refusal "SETTING-REFUSED" "settings of the host"
        "the kernel refuses the change"
    FileSizeLow Refusal "FILE-SIZE-LOW" "limit of file sizes"
        "guest memory is a file, and the kernel kills who makes one larger than its limit"
    AddressLimitLow Refusal "ADDRESS-LIMIT-LOW" "limit of addresses"
        "guest memory and the devices' memory are mapped"
    SettingUnchanged Refusal "SETTING-UNCHANGED" "settings of the host"
        "the kernel took the change and did not make it"
    SettingGone Refusal "SETTING-GONE" "settings of the host"
        "what is to change went away"
    NotRestored Refusal "NOT-RESTORED" "berth restore"
        "something could not be put back"
    JournalUnusable Refusal "JOURNAL-UNUSABLE" "journal"
        "nothing is changed that could not be put back"
    StateUnsafe Refusal "STATE-UNSAFE" "state folder"
        "what others can change or lock tells nothing and stops everything"
    StateBusy Refusal "STATE-BUSY" "locks of the state folder"
        "one berth at a time changes drivers, and one chooses CPUs"
    JournalDamaged Refusal "JOURNAL-DAMAGED" "journal"
        "the journal is not as berth wrote it"
    PersistFailed Refusal "PERSIST-FAILED" "bind --persist"
        "a file of the host's configuration cannot be written"
    GuardFailed Refusal "GUARD-FAILED" "guard of a run"
        "devices of a run are given back by a process of their own"
    ModuleRefused Refusal "MODULE-REFUSED" "kernel modules"
        "a module of the kernel does not load"
    KvmRefused Refusal "KVM-REFUSED" "KVM"
        "KVM refused a call"
    MemoryRefused Refusal "MEMORY-REFUSED" "guest memory"
        "guest memory is not to be had any more"
    BootFailed Refusal "BOOT-FAILED" "guest's kernel"
        "the guest's kernel cannot be loaded"
    VcpuFailed Refusal "VCPU-FAILED" "vCPUs"
        "a vCPU cannot be set up or cannot go on"
    VfioRefused Refusal "VFIO-REFUSED" "VFIO"
        "VFIO refused a device"
    DmaRefused Refusal "DMA-REFUSED" "guest memory for DMA"
        "the IOMMU does not map guest memory"
    DeviceRefused Refusal "DEVICE-REFUSED" "device"
        "the device cannot be put into the machine"
    ConsoleFailed Refusal "CONSOLE-FAILED" "console"
        "the console cannot be used"
    SandboxFailed Refusal "SANDBOX-FAILED" "sandbox"
        "berth does not run without the limits that it asked for"
    SystemRefused Refusal "SYSTEM-REFUSED" "system calls"
        "the host's kernel refused a call"
    OutputTerminal Refusal "OUTPUT-TERMINAL" "standard output"
        "a snapshot is an archive and no text"
    OutputFailed Refusal "OUTPUT-FAILED" "standard output"
        "standard output takes no more"
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_differ_and_are_made_for_scripts() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        let good = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c == '-');
        assert!(names.iter().all(|name| good(name)));
    }
}
