//! Whether there is an IOMMU, whether it is on, and what it does to the host itself.

use super::{Case, Code, Finding};
use crate::advice::{self, parameters};

const UNITS: &str = "/sys/class/iommu";
const TABLES: &str = "/sys/firmware/acpi/tables";

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let presence = presence(case);
    if case.facts.host.iommu.units.is_empty() {
        return vec![presence];
    }
    let described = || Finding::pass(Code::IommuAbsent, TABLES, "the firmware describes an IOMMU");
    let described = (case.facts.host.iommu.in_firmware == Some(true)).then(described);
    [described, Some(presence), width(case), Some(passthrough(case))]
        .into_iter()
        .flatten()
        .collect()
}

fn presence(case: &Case) -> Finding {
    let host = &case.facts.host;
    let units = &host.iommu.units;
    if !units.is_empty() {
        let seen = format!("the kernel uses {}", units.join(", "));
        return Finding::pass(Code::IommuOff, UNITS, seen);
    }
    if !case.facts.has_groups() && !host.system.xen && advice::iommu::off_parameter(host).is_none()
    {
        let seen = "the kernel's IOMMUs are not in the snapshot";
        return Finding::unknown(Code::IommuOff, UNITS, seen);
    }
    let (code, advice) = advice::iommu::off(host);
    Finding::failed(code, advice)
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

fn passthrough(case: &Case) -> Finding {
    const SOURCE: &str = "/sys/kernel/iommu_groups/*/type";
    let code = Code::HostDmaTranslated;
    let host = &case.facts.host;
    let domains = &case.facts.settings.domains;
    let translated: usize =
        domains.iter().filter(|(kind, _)| kind.starts_with("DMA")).map(|(_, count)| count).sum();
    // Groups of devices that ask for it, such as some untrusted ones, are translated anyway.
    let identity = domains.get("identity").copied().unwrap_or_default();
    if advice::iommu::has_sev_snp(host) {
        let seen = "the host's own DMA is translated, as SEV-SNP needs it";
        return Finding::pass(code, "/sys/module/kvm_amd/parameters/sev_snp", seen);
    }
    // A list each, of words that the kernel knows by their start (arch/x86/kernel/pci-dma.c,
    // iommu_setup).
    let has = |word: &str, value: &str| {
        word.strip_prefix("iommu=").is_some_and(|all| all.split(',').any(|one| one == value))
    };
    let pt = |word: &str| has(word, "pt") || word == "iommu.passthrough=1";
    let pt = parameters::find(host, pt);
    if domains.is_empty() {
        return Finding::unknown(code, SOURCE, "how the host's own DMA goes cannot be seen");
    }
    if identity >= translated {
        return Finding::pass(code, SOURCE, "the host's own DMA is not translated");
    }
    let seen = format!("{translated} groups of the host's own devices are translated");
    let finding = Finding::warn(code, SOURCE, seen);
    // Of words that contradict each other the last counts.
    let nopt = |word: &str| has(word, "nopt") || word == "iommu.passthrough=0";
    match (pt, parameters::find(host, nopt)) {
        (_, Some(nopt)) => finding.steps(parameters::change(host, "iommu=pt", Some(nopt))),
        (None, None) => finding.steps(parameters::change(host, "iommu=pt", None)),
        (Some(pt), None) => finding.step(format!(
            "`{pt}` is set, and devices that the kernel does not trust are translated anyway: \
             `dmesg | grep -i iommu` says which"
        )),
    }
}
