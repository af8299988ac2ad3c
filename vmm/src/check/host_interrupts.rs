//! Interrupts on the host: whether they are remapped, and whom they disturb.

use berth_devices::vfio::IommuBackend;

use super::{Case, Code, Finding};
use crate::advice::{parameters, remapping, system};
use crate::host::{Capability, ConfigLine, IdSet, ModuleState};
use crate::plan::Plan;
use crate::units::Seen;

/// Vectors of a CPU that devices get: 256 less exceptions, the system's own and a reserve
/// (kernel, arch/x86/include/asm/irq_vectors.h).
const VECTORS_PER_CPU: usize = 200;

pub(super) fn check_remapping(case: &Case) -> Vec<Finding> {
    let iommu = &case.facts.host.iommu;
    if iommu.units.is_empty() {
        return Vec::new();
    }
    let backend = super::vfio::backend(case);
    let source = remapping::unsafe_file(backend);
    let is_lifted = match backend {
        IommuBackend::Container => iommu.unsafe_interrupts,
        IommuBackend::Iommufd => iommu.unsafe_interrupts_iommufd,
    };
    let lifted = if is_lifted {
        Finding::warn(Code::UnsafeInterrupts, source, "VFIO does without interrupt remapping")
            .step("run only guests that you trust as you trust the host, or")
            .step(format!("`echo N > {source}`"))
    } else if let Some(place) = unsafe_when_loaded(case, backend) {
        Finding::warn(
            Code::UnsafeInterrupts,
            place.clone(),
            "VFIO will do without interrupt remapping",
        )
        .step("run only guests that you trust as you trust the host, or")
        .step(format!("take allow_unsafe_interrupts out of {place}"))
    } else {
        Finding::pass(Code::UnsafeInterrupts, source, "VFIO insists on interrupt remapping")
    };
    vec![remapped(case, backend, is_lifted), lifted]
}

/// Where a module that is not loaded yet is told to do without interrupt remapping.
fn unsafe_when_loaded(case: &Case, backend: IommuBackend) -> Option<String> {
    const PARAMETER: &str = "allow_unsafe_interrupts";

    let (module, state) = match backend {
        IommuBackend::Container => ("vfio_iommu_type1", case.facts.modules.vfio_iommu_type1),
        // Its own state is not read: a kernel with the file has it loaded or built in.
        IommuBackend::Iommufd => return None,
    };
    if state == ModuleState::Loaded {
        return None;
    }
    // "1", "y" and "Y", and the name alone (kernel, lib/kstrtox.c, kstrtobool).
    let sets = |word: &str| match word.split_once('=') {
        Some((name, value)) => name == PARAMETER && value.starts_with(['1', 'y', 'Y', 't', 'T']),
        None => word == PARAMETER,
    };
    let of_module = |line: &&ConfigLine| {
        let mut words = line.text.split_whitespace();
        words.next() == Some("options")
            && words.next().is_some_and(|name| name.replace('-', "_") == module)
            && words.any(sets)
    };
    let option = case.facts.modules.config.iter().find(of_module).map(|line| line.file.clone());
    let word = |word: &str| {
        word.split_once('.')
            .is_some_and(|(name, rest)| name.replace('-', "_") == module && sets(rest))
    };
    let parameter = parameters::find(&case.facts.host, word).map(|_| "/proc/cmdline".to_owned());
    option.or(parameter)
}

fn remapped(case: &Case, backend: IommuBackend, is_lifted: bool) -> Finding {
    const SOURCE: &str = "/proc/interrupts";
    let code = Code::IntremapOff;
    let host = &case.facts.host;
    match host.iommu.interrupt_remapping {
        Some(true) => Finding::pass(code, SOURCE, "interrupts are remapped"),
        None => Finding::unknown(code, SOURCE, "the interrupts cannot be seen"),
        // Allowed by its administrator, who is warned of that.
        Some(false) if is_lifted => Finding::warned(code, remapping::off(host, backend)),
        Some(false) => Finding::failed(code, remapping::off(host, backend)),
    }
}

/// Where the interrupts of the devices in question land, against the CPUs of the vCPUs.
pub(super) fn landing(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(plan) = case.plan() {
        let vcpus: IdSet = plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect();
        findings.push(steered(case, plan, &vcpus).unwrap_or_else(|| affinity(case, &vcpus)));
        findings.push(irqbalance(case, &vcpus));
    }
    findings.extend(vectors(case));
    findings
}

/// berth itself keeps the devices' interrupts away, if it may.
fn steered(case: &Case, plan: &Plan, vcpus: &IdSet) -> Option<Finding> {
    let cpus: IdSet = plan.pci.functions.iter().flat_map(|f| f.interrupt_cpus.clone()).collect();
    let all = plan.pci.functions.iter().all(|f| !f.interrupt_cpus.is_empty());
    let may = case.facts.host.process.has(Capability::DacOverride);
    (may && all && !cpus.is_empty() && cpus.intersection(vcpus).is_empty()).then(|| {
        let seen = format!("berth steers the devices' interrupts to CPUs {cpus}");
        Finding::pass(Code::IrqOnVcpu, "berth plan", seen)
    })
}

fn affinity(case: &Case, vcpus: &IdSet) -> Finding {
    const DEFAULT: &str = "/proc/irq/default_smp_affinity";
    let code = Code::IrqOnVcpu;
    let facts = case.facts;
    let online = &facts.host.cpus.online;
    let others = online.difference(vcpus);
    let landed = facts.settings.irq_cpus.iter();
    let mut landed = landed.filter(|(_, cpus)| !cpus.intersection(vcpus).is_empty());
    if let Some((number, cpus)) = landed.next() {
        let source = format!("/proc/irq/{number}/effective_affinity_list");
        let seen =
            format!("the device's interrupt {number} lands on CPU {cpus}, which is a vCPU's");
        return Finding::warn(code, source, seen).step(format!(
            "`echo {others} > /proc/irq/{number}/smp_affinity_list`, and so for the others"
        ));
    }
    match &facts.settings.default_irq_cpus {
        None => Finding::unknown(code, DEFAULT, "where new interrupts land cannot be seen"),
        Some(cpus) if cpus.intersection(vcpus).is_empty() => {
            Finding::pass(code, DEFAULT, format!("new interrupts land on CPUs {cpus}"))
        }
        Some(_) if others.is_empty() => {
            Finding::warn(code, DEFAULT, "vCPUs have every CPU that interrupts could land on")
                .step("lower vcpus, or name fewer CPUs in placement.cpus")
        }
        Some(cpus) => {
            let both = cpus.intersection(vcpus);
            let seen = format!("new interrupts land on CPUs {cpus}; CPUs {both} are vCPUs'");
            let kept = cpus.difference(vcpus);
            let target = if kept.is_empty() { &others } else { &kept };
            Finding::warn(code, DEFAULT, seen)
                .step(format!("`echo {} > {DEFAULT}`", target.to_mask()))
        }
    }
}

fn irqbalance(case: &Case, vcpus: &IdSet) -> Finding {
    const SOURCE: &str = "/sys/fs/cgroup/system.slice, /run/irqbalance";
    let code = Code::Irqbalance;
    let facts = case.facts;
    let system = &facts.host.system;
    match facts.settings.irqbalance {
        Seen::Unknown => Finding::unknown(code, SOURCE, "whether irqbalance runs cannot be seen"),
        Seen::No => Finding::pass(code, SOURCE, "irqbalance does not run"),
        Seen::Yes => {
            let banned = facts.settings.irqbalance_banned.as_deref();
            let spared = banned.and_then(|list| list.parse::<IdSet>().ok()).unwrap_or_default();
            if vcpus.difference(&spared).difference(&facts.host.cpus.isolated).is_empty() {
                let file = system::irqbalance_file(system);
                return Finding::pass(code, file, "irqbalance leaves the vCPUs' CPUs alone");
            }
            Finding::warn(code, SOURCE, format!("irqbalance runs and may use CPUs {vcpus}"))
                .steps(system::irqbalance(system, vcpus))
        }
    }
}

fn vectors(case: &Case) -> Option<Finding> {
    const SOURCE: &str = "/sys/bus/pci/devices/*/config";
    let code = Code::VectorsMany;
    let mut wanted = 0;
    for (device, listed) in case.endpoints() {
        match listed.function.msix_vectors {
            Some(vectors) => wanted += usize::from(vectors),
            None => {
                let seen = "only root sees how many vectors it has";
                return Some(Finding::unknown(code, SOURCE, seen).of(device));
            }
        }
    }
    if case.devices.is_empty() {
        return None;
    }
    let room = VECTORS_PER_CPU * case.facts.host.cpus.online.len();
    Some(if wanted <= room {
        Finding::pass(
            code,
            SOURCE,
            format!("{wanted} vectors at most, and the CPUs have some {room}"),
        )
    } else {
        let seen = format!("up to {wanted} vectors, and the CPUs have some {room}");
        Finding::warn(code, SOURCE, seen).step("let the guest's driver ask for fewer queues")
    })
}
