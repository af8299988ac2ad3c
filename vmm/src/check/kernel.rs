//! Whether the kernel has what berth calls, and allows it.

use super::{Case, Code, Finding};
use crate::host::LinuxVersion;
use crate::units::Seen;

/// MADV_POPULATE_WRITE, without which a short pool of huge pages kills the machine later.
const OLDEST: LinuxVersion = LinuxVersion(5, 14);

pub(super) fn check(case: &Case) -> Vec<Finding> {
    vec![version(case), lockdown(case)]
}

fn version(case: &Case) -> Finding {
    const SOURCE: &str = "/proc/sys/kernel/osrelease";
    let code = Code::KernelOld;
    let release = &case.facts.host.system.release;
    match case.facts.host.linux {
        None => Finding::unknown(code, SOURCE, "the kernel's version cannot be seen"),
        Some(version) if version < OLDEST => Finding::fail(
            code,
            SOURCE,
            format!("the kernel is {release}, and berth needs {}.{}", OLDEST.0, OLDEST.1),
        )
        .step("install a newer kernel"),
        Some(_) => Finding::pass(code, SOURCE, format!("the kernel is {release}")),
    }
}

fn lockdown(case: &Case) -> Finding {
    const SOURCE: &str = "/sys/kernel/security/lockdown";
    let code = Code::Lockdown;
    let system = &case.facts.host.system;
    match system.lockdown.as_deref() {
        Some("none") => Finding::pass(code, SOURCE, "the kernel is not locked down"),
        Some(mode) => {
            let cause = match system.secure_boot {
                Seen::Yes => "as Secure Boot asks for",
                _ => "as its command line or its build asks for",
            };
            // VFIO itself works: it is a driver like others, and the IOMMU stands guard.
            Finding::warn(code, SOURCE, format!("the kernel is locked down ({mode}), {cause}"))
                .step("use signed modules only (also for a vendor's variant of vfio-pci)")
                .step("or turn Secure Boot off in the firmware's setup")
        }
        None if system.secure_boot == Seen::No => {
            Finding::pass(code, SOURCE, "the kernel has no lockdown, and Secure Boot is off")
        }
        None => {
            Finding::unknown(code, SOURCE, "the kernel does not show whether it is locked down")
        }
    }
}
