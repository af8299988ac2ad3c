//! Whether VFIO is there and may be used.

use super::code::Code;
use super::{Case, Finding, Fix};
use crate::host::{Access, Holder, ModuleState};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let mut findings: Vec<Finding> = modules(case).collect();
    if !case.devices.is_empty() {
        findings.extend(access(case));
        // Before a device is bound its group has no file, and a finding of its own tells.
        let bound = |group: &u32| {
            case.endpoints()
                .any(|(_, d)| d.function.group == Some(*group) && d.function.is_bound_to_vfio())
        };
        let files = case.facts.host.group_files.iter().filter(|(group, _)| bound(group));
        findings.extend(files.map(|(group, access)| held(*group, access)));
    }
    findings
}

/// Each by itself: not every modprobe follows vfio's soft dependency on its IOMMU driver.
fn modules(case: &Case) -> impl Iterator<Item = Finding> {
    let modules = &case.facts.modules;
    [("vfio-pci", modules.vfio_pci), ("vfio_iommu_type1", modules.vfio_iommu_type1)]
        .into_iter()
        .map(|(name, state)| module(name, state))
}

fn module(module: &'static str, state: ModuleState) -> Finding {
    const SOURCE: &str = "/sys/module, /lib/modules";
    let code = Code::VfioNoModule;
    match state {
        ModuleState::Loaded => Finding::pass(code, SOURCE, format!("{module} is loaded")),
        ModuleState::Available => {
            Finding::fail(code, SOURCE, format!("{module} can be loaded and is not"))
                .step(format!("`modprobe {module}`"))
                .fix(Fix::LoadModule { module })
        }
        ModuleState::Absent => {
            Finding::fail(code, SOURCE, format!("the kernel has no module {module}"))
                .step("install a kernel with CONFIG_VFIO_PCI, such as the distribution's own")
        }
        ModuleState::Unknown => {
            Finding::unknown(code, SOURCE, "the kernel's modules are not to be seen")
        }
    }
}

fn access(case: &Case) -> Option<Finding> {
    const SOURCE: &str = "/dev/vfio/vfio";
    let code = Code::VfioNoAccess;
    Some(match &case.facts.host.vfio {
        // The finding about modules tells.
        Access::Missing if case.facts.modules.vfio_pci == ModuleState::Available => return None,
        Access::Granted => Finding::pass(code, SOURCE, "/dev/vfio/vfio opens"),
        Access::Unknown => Finding::unknown(code, SOURCE, "a capture has no device files"),
        access @ Access::Denied => Finding::fail(code, SOURCE, format!("/dev/vfio/vfio {access}"))
            .step("`chmod 0666 /dev/vfio/vfio`; it gives no device away"),
        access => Finding::fail(code, SOURCE, format!("/dev/vfio/vfio {access}"))
            .step("`modprobe -a vfio-pci vfio_iommu_type1`"),
    })
}

fn held(group: u32, access: &Access) -> Finding {
    let source = format!("/dev/vfio/{group}");
    let seen = format!("{source} {access}");
    match access {
        Access::Granted => Finding::pass(Code::GroupHeld, source, seen),
        Access::Unknown => {
            Finding::unknown(Code::GroupHeld, source, "a capture has no device files")
        }
        Access::Busy(Some(Holder { pid, .. })) => {
            Finding::fail(Code::GroupHeld, source, seen).step(format!("end process {pid} first"))
        }
        Access::Busy(None) => {
            let step = format!("`fuser -v /dev/vfio/{group}` as root names the process");
            Finding::fail(Code::GroupHeld, source, seen).step(step)
        }
        Access::Denied => {
            let step = format!(
                "`chown USER /dev/vfio/{group}`, or a udev rule: SUBSYSTEM==\"vfio\", OWNER=\"USER\""
            );
            Finding::fail(Code::VfioNoAccess, source, seen).step(step)
        }
        Access::Missing => Finding::fail(Code::VfioNoAccess, source, seen)
            .step("bind the device; the kernel makes the file then"),
        Access::Failed(_) => Finding::fail(Code::VfioNoAccess, source, seen)
            .step("`dmesg | grep -i vfio` may say why"),
    }
}
