//! Whether the devices in question are bound to a VFIO driver, and whether they stay bound.

use berth_devices::pci::Bdf;

use super::{Case, Code, Finding, Fix};
use crate::advice::{self, parameters};
use crate::host::{Availability, HostFunction};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let each = case.endpoints().flat_map(|(device, listed)| {
        let findings = [Some(bound(case, device, listed)), kept(case, device, listed)];
        findings.into_iter().flatten().map(move |finding| finding.of(device))
    });
    each.chain(persisted(case)).collect()
}

fn bound(case: &Case, device: Bdf, listed: &HostFunction) -> Finding {
    let code = Code::DeviceNotBound;
    let source = format!("/sys/bus/pci/devices/{device}/driver");
    let function = &listed.function;
    if !case.facts.has_drivers() {
        return Finding::unknown(code, source, "drivers are not in the snapshot");
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
    let finding = Finding::fail(code, source, seen);
    let finding = match advice::binding::mistaken_parameter(&case.facts.host) {
        Some((given, meant)) => finding
            .step(format!("`{given}` on the command line is no parameter; `{meant}` was meant")),
        None => finding,
    };
    let finding = finding.steps(advice::binding::not_bound(device));
    // What is in use is taken away by hand, or not at all.
    match case.facts.host.functions.availability(device) {
        Availability::Free | Availability::GroupInUse(_) => finding.fix(Fix::Bind { device }),
        _ => finding,
    }
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
    if let (Some(line), None, true) = (option, parameter, modules.vfio_pci_built_in)
        && line.text.starts_with("options vfio")
    {
        let seen = format!(
            "vfio-pci is built into the kernel, which does not read {}: {name} takes it back",
            line.file
        );
        let add = format!("vfio-pci.ids={ids}");
        return Some(
            Finding::warn(code, line.file.clone(), seen)
                .steps(parameters::change(&case.facts.host, &add, None))
                .step(format!(
                    "or, for this one card of its kind: `berth bind {device} --persist`"
                )),
        );
    }
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

/// Functions that go to vfio-pci at boot by their addresses, and are not what they were.
fn persisted(case: &Case) -> Vec<Finding> {
    const FILE: &str = "/etc/modprobe.d/berth.conf";
    let code = Code::PersistMoved;
    let facts = case.facts;
    let moved = facts.settings.persisted.iter().filter_map(|(&device, modules)| {
        let was = modules.join(" or ");
        let step = format!("`berth unbind --persist {device}`, and `berth bind --persist` the card where it is now");
        let Some(found) = facts.host.functions.get(device) else {
            let seen = format!("it goes to vfio-pci at boot, and is not there (its driver was {was})");
            return Some(Finding::warn(code, FILE, seen).of(device).step(step));
        };
        let driver = found.function.driver.as_deref().filter(|_| !found.function.is_bound_to_vfio())?;
        let is = |module: &String| module.replace('-', "_") == driver.replace('-', "_");
        if modules.is_empty() || modules.iter().any(is) {
            return None;
        }
        let seen = format!(
            "it goes to vfio-pci at boot; it was a function for {was}, and {driver} has what is there now"
        );
        Some(Finding::warn(code, FILE, seen).of(device).step(step))
    });
    let moved: Vec<Finding> = moved.collect();
    if moved.is_empty() {
        let seen = "what goes to vfio-pci at boot is what it was";
        return vec![Finding::pass(code, FILE, seen)];
    }
    moved
}
