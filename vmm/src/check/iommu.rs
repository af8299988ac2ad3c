//! Whether there is an IOMMU, whether it is on, and what it does to the host itself.

use super::code::Code;
use super::remedy::{firmware_iommu, iommu_parameters, kernel_parameters};
use super::{Case, Finding};

const UNITS: &str = "/sys/class/iommu";
const TABLES: &str = "/sys/firmware/acpi/tables";
const CMDLINE: &str = "/proc/cmdline";

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let presence = presence(case);
    if case.facts.host.iommu.units.is_empty() {
        return vec![presence];
    }
    let described = || Finding::pass(Code::IommuAbsent, TABLES, "the firmware describes an IOMMU");
    let described = (case.facts.host.iommu.in_firmware == Some(true)).then(described);
    [described, Some(presence), width(case), passthrough(case)].into_iter().flatten().collect()
}

fn presence(case: &Case) -> Finding {
    let facts = case.facts;
    let vendor = facts.host.iommu_vendor();
    let units = &facts.host.iommu.units;
    let on = iommu_parameters(vendor);
    if !units.is_empty() {
        let seen = format!("the kernel uses {}", units.join(", "));
        return Finding::pass(Code::IommuOff, UNITS, seen);
    }
    let off = |word: &str| matches!(word, "intel_iommu=off" | "amd_iommu=off" | "iommu=off");
    if let Some(parameter) = case.parameter(off) {
        let seen = format!("the kernel parameter `{parameter}` turned the IOMMU off");
        return Finding::fail(Code::IommuOff, CMDLINE, seen).steps(kernel_parameters(
            &facts.system,
            on,
            Some(parameter),
        ));
    }
    let said = facts.log.find(&[
        "DMAR: IOMMU disabled",
        "DMAR: No DMAR devices found",
        "DMAR: Parse DMAR table failure",
        "AMD-Vi: Disabl",
        "AMD-Vi: AMD IOMMU disabled",
        "AMD-Vi: IVRS table not found",
    ]);
    let source = |place: &str| match said {
        Some(line) => format!("{place}; kernel log: {line}"),
        None => place.to_owned(),
    };
    match facts.host.iommu.in_firmware {
        Some(true) => {
            let seen = "the firmware describes an IOMMU, and the kernel does not use it";
            Finding::fail(Code::IommuOff, source(&format!("{UNITS}, {TABLES}")), seen)
                .steps(kernel_parameters(&facts.system, on, None))
        }
        Some(false) => {
            let seen = "the firmware describes no IOMMU (neither DMAR nor IVRS)";
            let finding = Finding::fail(Code::IommuAbsent, source(TABLES), seen);
            if facts.system.is_virtual == Some(true) {
                finding.step("this host is a virtual machine: give it a virtual IOMMU")
            } else {
                finding.step(firmware_iommu(vendor))
            }
        }
        None if !facts.has_groups() => {
            let seen = "neither the firmware's tables nor the kernel's IOMMUs are in the snapshot";
            Finding::unknown(Code::IommuOff, UNITS, seen)
        }
        None => {
            let seen = "the kernel uses no IOMMU; whether the firmware has one is not to be seen";
            Finding::fail(Code::IommuOff, source(UNITS), seen)
                .step(firmware_iommu(vendor))
                .steps(kernel_parameters(&facts.system, on, None))
        }
    }
}

/// Desktop parts translate 39 bits; whether a machine fits is the plan's to say.
fn width(case: &Case) -> Option<Finding> {
    const SOURCE: &str = "/sys/class/iommu/*/intel-iommu/cap";
    let bits = case.facts.host.iommu.address_bits?;
    let code = Code::IommuNarrow;
    let cpu_bits = case.facts.host.cpus.physical_bits.unwrap_or(bits);
    Some(if bits >= cpu_bits.min(48) {
        Finding::pass(code, SOURCE, format!("the IOMMU translates {bits} bits"))
    } else {
        let seen = format!("the IOMMU translates {bits} bits, the CPUs {cpu_bits}");
        Finding::warn(code, SOURCE, seen)
            .step("guest memory and BARs that devices reach stay below that by themselves")
    })
}

fn passthrough(case: &Case) -> Option<Finding> {
    const SOURCE: &str = "/sys/kernel/iommu_groups/*/type";
    let code = Code::HostDmaTranslated;
    let facts = case.facts;
    let domains = &facts.settings.domains;
    let translated: usize =
        domains.iter().filter(|(kind, _)| kind.starts_with("DMA")).map(|(_, count)| count).sum();
    // Groups of devices that ask for it, such as some untrusted ones, are translated anyway.
    let identity = domains.get("identity").copied().unwrap_or_default();
    if case.parameter(|word| matches!(word, "iommu=pt" | "iommu.passthrough=1")).is_some() {
        return Some(Finding::pass(code, CMDLINE, "`iommu=pt` leaves the host's own DMA alone"));
    }
    if domains.is_empty() {
        return Some(Finding::unknown(
            code,
            SOURCE,
            "how the host's own DMA goes is not to be seen",
        ));
    }
    Some(if identity >= translated {
        Finding::pass(code, SOURCE, "the host's own DMA is not translated")
    } else {
        let seen = format!("{translated} groups of the host's own devices are translated");
        Finding::warn(code, SOURCE, seen).steps(kernel_parameters(&facts.system, "iommu=pt", None))
    })
}
