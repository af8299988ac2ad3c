//! The faults that `berth check` knows, each with the code that scripts see.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! codes {
    ($($variant:ident $name:literal $topic:literal $why:literal)*) => {
        /// A fault that is looked for. A finding with it says whether it is there.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $why] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the checks.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

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
    CpuNoVirt "CPU-NO-VIRT" "CPU virtualization"
        "without it the CPUs cannot run a guest"
    KvmUnavailable "KVM-UNAVAILABLE" "/dev/kvm"
        "berth runs guests through KVM"
    KernelOld "KERNEL-OLD" "kernel version"
        "older kernels lack calls that berth makes"
    Lockdown "LOCKDOWN" "kernel lockdown"
        "a locked down kernel refuses unsigned modules and writes to PCI configuration space"
    IommuAbsent "IOMMU-ABSENT" "IOMMU in the firmware"
        "only an IOMMU keeps a guest's device out of the host's memory"
    IommuOff "IOMMU-OFF" "IOMMU"
        "only an IOMMU keeps a guest's device out of the host's memory"
    IommuNarrow "IOMMU-NARROW" "IOMMU address width"
        "a device reaches no guest memory above what the IOMMU translates"
    HostDmaTranslated "HOST-DMA-TRANSLATED" "host DMA"
        "the host's own devices pay for translation that only guests' devices need"
    IntremapOff "INTREMAP-OFF" "interrupt remapping"
        "without it a guest could send any interrupt through its device, and VFIO refuses"
    UnsafeInterrupts "UNSAFE-INTERRUPTS" "safe interrupts"
        "with this set, VFIO starts guests that can interrupt the host at will"
    VfioNoModule "VFIO-NO-MODULE" "VFIO modules"
        "vfio-pci is the driver that hands devices to guests"
    VfioNoAccess "VFIO-NO-ACCESS" "VFIO device files"
        "berth opens the device's group through them"
    DeviceAbsent "DEVICE-ABSENT" "device present"
        "the machine cannot get what is not there"
    DeviceBridge "DEVICE-BRIDGE" "device kind"
        "only endpoints can be passed through"
    DeviceNoIommu "DEVICE-NO-IOMMU" "device behind an IOMMU"
        "VFIO hands over only what an IOMMU is in front of"
    DeviceInUse "DEVICE-IN-USE" "device idle"
        "the host loses it when it is given away"
    DeviceNotBound "DEVICE-NOT-BOUND" "driver"
        "VFIO hands over only what vfio-pci is bound to"
    DeviceTakenBack "DEVICE-TAKEN-BACK" "binding kept"
        "what binds first after a reboot or a rescan has the device"
    PersistMoved "PERSIST-MOVED" "cards kept at boot"
        "an address that another card has now is not bound at boot, and the card meant is elsewhere"
    GroupNotViable "GROUP-NOT-VIABLE" "IOMMU group viable"
        "functions of a group reach each other's memory: a guest gets all of them or none"
    GroupHeld "GROUP-HELD" "IOMMU group free"
        "a group belongs to one process at a time"
    AcsMissing "ACS-MISSING" "isolation on the path"
        "a bridge without access control services passes one device's DMA on to another"
    ResetNone "RESET-NONE" "reset method"
        "without a reset the guest finds the device as its last user left it"
    Rmrr "RMRR" "memory reserved for the device"
        "the firmware uses the device itself through this memory, and the kernel refuses to move it"
    LinkReduced "LINK-REDUCED" "PCI Express link"
        "the device moves less data than it and its slot could"
    NodeUnknown "NODE-UNKNOWN" "device's NUMA node"
        "memory and CPUs across the interconnect cost latency and bandwidth"
    DmaFaults "DMA-FAULTS" "IOMMU faults in the log"
        "the IOMMU stopped the device from reaching memory: a driver or the device is at fault"
    HugepagesShort "HUGEPAGES-SHORT" "huge pages"
        "guest memory is made of them, on the device's node"
    HugepagesElsewhere "HUGEPAGES-ELSEWHERE" "huge pages on the right node"
        "memory of another node costs the device and the guest latency and bandwidth"
    SmallPages "SMALL-PAGES" "page size"
        "small pages cost the IOMMU and the CPUs a translation every 4 KiB"
    IovaHoles "IOVA-HOLES" "addresses for DMA"
        "guest memory has to leave out addresses that the IOMMU reserves"
    MemlockLow "MEMLOCK-LOW" "locked memory limit"
        "VFIO counts all guest memory against it"
    FilesLow "FILES-LOW" "open files limit"
        "each interrupt vector needs files"
    CpuNotAllowed "CPU-NOT-ALLOWED" "cpuset"
        "berth can only place vCPUs where it may run"
    CpuFar "CPU-FAR" "vCPUs near the device"
        "vCPUs across the interconnect from device and memory are slower"
    CpuSmtShared "CPU-SMT-SHARED" "SMT siblings"
        "what runs on the other thread of a core takes turns with the vCPU"
    CpuNotIsolated "CPU-NOT-ISOLATED" "isolated CPUs"
        "the host's own tasks and timers run on the vCPUs' CPUs too"
    CpuGovernor "CPU-GOVERNOR" "CPU frequency"
        "a CPU that is kept at a low frequency runs its vCPU slowly"
    CpuIdleDeep "CPU-IDLE-DEEP" "idle states"
        "a CPU in deep sleep is late to take an interrupt for its vCPU"
    CpuKindsMixed "CPU-KINDS-MIXED" "kinds of cores"
        "the guest takes its CPUs to be alike, and waits for the slowest"
    IrqOnVcpu "IRQ-ON-VCPU" "device's host interrupts"
        "a host interrupt on a vCPU's CPU makes the guest leave it"
    Irqbalance "IRQBALANCE" "irqbalance"
        "it moves the device's interrupts onto any CPU, those of vCPUs too"
    VectorsMany "VECTORS-MANY" "interrupt vectors"
        "a CPU has some 200 vectors for devices; without one, enabling MSI-X fails"
    Balloon "BALLOON" "balloon of this host"
        "guest memory is pinned and cannot be given back to the hypervisor below"
    Ksm "KSM" "KSM"
        "ksmd costs CPU time, and pinned guest memory is never merged"
    NumaBalancing "NUMA-BALANCING" "NUMA balancing"
        "it unmaps memory to watch it, and pinned guest memory is never moved"
    PlanRefused "PLAN-REFUSED" "plan"
        "the machine does not start"
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
