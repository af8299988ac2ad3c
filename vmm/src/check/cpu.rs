//! Whether the CPUs and KVM can run a guest.

use super::code::Code;
use super::remedy::firmware_virtualization;
use super::{Case, Finding, Fix};
use crate::host::{Access, CpuVendor, ModuleState};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    vec![virtualization(case), kvm(case)]
}

fn virtualization(case: &Case) -> Finding {
    const SOURCE: &str = "/proc/cpuinfo";
    let code = Code::CpuNoVirt;
    let facts = case.facts;
    match facts.host.cpus.virtualization {
        Some(true) => Finding::pass(code, SOURCE, "the CPUs offer virtualization"),
        None => Finding::unknown(code, SOURCE, "the CPUs' flags are not to be seen"),
        Some(false) => {
            // "kvm: disabled by bios", "x86/cpu: VMX (outside TXT) disabled by BIOS"
            let said = facts.log.find(&["disabled by bios", "disabled by BIOS"]);
            let source =
                said.map_or(SOURCE.to_owned(), |line| format!("{SOURCE}; kernel log: {line}"));
            let finding = Finding::fail(code, source, "the CPUs' flags have neither vmx nor svm");
            if facts.system.is_virtual == Some(true) {
                finding.step("this host is a virtual machine: let its hypervisor nest")
            } else {
                finding.step(firmware_virtualization(facts.host.cpus.vendor))
            }
        }
    }
}

fn kvm(case: &Case) -> Finding {
    const SOURCE: &str = "/dev/kvm";
    let code = Code::KvmUnavailable;
    let facts = case.facts;
    let (module, state) = match facts.host.cpus.vendor {
        CpuVendor::Amd => ("kvm_amd", facts.modules.kvm_amd),
        CpuVendor::Intel | CpuVendor::Other => ("kvm_intel", facts.modules.kvm_intel),
    };
    let failed = |access: &Access| Finding::fail(code, SOURCE, format!("/dev/kvm {access}"));
    match &facts.host.kvm {
        Access::Granted => Finding::pass(code, SOURCE, "/dev/kvm opens"),
        Access::Unknown => Finding::unknown(code, SOURCE, "a snapshot has no device files"),
        access @ Access::Missing => match state {
            ModuleState::Available => {
                failed(access).step(format!("`modprobe {module}`")).fix(Fix::LoadModule { module })
            }
            ModuleState::Absent => {
                failed(access).step(format!("install a kernel that has the module {module}"))
            }
            // Loaded, and the CPUs refused: the other finding tells.
            ModuleState::Loaded | ModuleState::Unknown => {
                failed(access).step(format!("`modprobe {module}`; the kernel's log says why not"))
            }
        },
        access @ Access::Denied => failed(access).step("`usermod -aG kvm USER`, then log in again"),
        access => failed(access).step("`dmesg | grep -i kvm` may say why"),
    }
}
