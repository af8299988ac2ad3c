//! Whether VFIO is there and may be used.

use std::collections::BTreeMap;

use berth_devices::vfio::IommuBackend;

use super::{Case, Code, Finding, Fix};
use crate::advice;
use crate::config::IommuBackendConfig;
use crate::host::{Access, Attach, ModuleState, device_file, group_file};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let backend = backend(case);
    let mut findings: Vec<Finding> = modules(case, backend).collect();
    if !case.devices.is_empty() {
        findings.extend(access(case, backend));
        findings.extend(files(case, backend).map(|(file, access)| held(case, file, access)));
        if backend == IommuBackend::Container {
            findings.extend(attached(case));
        }
    }
    findings
}

/// Which of VFIO's two ways the devices would go: as the config says, the only one that the kernel
/// has, or as the plan has it.
pub(super) fn backend(case: &Case) -> IommuBackend {
    let host = &case.facts.host;
    let container_is_absent = case.facts.modules.vfio_iommu_type1 == ModuleState::Absent;
    let iommufd_is_there = !matches!(host.iommufd, Access::Missing | Access::Unknown);
    match case.config.map(|config| config.iommu_backend) {
        Some(IommuBackendConfig::Container) => IommuBackend::Container,
        Some(IommuBackendConfig::Iommufd) => IommuBackend::Iommufd,
        Some(IommuBackendConfig::Auto) | None => {
            let planned = case.plan().and_then(|plan| plan.iommu.as_ref());
            match planned {
                _ if container_is_absent && iommufd_is_there => IommuBackend::Iommufd,
                Some(iommu) => iommu.backend,
                None => IommuBackend::Container,
            }
        }
    }
}

/// The files of the devices, as far as those are bound: before that there are none, and a finding
/// of its own tells.
fn files<'a>(
    case: &'a Case,
    backend: IommuBackend,
) -> impl Iterator<Item = (String, &'a Access)> + 'a {
    let host = &case.facts.host;
    let mut files = BTreeMap::new();
    for (address, listed) in case.endpoints() {
        let function = &listed.function;
        let (group, own) = (function.group, function.device_file.as_deref());
        let file = match (function.is_bound_to_vfio(), backend) {
            (false, _) => None,
            (true, IommuBackend::Container) => {
                group.map(group_file).zip(group.and_then(|group| host.group_files.get(&group)))
            }
            (true, IommuBackend::Iommufd) => Some((
                own.map_or_else(|| device_file("vfioN"), device_file),
                host.device_files.get(&address).unwrap_or(&Access::Missing),
            )),
        };
        files.extend(file);
    }
    files.into_iter()
}

/// Each by itself: not every modprobe follows vfio's soft dependency on its IOMMU driver.
fn modules(case: &Case, backend: IommuBackend) -> impl Iterator<Item = Finding> {
    let modules = &case.facts.modules;
    let type1 = (backend == IommuBackend::Container)
        .then_some(("vfio_iommu_type1", modules.vfio_iommu_type1));
    let all = [("vfio-pci", modules.vfio_pci)].into_iter().chain(type1);
    all.map(|(name, state)| module(name, state))
}

fn module(module: &'static str, state: ModuleState) -> Finding {
    const SOURCE: &str = "/sys/module, /lib/modules";
    let code = Code::VfioNoModule;
    match state {
        ModuleState::Loaded => Finding::pass(code, SOURCE, format!("{module} is loaded")),
        ModuleState::Available => {
            Finding::fail(code, SOURCE, format!("{module} can be loaded and is not"))
                .steps(advice::vfio::module(module, state))
                .fix(Fix::LoadModule { module })
        }
        ModuleState::Absent => {
            Finding::fail(code, SOURCE, format!("the kernel has no module {module}"))
                .steps(advice::vfio::module(module, state))
        }
        ModuleState::Unknown => {
            Finding::unknown(code, SOURCE, "the kernel's modules cannot be seen")
        }
    }
}

fn access(case: &Case, backend: IommuBackend) -> Option<Finding> {
    let (source, access) = match backend {
        IommuBackend::Container => ("/dev/vfio/vfio", &case.facts.host.vfio),
        IommuBackend::Iommufd => ("/dev/iommu", &case.facts.host.iommufd),
    };
    let code = Code::VfioNoAccess;
    let failed = || Finding::fail(code, source, format!("{source} {access}"));
    Some(match (access, backend) {
        (Access::Granted, _) => Finding::pass(code, source, format!("{source} opens")),
        (Access::Unknown, _) => Finding::unknown(code, source, "a snapshot has no device files"),
        // The finding about modules tells.
        (Access::Missing, IommuBackend::Container)
            if case.facts.modules.vfio_pci == ModuleState::Available =>
        {
            return None;
        }
        _ => failed().steps(advice::vfio::shared_file(&case.facts.host, backend, access)),
    })
}

fn held(case: &Case, source: String, access: &Access) -> Finding {
    let seen = format!("{source} {access}");
    match access {
        Access::Granted => Finding::pass(Code::GroupHeld, source, seen),
        Access::Unknown => {
            Finding::unknown(Code::GroupHeld, source, "a snapshot has no device files")
        }
        _ => {
            let steps = advice::vfio::file(&case.facts.host, &source, access);
            Finding::fail(advice::vfio::file_code(access), source, seen).steps(steps)
        }
    }
}

/// What VFIO said of the groups that were tried.
fn attached(case: &Case) -> impl Iterator<Item = Finding> {
    let code = Code::VfioAttach;
    case.facts.attached.iter().map(move |(group, answer)| match answer {
        Attach::Works => {
            let seen = format!("VFIO puts group {group} into an IOMMU domain");
            Finding::pass(code, group_file(*group), seen)
        }
        Attach::Refused { reason, errno } => {
            let seen = format!("VFIO does not put group {group} into an IOMMU domain: {reason}");
            Finding::fail(code, group_file(*group), seen)
                .steps(advice::vfio::not_attached(&case.facts.host, *errno))
        }
    })
}
