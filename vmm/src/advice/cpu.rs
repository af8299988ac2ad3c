//! CPUs and KVM: what turns them on.

use super::{Advice, Steps, line};
use crate::host::{Access, CpuVendor, HostProfile, KernelLog, ModuleState};

const CPUINFO: &str = "/proc/cpuinfo";

/// How the kernel says that the firmware keeps virtualization off (arch/x86/kernel/cpu/
/// feat_ctl.c and arch/x86/kvm; the first two are of kernels before 6.8, where the CPUs' flags
/// still show it).
const DISABLED: [&str; 5] = [
    "disabled by bios",
    "disabled by BIOS",
    "disabled (by BIOS) in MSR_VM_CR",
    "not enabled (by BIOS) in MSR_IA32_FEAT_CTL",
    "not fully enabled on CPU",
];

/// The line of the log by which the firmware keeps virtualization off.
pub fn disabled(log: &KernelLog) -> Option<&str> {
    line(log, &DISABLED, &[])
}

/// The CPUs cannot run a guest.
pub fn no_virtualization(host: &HostProfile) -> Advice {
    let said = disabled(&host.log);
    let seen = match said {
        Some(_) => "the firmware keeps the CPUs' virtualization off",
        None => "the CPUs' flags have neither vmx nor svm",
    };
    let advice = Advice::new(CPUINFO, seen).said(said);
    if host.system.xen {
        return advice.step("this host runs under Xen, which has the CPUs' virtualization itself: boot its kernel without Xen");
    }
    if host.system.is_virtual.is_yes() {
        return advice.step("this host is a virtual machine: let its hypervisor nest");
    }
    advice.step(format!("turn on {} in the firmware's setup", virtualization(host.cpus.vendor)))
}

/// What the firmware's setup calls virtualization of the CPUs.
fn virtualization(vendor: CpuVendor) -> &'static str {
    match vendor {
        CpuVendor::Intel => "Intel Virtualization Technology (VT-x)",
        CpuVendor::Amd => "SVM",
        CpuVendor::Other => "virtualization",
    }
}

/// KVM's module for these CPUs.
pub fn kvm_module(vendor: CpuVendor) -> &'static str {
    match vendor {
        CpuVendor::Amd => "kvm_amd",
        CpuVendor::Intel | CpuVendor::Other => "kvm_intel",
    }
}

/// KVM opens and makes no virtual machine.
pub fn refused(reason: &str) -> String {
    format!("/dev/kvm opens, and KVM makes no virtual machine: {reason}")
}

/// What to do about that.
pub fn refusal(host: &HostProfile) -> Steps {
    let mut steps = Steps::new();
    if host.cpus.virtualization == Some(false) || disabled(&host.log).is_some() {
        steps.extend(no_virtualization(host).steps);
    }
    // EBUSY of kvm_intel and kvm_amd: another has turned VMX or SVM on (kernel,
    // arch/x86/kvm/vmx/vmx.c, vmx_hardware_enable).
    steps.push(
        "end other hypervisors, such as VirtualBox and VMware, and unload their modules".to_owned(),
    );
    steps.push("`dmesg | grep -i kvm` may say more".to_owned());
    steps
}

/// /dev/kvm does not open; `module` is what is known of KVM's module.
pub fn kvm(host: &HostProfile, module: ModuleState) -> Steps {
    let name = kvm_module(host.cpus.vendor);
    let in_container = host.system.container.is_some();
    let step = match (&host.kvm, module) {
        (Access::Missing, _) if host.system.xen => {
            "KVM has nothing to do below Xen: boot this host's kernel without Xen".to_owned()
        }
        (Access::Missing | Access::Denied, _) if in_container => {
            "give the container /dev/kvm: a device plugin's resource, or `--device /dev/kvm`"
                .to_owned()
        }
        (Access::Missing, ModuleState::Absent) => {
            format!("install a kernel that has the module {name}")
        }
        (Access::Missing, _) => {
            format!("`modprobe {name}`; if that fails, the kernel's log says why")
        }
        (Access::Denied, _) => "`usermod -aG kvm USER`, then log in again".to_owned(),
        _ => "`dmesg | grep -i kvm` may say why".to_owned(),
    };
    vec![step]
}
