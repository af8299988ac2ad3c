//! The devices of berth's machine, and the doors through which they reach VFIO and KVM.

pub mod pci;
