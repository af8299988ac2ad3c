//! Interrupt remapping: why it is off, and what would turn it on here.

use berth_devices::vfio::IommuBackend;

use super::{Advice, line, parameters};
use crate::host::{HostProfile, LinuxVersion};
use crate::units::Seen;

const INTERRUPTS: &str = "/proc/interrupts";

/// The parameter of whichever module would do without interrupt remapping.
pub fn unsafe_file(backend: IommuBackend) -> &'static str {
    match backend {
        IommuBackend::Container => {
            "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
        }
        IommuBackend::Iommufd => "/sys/module/iommufd/parameters/allow_unsafe_interrupts",
    }
}

/// The parameter that turned remapping off (drivers/iommu/irq_remapping.c, setup_irqremap).
pub fn off_parameter(host: &HostProfile) -> Option<&str> {
    parameters::find(host, |word| {
        word == "nointremap"
            || word
                .strip_prefix("intremap=")
                .is_some_and(|values| values.split(',').any(|value| value == "off"))
    })
}

/// The host does not remap interrupts; `backend` is what could do without.
pub fn off(host: &HostProfile, backend: IommuBackend) -> Advice {
    let seen = "no interrupt goes through a remapping unit";
    let log = &host.log;
    let advice = Advice::new(INTERRUPTS, seen);
    let advice = if let Some(parameter) = off_parameter(host) {
        Advice::new(format!("/proc/cmdline: {parameter}"), seen).steps(parameters::change(
            host,
            "",
            Some(parameter),
        ))
    } else if let Some(said) = line(log, &["contains an erratum"], &[]) {
        // drivers/iommu/intel/irq_remapping.c: the 5500, 5520 and X58 before revision 22h.
        let seen = format!("{seen}: the chipset's own is faulty, and the kernel keeps it off");
        Advice::new(INTERRUPTS, seen).said(Some(said)).step(
            "no setting helps: take other hardware; some makers had an update of the firmware",
        )
    } else if let Some(said) = line(log, &["not in IVRS table", "No southbridge IOAPIC"], &[]) {
        let seen = format!("{seen}: the firmware's IVRS table lacks an interrupt controller");
        let advice = Advice::new(INTERRUPTS, seen).said(Some(said)).step("update the firmware");
        advice.steps(missing_ioapic(host).into_iter().flatten())
    } else if let Some(said) = line(log, &["has no mapping iommu"], &[]) {
        let seen = format!("{seen}: the firmware's DMAR table lacks an interrupt controller");
        Advice::new(INTERRUPTS, seen).said(Some(said)).step("update the firmware")
    } else if host.system.kernel_config.has("CONFIG_IRQ_REMAP") == Seen::No {
        advice.step("the kernel is built without CONFIG_IRQ_REMAP: boot one that has it")
    } else if host.system.is_virtual.is_yes() {
        advice.step("this host is a virtual machine: give its virtual IOMMU interrupt remapping")
    } else {
        // Not what the kernel says of what it found, or of what else it leaves off.
        let failed = [
            "Failed to enable irq remapping",
            "Failed to enable Interrupt Remapping",
            "Disabling interrupt remapping",
            "interrupt remapping will be disabled",
            "disabling IRQ remapping",
        ];
        advice.said(line(log, &failed, &[])).step(
            "turn on interrupt remapping in the firmware's setup, where it has such a setting \
             (x2APIC), or update the firmware",
        )
    };
    advice.step(format!(
        "or, only for guests that you trust as you trust the host: `echo Y > {}`",
        unsafe_file(backend)
    ))
}

/// `AMD-Vi: [Firmware Bug]: : IOAPIC[5] not in IVRS table`: the parameter that adds it, for the
/// controller of the southbridge (Documentation/admin-guide/kernel-parameters.txt; the form with
/// `@` since 6.2, commit 1198d2316dc4).
fn missing_ioapic(host: &HostProfile) -> Option<Vec<String>> {
    let said = line(&host.log, &["IOAPIC["], &[])?;
    let (_, rest) = said.split_once("IOAPIC[")?;
    let (number, _) = rest.split_once(']')?;
    let number: u32 = number.parse().ok()?;
    let parameter = if host.linux >= Some(LinuxVersion(6, 2)) {
        format!("ivrs_ioapic={number}@0000:00:14.0")
    } else {
        format!("ivrs_ioapic[{number}]=00:14.0")
    };
    let why = "or name the controller by hand (00:14.0 is the southbridge's, as `lspci` shows):";
    let steps = parameters::change(host, &parameter, None);
    Some(std::iter::once(why.to_owned()).chain(steps).collect())
}
