//! The IOMMU: why it is not on, and what would turn it on here.

use super::{Advice, Code, Steps, line, parameters};
use crate::host::{CpuVendor, HostProfile};
use crate::units::Seen;

const UNITS: &str = "/sys/class/iommu";
const TABLES: &str = "/sys/firmware/acpi/tables";
const CMDLINE: &str = "/proc/cmdline";

/// What the kernel says when it does without its IOMMU, and what helps.
struct Said {
    /// Part of the line.
    words: &'static str,
    seen: &'static str,
    step: &'static str,
}

/// From drivers/iommu/amd/init.c, drivers/iommu/intel/dmar.c and iommu.c.
const SAID: [Said; 8] = [
    Said {
        words: "IOMMU not currently supported when SME is active",
        seen: "the kernel keeps the IOMMU off beside memory encryption (SME): its microcode is too old for both",
        step: "update the CPUs' microcode (the firmware), or boot with `mem_encrypt=off`",
    },
    Said {
        words: "IVRS invalid checksum",
        seen: "the kernel does not trust the firmware's IVRS table: its checksum is wrong",
        step: "update the firmware",
    },
    Said {
        words: "Disable IOMMU on Stoney Ridge",
        seen: "the kernel keeps the IOMMU of this CPU (Stoney Ridge) off: it fails",
        step: "no setting helps: take other hardware",
    },
    Said {
        words: "Your BIOS is broken; DMAR",
        seen: "the kernel does not trust the firmware's DMAR table",
        step: "update the firmware",
    },
    Said {
        words: "DMAR: Parse DMAR table failure",
        seen: "the kernel cannot read the firmware's DMAR table",
        step: "update the firmware",
    },
    Said {
        words: "DMAR: No DMAR devices found",
        seen: "the firmware's DMAR table names no IOMMU",
        step: "turn on VT-d (Intel Virtualization for Directed I/O) in the firmware's setup",
    },
    Said {
        words: "DMAR: Failed to find handle for ACPI object",
        seen: "the firmware's DMAR table contradicts its other tables",
        step: "update the firmware",
    },
    Said {
        words: "Failed to initialize DMAR",
        seen: "the kernel gave the IOMMU up",
        step: "update the firmware",
    },
];

/// What turns the IOMMU on, and leaves the host's own DMA alone where that does no harm.
pub fn parameters_on(host: &HostProfile) -> &'static str {
    match (host.iommu_vendor(), has_sev_snp(host)) {
        (CpuVendor::Intel, _) => "intel_iommu=on iommu=pt",
        // AMD's is on unless something turned it off.
        (CpuVendor::Amd | CpuVendor::Other, false) => "iommu=pt",
        (CpuVendor::Amd | CpuVendor::Other, true) => "",
    }
}

/// Whether SEV-SNP is on, which `iommu=pt` turns off: "SNP: IOMMU disabled or configured in
/// passthrough mode, SNP cannot be supported." (drivers/iommu/amd/init.c, iommu_snp_enable).
pub fn has_sev_snp(host: &HostProfile) -> bool {
    let said = ["IOMMU SNP support enabled", "SEV-SNP enabled", "SEV-SNP: RMP table physical"];
    host.system.sev_snp.is_yes() || line(&host.log, &said, &[]).is_some()
}

/// The parameter that turned the IOMMU off. Those of Intel's driver are a list, of which the last
/// word counts (drivers/iommu/intel/iommu.c, intel_iommu_setup).
pub fn off_parameter(host: &HostProfile) -> Option<&str> {
    parameters::find(host, |word| match word.split_once('=') {
        Some(("intel_iommu" | "amd_iommu" | "iommu", values)) => {
            values.split(',').any(|value| value == "off")
        }
        Some(("acpi", value)) => value == "off",
        _ => false,
    })
}

/// What the firmware's setup calls the vendor's IOMMU.
fn firmware(vendor: CpuVendor) -> &'static str {
    match vendor {
        CpuVendor::Intel => {
            "turn on VT-d (Intel Virtualization for Directed I/O) in the firmware's setup"
        }
        CpuVendor::Amd => "turn on IOMMU (AMD-Vi) in the firmware's setup",
        CpuVendor::Other => "turn on the IOMMU in the firmware's setup",
    }
}

/// Why the kernel uses no IOMMU. The code is that of the cause.
pub fn off(host: &HostProfile) -> (Code, Advice) {
    let vendor = host.iommu_vendor();
    if host.system.xen {
        let seen = "this host runs under Xen, whose hypervisor has the IOMMU";
        return (
            Code::IommuOff,
            Advice::new("/sys/hypervisor/type", seen)
                .step("boot the host's kernel without Xen: KVM and VFIO need the hardware itself"),
        );
    }
    if let Some(parameter) = off_parameter(host) {
        let seen = format!("the kernel parameter `{parameter}` turned the IOMMU off");
        let steps = parameters::change(host, parameters_on(host), Some(parameter));
        return (Code::IommuOff, Advice::new(CMDLINE, seen).steps(steps));
    }
    if let Some((said, line)) =
        SAID.iter().find_map(|said| Some((said, line(&host.log, &[said.words], &[])?)))
    {
        let advice = Advice::new(UNITS, said.seen).said(Some(line)).step(said.step);
        return (Code::IommuOff, advice);
    }
    match host.iommu.in_firmware {
        Some(false) => {
            let seen = "the firmware describes no IOMMU (neither DMAR nor IVRS)";
            let step = if host.system.is_virtual.is_yes() {
                "this host is a virtual machine: give it a virtual IOMMU"
            } else {
                firmware(vendor)
            };
            (Code::IommuAbsent, Advice::new(TABLES, seen).step(step))
        }
        Some(true) => {
            let seen = "the firmware describes an IOMMU, and the kernel does not use it";
            let off = ["AMD-Vi: AMD IOMMU disabled", "DMAR: IOMMU disabled"];
            let advice = Advice::new(format!("{UNITS}, {TABLES}"), seen);
            let advice = advice.said(line(&host.log, &off, &[]));
            (Code::IommuOff, advice.steps(unused(host, vendor)))
        }
        None => {
            let seen = "the kernel uses no IOMMU; whether the firmware has one is not to be seen";
            let advice = Advice::new(UNITS, seen).step(firmware(vendor));
            (Code::IommuOff, advice.steps(unused(host, vendor)))
        }
    }
}

/// What makes the kernel use an IOMMU that is there.
fn unused(host: &HostProfile, vendor: CpuVendor) -> Steps {
    let config = &host.system.kernel_config;
    let (option, word) = match vendor {
        CpuVendor::Intel => ("CONFIG_INTEL_IOMMU", "DMAR"),
        CpuVendor::Amd | CpuVendor::Other => ("CONFIG_AMD_IOMMU", "AMD-Vi"),
    };
    let given_up = format!("or it gave the IOMMU up: `dmesg | grep -e {word} -e IOMMU` says why");
    if config.has(option) == Seen::No {
        let source = config.source.as_deref().unwrap_or_default();
        return vec![format!(
            "the kernel is built without {option} ({source}): boot one that has it, such as the \
             distribution's own"
        )];
    }
    let is_told = match vendor {
        CpuVendor::Intel => parameters::find(host, |word| {
            word.strip_prefix("intel_iommu=").is_some_and(|v| v.split(',').any(|v| v == "on"))
        }),
        // AMD's needs no parameter.
        CpuVendor::Amd | CpuVendor::Other => Some(""),
    };
    match (is_told, config.has(option)) {
        (None, _) if !host.command_line.is_seen() => {
            let mut steps = parameters::change(host, parameters_on(host), None);
            steps.push(given_up);
            steps
        }
        (None, _) => parameters::change(host, parameters_on(host), None),
        (Some(_), Seen::Yes) => vec![format!(
            "no parameter is missing: the kernel gave the IOMMU up; `dmesg | grep -e {word} -e \
             IOMMU` says why, and an update of the firmware may help"
        )],
        (Some(""), _) => vec![
            format!(
                "no parameter turns AMD's on: the kernel may lack {option} (`grep {option} /boot/config-$(uname -r)`)"
            ),
            given_up,
            "an update of the firmware may help".to_owned(),
        ],
        (Some(parameter), _) => vec![
            format!(
                "`{parameter}` is on the command line already: the kernel may lack {option} \
                 (`grep {option} /boot/config-$(uname -r)`)"
            ),
            given_up,
        ],
    }
}

/// Why a function is behind no IOMMU of a host that has some.
pub fn not_behind(
    host: &HostProfile,
    function: &crate::host::PciFunction,
    on_root_bus: bool,
) -> Advice {
    const SOURCE: &str = "/sys/kernel/iommu_groups";
    let advice = Advice::new(SOURCE, "it is behind none of the host's IOMMUs");
    let igfx_off = |word: &str| {
        word.strip_prefix("intel_iommu=").is_some_and(|all| all.split(',').any(|v| v == "igfx_off"))
    };
    // Display controllers of the processor are those that the parameter exempts.
    if let Some(parameter) = parameters::find(host, igfx_off)
        && function.class >> 16 == 0x03
        && on_root_bus
    {
        let left: Vec<&str> = parameter["intel_iommu=".len()..]
            .split(',')
            .filter(|value| *value != "igfx_off")
            .collect();
        let add = match left.as_slice() {
            [] => String::new(),
            left => format!("intel_iommu={}", left.join(",")),
        };
        let seen =
            format!("the kernel parameter `{parameter}` keeps the graphics out of the IOMMU");
        let said = line(&host.log, &["Disable GFX device mapping"], &[]);
        let steps = parameters::change(host, &add, Some(parameter));
        return Advice::new(CMDLINE, seen).said(said).steps(steps);
    }
    if on_root_bus {
        return advice
            .step("it is part of the processor or the chipset, and no slot changes that: look for an update of the firmware, whose tables leave it out")
            .step("or choose another function");
    }
    advice.step("move the card to another slot").step("or choose another function")
}
