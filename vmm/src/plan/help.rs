//! What to do about a refusal: the commands and settings that make the plan work.

use std::path::Path;

use berth_devices::pci::Bdf;
use berth_devices::vfio::IommuBackend;

use super::PlanError;
use super::memory::GUEST_RAM;
use super::text::list;
use crate::host::{Access, CpuVendor, FileState, Holder, IdSet, group_file};
use crate::units::PageSize;

impl PlanError {
    /// What to do about it, as commands where there are some; may have several lines.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::File { role, path, state } => Some(file(role, path, state)),
            Self::ConsoleFile { .. } => Some(
                "set console.file to a path where berth may write, or console to \"off\""
                    .to_owned(),
            ),
            Self::WindowFull { .. } => Some(
                "leave the device out of devices: the guest has 512 MiB for all such BARs"
                    .to_owned(),
            ),
            Self::CpuCount { vcpus, .. } => Some(format!(
                "name {vcpus} CPUs in placement.cpus, one per vCPU, or set it to \"auto\""
            )),
            Self::NotAKernel { found, .. } => Some(kernel(found)),
            Self::CommandLineTooLong { .. } => Some("shorten cmdline".to_owned()),
            Self::MemoryTooSmall { .. } => Some("raise memory.size_mib".to_owned()),
            Self::NoVirtualization { vendor } => Some(virtualization(*vendor)),
            Self::Kvm { access, vendor } => kvm(access, *vendor),
            Self::NoSuchDevice { near, .. } if near.is_empty() => {
                Some("`lspci -D` lists the host's functions".to_owned())
            }
            Self::NoSuchDevice { near, .. } => Some(format!("the nearest are {}", list(near))),
            Self::Bridge { .. } => Some("name functions behind it".to_owned()),
            Self::NoIommu { vendor } => Some(format!("{} in the firmware's setup", unit(*vendor))),
            Self::IommuOff { vendor, parameter } => Some(iommu(*vendor, parameter.as_deref())),
            Self::NotBehindIommu { .. } => {
                Some("move the card to another slot, or choose another function".to_owned())
            }
            Self::NotBound { device, .. } => Some(bind(*device)),
            Self::VfToken { physical, .. } => Some(format!(
                "give {physical} back to its own driver (`berth unbind {physical}`) or to pci-pf-stub"
            )),
            Self::HasVirtualFunctions { device, .. } => Some(format!(
                "`berth sriov {device} 0` removes them; or give the guest one of them"
            )),
            Self::InUse { .. } => Some("end that use first, or choose another device".to_owned()),
            Self::NotVirtual { .. } => {
                Some("leave these fields out, or name a virtual function".to_owned())
            }
            Self::NoReset { others, .. } => Some(match others.as_slice() {
                [] => "choose another device; or, for guests that trust each other, set its \"reset\" \
                       to \"best\""
                    .to_owned(),
                others => format!(
                    "give the guest {} too, which a reset of the bus would hit; or, for guests that trust each other, set its \"reset\" \
                     to \"best\"",
                    list(others)
                ),
            }),
            Self::NoFreeVf { physical, exists: false, .. } => {
                Some(format!("there is no {physical}; `lspci -D` lists the host's functions"))
            }
            Self::NoFreeVf { physical, count, .. } => Some(format!(
                "`berth sriov {physical}` shows who has them, `berth sriov {physical} {}` makes more",
                count + 1
            )),
            Self::VariableUnset { .. } | Self::VariableExhausted { .. } => Some(
                "Kubernetes sets it in a container that asks for the resource; ask for as many as devices wants"
                    .to_owned(),
            ),
            Self::VariableMalformed { .. } => {
                Some("expected addresses such as 0000:41:02.0, separated by commas".to_owned())
            }
            Self::DeviceTwice { .. } => Some("name each function once".to_owned()),
            Self::GroupNotViable { culprits, .. } => Some(release(culprits)),
            Self::NoInterruptRemapping { parameter, backend } => {
                Some(remapping(parameter.as_deref(), *backend))
            }
            Self::Vfio { access } => match access {
                Access::Missing => Some("`modprobe vfio-pci`".to_owned()),
                Access::Denied => {
                    Some("`chmod 0666 /dev/vfio/vfio`; it gives no device away".into())
                }
                _ => None,
            },
            Self::Group { group, access, .. } => vfio_file(&group_file(*group), access),
            Self::Iommufd { access } => match access {
                Access::Missing => {
                    Some("`modprobe iommufd`, or set iommu_backend to \"container\"".to_owned())
                }
                Access::Denied => {
                    Some("`chgrp kvm /dev/iommu`; it gives no device away".to_owned())
                }
                _ => None,
            },
            Self::NoDeviceFile { .. } => Some(
                "set iommu_backend to \"container\", or boot the host with a kernel that has \
                 CONFIG_VFIO_DEVICE_CDEV"
                    .to_owned(),
            ),
            Self::DeviceFile { file, access, .. } => vfio_file(file, access),
            Self::NoSuchNode { with_memory, .. } | Self::NodeWithoutMemory { with_memory, .. } => {
                Some(format!("set placement.node to a node with memory: {with_memory}"))
            }
            Self::NodeNotAllowed { allowed, .. } => Some(format!(
                "set placement.node to a node that it may use ({allowed}), or widen cpuset.mems of berth's cgroup"
            )),
            Self::SeveralNodes { .. } => Some(
                "leave out the devices of all nodes but one, or set placement.several_nodes to \"split\" or \"majority\""
                    .to_owned(),
            ),
            Self::TooFewCpus {
                vcpus, cpus, isolated, elsewhere, whole_cores, only_isolated, ..
            } => {
                let is_enough = |set: &IdSet| set.len() >= *vcpus as usize;
                let mut ways = Vec::new();
                if !cpus.is_empty() {
                    ways.push(format!("lower vcpus to {}", cpus.len()));
                }
                if *whole_cores {
                    ways.push("set placement.smt to \"auto\"".to_owned());
                }
                if *only_isolated {
                    ways.push("set placement.cpus to \"auto\"".to_owned());
                } else if is_enough(isolated) {
                    ways.push(format!(
                        "set placement.cpus to \"isolated\": the node has {isolated}"
                    ));
                }
                if elsewhere != cpus && is_enough(elsewhere) {
                    ways.push(format!("name any of CPUs {elsewhere} in placement.cpus"));
                }
                Some(ways.join(", or "))
            }
            Self::CpuNotOnline { cpu, .. } | Self::InterruptCpuNotOnline { cpu, .. } => Some(format!(
                "if the host has it: `echo 1 > /sys/devices/system/cpu/cpu{cpu}/online`"
            )),
            Self::CpuNotAllowed { .. } => {
                Some("widen berth's affinity (taskset) or cpuset.cpus of its cgroup".to_owned())
            }
            Self::CpuPartitioned { .. } => Some(
                "name other CPUs, or start berth in that partition's control group: `grep . \
                 /sys/fs/cgroup/*/cpuset.cpus.partition` lists partitions"
                    .to_owned(),
            ),
            Self::NoPool { size: PageSize::Size1G, gigabyte_pages: Some(false) } => Some(
                "the CPUs have no 1 GiB pages (pdpe1gb): set memory.page_size to \"2M\"".to_owned(),
            ),
            Self::NoPool { .. } => Some("set memory.page_size to \"4K\"".to_owned()),
            Self::TooFewPages { size, need, node, free, total, .. } => {
                Some(reserve(*size, *node, total + need - free))
            }
            Self::PagesPromised { size, need, unreserved } => Some(format!(
                "end a process that uses {size} pages, or reserve {} more",
                need - unreserved
            )),
            Self::TooLittleMemory { .. } => {
                Some("lower memory.size_mib, or set placement.node to another node".to_owned())
            }
            Self::ReservedLow { .. } => Some("set memory.page_size to \"2M\"".to_owned()),
            Self::AddressSpace { what, .. } => Some(if *what == GUEST_RAM {
                "lower memory.size_mib".to_owned()
            } else {
                "leave the device with the largest BAR out of devices".to_owned()
            }),
            Self::TooManyDevices { .. } => {
                Some("functions of one card share a place when its function 0 is there".to_owned())
            }
            Self::MemlockLimit { need, .. } => Some(format!(
                "`ulimit -l {}`, `LimitMEMLOCK={need}` in a systemd unit, or give berth CAP_IPC_LOCK",
                need >> 10
            )),
            Self::SizeLimit { resource, need, .. } => Some(resource.help(*need)),
            Self::OpenFilesLimit { need, .. } => {
                Some(format!("`ulimit -n {need}`, or `LimitNOFILE={need}` in a systemd unit"))
            }
        }
    }
}

fn file(role: &str, path: &Path, state: &FileState) -> String {
    match state {
        FileState::Missing => format!(
            "set {role} to a file that exists; a relative path counts from the config's folder"
        ),
        FileState::Unreadable(_) => {
            format!("`ls -l {}` shows who may read it, as do the folders above it", path.display())
        }
        _ => format!("set {role} to the file itself"),
    }
}

fn kernel(found: &str) -> String {
    let boots = "berth boots a 64-bit x86 bzImage (vmlinuz) or ELF file (vmlinux)";
    if found.ends_with("compressed data") {
        format!("{boots}; decompress it first")
    } else {
        boots.to_owned()
    }
}

/// What the firmware's setup calls the vendor's IOMMU.
fn unit(vendor: CpuVendor) -> &'static str {
    match vendor {
        CpuVendor::Intel => "turn on VT-d",
        CpuVendor::Amd => "turn on IOMMU (AMD-Vi)",
        CpuVendor::Other => "turn on the IOMMU",
    }
}

fn virtualization(vendor: CpuVendor) -> String {
    let name = match vendor {
        CpuVendor::Intel => "Intel Virtualization Technology (VT-x)",
        CpuVendor::Amd => "SVM",
        CpuVendor::Other => "virtualization",
    };
    format!("turn on {name} in the firmware's setup; in a VM, let its host nest")
}

fn kvm(access: &Access, vendor: CpuVendor) -> Option<String> {
    match access {
        Access::Missing => Some(match vendor {
            CpuVendor::Intel => "`modprobe kvm_intel`".to_owned(),
            CpuVendor::Amd => "`modprobe kvm_amd`".to_owned(),
            CpuVendor::Other => "load the kernel's KVM module".to_owned(),
        }),
        Access::Denied => Some("`usermod -aG kvm USER`, then log in again".to_owned()),
        Access::Failed(_) => Some("`dmesg | grep -i kvm` may say why".to_owned()),
        _ => None,
    }
}

fn iommu(vendor: CpuVendor, parameter: Option<&str>) -> String {
    let on = match vendor {
        CpuVendor::Intel => "intel_iommu=on iommu=pt",
        CpuVendor::Amd | CpuVendor::Other => "iommu=pt",
    };
    match parameter {
        Some(parameter) => {
            format!("boot the host with `{on}` in place of `{parameter}`")
        }
        None => format!("{} in the firmware's setup, and boot the host with `{on}`", unit(vendor)),
    }
}

fn bind(device: Bdf) -> String {
    format!("`berth bind {device}`, or \"bind\": \"auto\" to take it for the run only")
}

fn release(culprits: &[(Bdf, String)]) -> String {
    let all: Vec<String> = culprits.iter().map(|(device, _)| device.to_string()).collect();
    format!(
        "move the device to a slot with a group of its own, or take these from the host too:\n\
         `berth bind {}`",
        all.join(" ")
    )
}

fn remapping(parameter: Option<&str>, backend: IommuBackend) -> String {
    let module = match backend {
        IommuBackend::Container => "vfio_iommu_type1",
        IommuBackend::Iommufd => "iommufd",
    };
    let cause = match parameter {
        Some(parameter) => format!("boot the host without `{parameter}`"),
        None => "`dmesg | grep -i remap` may say why".to_owned(),
    };
    format!(
        "{cause}; only for a guest you trust as you trust the host:\n\
         `echo 1 > /sys/module/{module}/parameters/allow_unsafe_interrupts`"
    )
}

fn vfio_file(path: &str, access: &Access) -> Option<String> {
    match access {
        Access::Denied => Some(format!("`chown USER {path}`")),
        Access::Busy(Some(Holder { pid, .. })) => Some(format!("end process {pid} first")),
        Access::Busy(None) => Some(format!("`fuser -v {path}` as root names it")),
        Access::Missing => Some("`modprobe vfio_iommu_type1`, and see the kernel's log".to_owned()),
        Access::Granted | Access::Unknown | Access::Failed(_) => None,
    }
}

/// `pages` is the size of the pool after it has grown.
fn reserve(size: PageSize, node: u32, pages: u64) -> String {
    let command = format!(
        "`echo {pages} > /sys/devices/system/node/node{node}/hugepages/{}/nr_hugepages`",
        size.pool_folder()
    );
    match size {
        // Memory fragments: 1 GiB of it in one piece is soon found only at boot.
        PageSize::Size1G => format!(
            "{command}\nor, when memory is too fragmented for that, boot the host with \
             `hugepagesz=1G hugepages={node}:{pages}`"
        ),
        PageSize::Size2M | PageSize::Size4K => command,
    }
}
