//! Whether the devices in question are bound to a VFIO driver, and whether they stay bound.

use berth_devices::pci::Bdf;

use super::{Case, Code, Finding, Fix};
use crate::advice::{self, parameters};
use crate::host::{HostFunction, HostUse};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let each = case.endpoints().flat_map(|(device, listed)| {
        let findings = [Some(bound(case, device, listed)), kept(case, device, listed)];
        findings.into_iter().flatten().map(move |finding| finding.of(device))
    });
    each.collect()
}

fn bound(case: &Case, device: Bdf, listed: &HostFunction) -> Finding {
    let code = Code::DeviceNotBound;
    let source = format!("/sys/bus/pci/devices/{device}/driver");
    let function = &listed.function;
    if !case.facts.has_drivers() {
        return Finding::unknown(code, source, "drivers are not in the capture");
    }
    if function.is_bound_to_vfio() {
        let driver = function.driver.as_deref().unwrap_or_default();
        return Finding::pass(code, source, format!("{driver} has it"));
    }
    if case.is_bound_for_run(device) {
        let from = function.driver.as_deref().map_or(String::new(), |name| format!(" from {name}"));
        return Finding::pass(
            code,
            source,
            format!("`berth run` takes it{from}, and gives it back"),
        );
    }
    let seen = match &function.driver {
        Some(driver) => format!("{driver} has it"),
        None => "no driver has it".to_owned(),
    };
    let finding = Finding::fail(code, source, seen).steps(advice::binding::not_bound(device));
    // What is in use is taken away by hand, or not at all.
    let idle = listed.uses.iter().all(|usage| matches!(usage, HostUse::OpenVfio { .. }));
    let idle = idle && listed.functions_to_lose() == 0;
    if idle && function.group.is_some() { finding.fix(Fix::Bind { device }) } else { finding }
}

/// What would have the device after a reboot, when nothing keeps it for VFIO.
fn kept(case: &Case, device: Bdf, listed: &HostFunction) -> Option<Finding> {
    let code = Code::DeviceTakenBack;
    let function = &listed.function;
    if !function.is_bound_to_vfio() {
        return None;
    }
    let modules = &case.facts.modules;
    let address = device.to_string();
    let driverctl = modules.driverctl.iter().find(|(of, _)| *of == address);
    if let Some((_, driver)) = driverctl.filter(|(_, driver)| driver.contains("vfio")) {
        let seen = format!("driverctl binds it to {driver} at boot");
        return Some(Finding::pass(code, format!("/etc/driverctl.d/pci-{device}"), seen));
    }
    let native = modules.drivers_of(&listed.modalias);
    let name = if native.is_empty() { "its own driver".to_owned() } else { native.join(" or ") };
    let ids = format!("{:04x}:{:04x}", function.vendor, function.device);
    let names_ids = |text: &str| text.contains("ids=") && text.to_ascii_lowercase().contains(&ids);
    // The second is how `berth bind --persist` does it, and others who mean one card of several.
    let claims = |text: &str| {
        text.starts_with("options vfio") && names_ids(text)
            || text.starts_with("install vfio") && text.contains(&address)
    };
    let option = modules.config.iter().find(|line| claims(&line.text));
    let parameter =
        parameters::find(&case.facts.host, |word| word.starts_with("vfio") && names_ids(word));
    let claim =
        option.map(|line| line.file.clone()).or(parameter.map(|_| "/proc/cmdline".to_owned()));
    let Some(claim) = claim else {
        let until = match function.driver_override.as_deref() {
            Some(driver) => {
                format!("driver_override ({driver}) keeps it until the host reboots; then")
            }
            None => "no driver_override is set: after a rescan or a reboot".to_owned(),
        };
        let source = format!("/sys/bus/pci/devices/{device}/driver_override, /etc/modprobe.d");
        return Some(
            Finding::warn(code, source, format!("{until} {name} takes it back"))
                .step(format!("`berth bind {device} --persist`")),
        );
    };
    // vfio-pci is told of the device; whether it loads first is another matter.
    let first = native.iter().all(|driver| {
        modules.config.iter().any(|line| {
            let words: Vec<&str> = line.text.split_whitespace().collect();
            let is = |word: &str| word.replace('-', "_") == driver.replace('-', "_");
            match words.as_slice() {
                ["blacklist", module] => is(module),
                ["softdep", module, "pre:", before @ ..] => {
                    is(module) && before.iter().any(|word| word.contains("vfio"))
                }
                _ => false,
            }
        })
    });
    Some(if first {
        Finding::pass(code, claim, format!("vfio-pci claims it at boot, before {name}"))
    } else {
        let step =
            native.iter().map(|driver| format!("add `softdep {driver} pre: vfio-pci` to {claim}"));
        Finding::warn(
            code,
            claim.clone(),
            format!("vfio-pci claims it at boot, but {name} may load first"),
        )
        .steps(step)
        .step(parameters::initramfs(&case.facts.host.system))
    })
}
