//! Whether the CPUs and KVM can run a guest.

use super::{Case, Code, Finding, Fix};
use crate::advice;
use crate::host::{Access, CpuVendor, KvmAnswer, ModuleState};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    vec![virtualization(case), kvm(case)]
}

/// Whether berth runs on such a host at all.
pub(super) fn architecture(case: &Case) -> Finding {
    const SOURCE: &str = "/proc/cpuinfo";
    let code = Code::HostForeign;
    let host = &case.facts.host;
    match (host.foreign(), &host.architecture) {
        (Some(other), _) => {
            let seen = format!("this is a host of another kind, {other}, and not x86-64");
            Finding::fail(code, SOURCE, seen).step("choose a host of x86-64")
        }
        (None, Some(_)) => Finding::pass(code, SOURCE, "it is an x86-64 host"),
        (None, None) => Finding::unknown(code, SOURCE, "what kind of host it is cannot be seen"),
    }
}

/// Whether a snapshot holds what berth reads.
pub(super) fn snapshot(case: &Case) -> Finding {
    const SOURCE: &str = "/proc";
    let code = Code::SnapshotIncomplete;
    if case.facts.has_empty_proc {
        let seen = "files of /proc were captured empty: tar copies nothing of them, and `berth \
                    snapshot` or `cp -r` does";
        Finding::unknown(code, SOURCE, seen)
    } else {
        Finding::pass(code, SOURCE, "files of /proc hold what the kernel wrote")
    }
}

fn virtualization(case: &Case) -> Finding {
    const SOURCE: &str = "/proc/cpuinfo";
    let code = Code::CpuNoVirt;
    let host = &case.facts.host;
    if host.kvm_answer == KvmAnswer::Works {
        return Finding::pass(code, "/dev/kvm", "KVM makes virtual machines");
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
    match &host.kvm_answer {
        KvmAnswer::Works => return Finding::pass(code, SOURCE, "KVM makes virtual machines"),
        KvmAnswer::Refused(reason) => {
            return Finding::fail(code, SOURCE, advice::cpu::refused(reason))
                .steps(advice::cpu::refusal(host));
        }
        KvmAnswer::Unknown => {}
    }
    match &host.kvm {
        Access::Granted => Finding::pass(code, SOURCE, "/dev/kvm opens"),
        Access::Unknown => Finding::unknown(code, SOURCE, "a snapshot has no device files"),
        access => {
            let finding = Finding::fail(code, SOURCE, format!("/dev/kvm {access}"))
                .steps(advice::cpu::kvm(host, state));
            let loads = *access == Access::Missing && state == ModuleState::Available;
            let module = advice::cpu::kvm_module(host.cpus.vendor);
            if loads { finding.fix(Fix::LoadModule { module }) } else { finding }
        }
    }
}
