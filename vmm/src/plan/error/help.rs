//! What to do about a refusal. The steps for a fault that `berth check` finds are those of its
//! finding; what only the config can cure is said here.

use std::path::Path;

use berth_devices::vfio::IommuBackend;

use super::PlanError;
use crate::advice::groups::Culprit;
use crate::advice::{Steps, binding, cpu, device, groups, iommu, limits, memory, remapping, vfio};
use crate::host::{FileState, HostProfile, IdSet, ModuleState, group_file};
use crate::plan::memory::GUEST_RAM;

/// Virtual functions whose holders are named.
const MOST_LISTED: usize = 8;

impl PlanError {
    /// What to do about it on `host`, step by step; commands stand in backticks.
    pub fn help(&self, host: &HostProfile) -> Steps {
        self.boot()
            .or_else(|| self.devices(host))
            .or_else(|| self.files(host))
            .unwrap_or_else(|| self.placement().or_else(|| self.room(host)).unwrap_or_default())
    }

    /// What the guest boots.
    fn boot(&self) -> Option<Steps> {
        one(match self {
            Self::Foreign { .. } => "choose a host of x86-64".to_owned(),
            Self::File { role, path, state } => file(role, path, state),
            Self::ConsoleFile { .. } => {
                "set console.file to a path where berth may write, or console to \"off\"".to_owned()
            }
            Self::NotAKernel { found, .. } => kernel(found),
            Self::CommandLineTooLong { .. } => "shorten cmdline".to_owned(),
            Self::MemoryTooSmall { .. } => "raise memory.size_mib".to_owned(),
            _ => return None,
        })
    }

    /// The devices as the host has them.
    fn devices(&self, host: &HostProfile) -> Option<Steps> {
        Some(match self {
            Self::NoVirtualization => cpu::no_virtualization(host).steps,
            Self::NoSuchDevice { near, .. } => binding::absent(near),
            Self::Bridge { .. } => binding::bridge(&[]),
            Self::NoIommu | Self::IommuOff { .. } => iommu::off(host).1.steps,
            Self::NotBehindIommu { device } => {
                let found = host.functions.get(*device)?;
                iommu::not_behind(host, &found.function, found.path.is_empty()).steps
            }
            Self::NotBound { device, .. } => binding::not_bound(*device),
            Self::Unfit { device, unfit, .. } => device::unfit(host, *device, unfit).steps,
            Self::HasVirtualFunctions { device, .. } => binding::has_virtual_functions(*device),
            Self::InUse { uses, .. } => {
                let mut steps: Steps =
                    uses.iter().flat_map(|usage| binding::in_use(host, usage)).collect();
                steps.push("or choose another device".to_owned());
                steps
            }
            Self::NotVirtual { .. } => {
                one("leave these fields out, or name a virtual function".to_owned())?
            }
            Self::NoReset { others, .. } => {
                let mut steps = device::no_reset(others);
                steps.push(
                    "or, for guests that trust each other, set its \"reset\" to \"best\""
                        .to_owned(),
                );
                steps
            }
            Self::NoFreeVf { exists: false, .. } => binding::absent(&[]),
            Self::NoFreeVf { physical, count, obstacles, .. } => {
                let mut steps: Vec<String> = obstacles.iter().take(MOST_LISTED).cloned().collect();
                steps.push(format!("`berth sriov {physical}` shows who has them"));
                steps.push(format!("`berth sriov {physical} {}` makes more", count + 1));
                steps
            }
            Self::VariableUnset { .. } | Self::VariableExhausted { .. } => one(
                "Kubernetes sets it in a container that asks for the resource; ask for as many as \
                 `devices` takes"
                    .to_owned(),
            )?,
            Self::VariableMalformed { .. } => {
                one("expected addresses such as 0000:41:02.0, separated by commas".to_owned())?
            }
            Self::DeviceTwice { .. } => one("name each function once".to_owned())?,
            Self::GroupNotViable { device, culprits, .. } => {
                let of = |(address, driver): &(_, String)| Culprit {
                    address: *address,
                    driver: driver.clone(),
                    uses: host.functions.uses_of(*address),
                };
                let culprits: Vec<Culprit> = culprits.iter().map(of).collect();
                let seat = groups::seat(&host.functions, *device);
                groups::not_viable(*device, seat, &culprits)
            }
            Self::NoInterruptRemapping { backend, .. } => remapping::off(host, *backend).steps,
            _ => return None,
        })
    }

    /// Device files.
    fn files(&self, host: &HostProfile) -> Option<Steps> {
        Some(match self {
            Self::KvmRefuses { .. } => cpu::refusal(host),
            Self::Kvm { .. } => cpu::kvm(host, ModuleState::Unknown),
            Self::Vfio { access } => vfio::shared_file(host, IommuBackend::Container, access),
            Self::Group { group, access, .. } => vfio::file(host, &group_file(*group), access),
            Self::Iommufd { access } => vfio::shared_file(host, IommuBackend::Iommufd, access),
            Self::NoDeviceFile { .. } => vfio::no_device_file(),
            Self::DeviceFile { file, access, .. } => vfio::file(host, file, access),
            _ => return None,
        })
    }

    /// Nodes and CPUs.
    fn placement(&self) -> Option<Steps> {
        Some(match self {
            Self::NoSuchNode { with_memory, .. } | Self::NodeWithoutMemory { with_memory, .. } => {
                one(format!("set placement.node to a node with memory: {with_memory}"))?
            }
            Self::NodeNotAllowed { allowed, .. } => one(format!(
                "set placement.node to a node that it may use ({allowed}), or widen cpuset.mems \
                 of berth's cgroup"
            ))?,
            Self::SeveralNodes { .. } => vec![
                "leave out the devices of all nodes but one".to_owned(),
                "or set placement.several_nodes to \"split\" or \"majority\"".to_owned(),
            ],
            Self::TooFewCpus {
                vcpus,
                cpus,
                isolated,
                elsewhere,
                whole_cores,
                only_isolated,
                ..
            } => {
                // What does not have enough is no way out.
                let enough = |set: &IdSet| Some(set.clone()).filter(|set| set.len() >= *vcpus);
                let elsewhere = enough(elsewhere).unwrap_or_else(|| cpus.clone());
                let isolated = enough(isolated).unwrap_or_default();
                fewer_vcpus(cpus, &isolated, &elsewhere, *whole_cores, *only_isolated)
            }
            Self::CpuShared { steps, .. } => {
                let without = "or leave cpu.dedicated out".to_owned();
                steps.iter().cloned().chain([without]).collect()
            }
            Self::CpuCount { vcpus, .. } => one(format!(
                "name {vcpus} CPUs in placement.cpus, one per vCPU, or set it to \"auto\""
            ))?,
            Self::CpuNotOnline { cpu, .. } | Self::InterruptCpuNotOnline { cpu, .. } => one(
                format!("if the host has it: `echo 1 > /sys/devices/system/cpu/cpu{cpu}/online`"),
            )?,
            Self::CpuPartitioned { .. } => {
                one("name other CPUs, or start berth in that partition's control group: `grep . \
                 /sys/fs/cgroup/*/cpuset.cpus.partition` lists partitions"
                    .to_owned())?
            }
            Self::CpuNotAllowed { .. } => {
                one("widen berth's affinity (taskset) or cpuset.cpus of its cgroup".to_owned())?
            }
            _ => return None,
        })
    }

    /// Memory, addresses and limits.
    fn room(&self, host: &HostProfile) -> Option<Steps> {
        Some(match self {
            Self::NoPool { size, .. } => memory::no_pool(host, *size),
            Self::TooFewPages { size, need, node, .. } => {
                memory::short(host, *size, *node, *need).1.steps
            }
            Self::PagesPromised { size, need, unreserved } => {
                memory::promised(*size, *need, *unreserved).steps
            }
            Self::TooLittleMemory { .. } => {
                one("lower memory.size_mib, or set placement.node to another node".to_owned())?
            }
            Self::ReservedLow { .. } => one("set memory.page_size to \"2M\"".to_owned())?,
            Self::AddressSpace { what, .. } if *what == GUEST_RAM => {
                one("lower memory.size_mib".to_owned())?
            }
            Self::AddressSpace { .. } => {
                one("leave the device with the largest BAR out of `devices`".to_owned())?
            }
            Self::TooManyDevices { .. } => {
                one("functions of one card share a place when its function 0 is there".to_owned())?
            }
            Self::WindowFull { .. } => {
                one("leave the device out of `devices`: the guest has 512 MiB for all such BARs"
                    .to_owned())?
            }
            Self::CgroupLimit { resource, need, limit } => {
                limits::cgroup(host, *resource, *need, limit).steps
            }
            Self::MemlockLimit { need, .. } => limits::locked_memory(host, *need),
            Self::OpenFilesLimit { need, .. } => limits::open_files(host, *need),
            Self::SizeLimit { resource, need, .. } => limits::size(host, *resource, *need),
            _ => return None,
        })
    }
}

fn one(step: String) -> Option<Steps> {
    Some(vec![step])
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

fn fewer_vcpus(
    cpus: &IdSet,
    isolated: &IdSet,
    elsewhere: &IdSet,
    whole_cores: bool,
    only_isolated: bool,
) -> Steps {
    let mut ways = Steps::new();
    if !cpus.is_empty() {
        ways.push(format!("lower vcpus to {}", cpus.len()));
    }
    if whole_cores {
        ways.push("set placement.smt to \"auto\"".to_owned());
    }
    if only_isolated {
        ways.push("set placement.cpus to \"auto\"".to_owned());
    } else if !isolated.is_empty() {
        ways.push(format!("set placement.cpus to \"isolated\": the node has {isolated}"));
    }
    if elsewhere != cpus {
        ways.push(format!("name any of CPUs {elsewhere} in placement.cpus"));
    }
    if ways.is_empty() {
        ways.push("widen berth's affinity (taskset) or cpuset.cpus of its cgroup".to_owned());
    }
    let rest = ways.iter().skip(1).map(|way| format!("or {way}"));
    ways.iter().take(1).cloned().chain(rest).collect()
}
