//! Whether the CPUs and KVM can run a guest.

use super::{Case, Code, Finding, Fix};
use crate::advice;
use crate::host::{Access, CpuVendor, ModuleState};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    vec![virtualization(case), kvm(case)]
}

fn virtualization(case: &Case) -> Finding {
    const SOURCE: &str = "/proc/cpuinfo";
    let code = Code::CpuNoVirt;
    let host = &case.facts.host;
    // KVM's own answer outranks flags: a host may have virtualization by other ways than these.
    if host.kvm == Access::Granted {
        return Finding::pass(code, "/dev/kvm", "KVM is there");
    }
    match host.cpus.virtualization {
        _ if advice::cpu::disabled(&host.log).is_some() => {
            Finding::failed(code, advice::cpu::no_virtualization(host))
        }
        Some(true) => Finding::pass(code, SOURCE, "the CPUs offer virtualization"),
        None => Finding::unknown(code, SOURCE, "the CPUs' flags cannot be seen"),
        Some(false) => Finding::failed(code, advice::cpu::no_virtualization(host)),
    }
}

fn kvm(case: &Case) -> Finding {
    const SOURCE: &str = "/dev/kvm";
    let code = Code::KvmUnavailable;
    let (host, modules) = (&case.facts.host, &case.facts.modules);
    let state = match host.cpus.vendor {
        CpuVendor::Amd => modules.kvm_amd,
        CpuVendor::Intel | CpuVendor::Other => modules.kvm_intel,
    };
    match &host.kvm {
        Access::Granted => Finding::pass(code, SOURCE, "/dev/kvm opens"),
        Access::Unknown => Finding::unknown(code, SOURCE, "a capture has no device files"),
        access => {
            let finding = Finding::fail(code, SOURCE, format!("/dev/kvm {access}"))
                .steps(advice::cpu::kvm(host, state));
            let loads = *access == Access::Missing && state == ModuleState::Available;
            let module = advice::cpu::kvm_module(host.cpus.vendor);
            if loads { finding.fix(Fix::LoadModule { module }) } else { finding }
        }
    }
}
