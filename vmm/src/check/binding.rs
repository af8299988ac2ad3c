//! Whether the devices in question are bound to a VFIO driver, and whether they stay bound.

use berth_devices::pci::HostBdf;

use super::{Case, Code, Finding, Fix};
use crate::advice::{self, parameters};
use crate::host::persisted::FILE;
use crate::host::{Availability, HostFunction};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let each = case.endpoints().flat_map(|(device, listed)| {
        let findings = [Some(bound(case, device, listed)), kept(case, device, listed)];
        findings.into_iter().flatten().map(move |finding| finding.of(device))
    });
    each.chain(moved(case)).collect()
}

fn bound(case: &Case, device: HostBdf, listed: &HostFunction) -> Finding {
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

/// Whether the cards that `berth bind --persist` keeps are where they were.
fn moved(case: &Case) -> Vec<Finding> {
    let code = Code::PersistMoved;
    if case.facts.persisted.is_empty() {
        return vec![Finding::pass(code, FILE, "berth keeps no card for VFIO at boot")];
    }
    let functions = &case.facts.host.functions;
    let each = case.facts.persisted.iter().map(|(persisted, now)| {
        let device = persisted.address;
        let unkept = || format!("`berth unbind --persist {device}`, and `berth bind --persist` the card where it is now");
        let found = functions.get(device);
        let driver = found.and_then(|found| found.function.driver.as_deref());
        let uses = functions.uses_of(device);
        let is_now = || {
            let driver = driver.map_or("no driver has".to_owned(), |name| format!("{name} has"));
            let uses: String = uses.iter().map(|one| format!("; it {one}")).collect();
            format!("{driver} what is there now{uses}")
        };
        let finding = match (&persisted.identity, now) {
            _ if found.is_none() => {
                let seen = "no card is there any more";
                Finding::warn(code, FILE, seen).step(format!("`berth unbind --persist {device}`"))
            }
            (Some(meant), Some(now)) if meant != now => {
                let seen = format!("another card is there: {now}, not {meant}; {}", is_now());
                Finding::warn(code, FILE, seen).step(unkept())
            }
            (Some(_), None) => {
                Finding::unknown(code, FILE, "which card is there now cannot be seen")
            }
            // Its file of an older berth's names drivers only.
            (None, _) if driver.is_some_and(|driver| {
                !driver.contains("vfio") && !persisted.modules.iter().any(|module| module == driver)
            }) => {
                let was: Vec<&str> = persisted.modules.iter().map(String::as_str).collect();
                let seen = format!("it was one of {}'s, and {}", was.join(" or "), is_now());
                Finding::warn(code, FILE, seen).step(unkept())
            }
            (None, _) => {
                let seen = "the file is an older berth's, which did not note the card";
                Finding::warn(code, FILE, seen).step(format!("`berth bind --persist {device}`"))
            }
            _ => Finding::pass(code, FILE, "the card that was meant is there"),
        };
        finding.of(device)
    });
    each.collect()
}

/// What would have the device after a reboot, when nothing keeps it for VFIO.
fn kept(case: &Case, device: HostBdf, listed: &HostFunction) -> Option<Finding> {
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
    if claim.is_none() && !case.facts.host.command_line.is_seen() {
        let seen = format!("{}: vfio-pci.ids= may keep it", parameters::UNSEEN);
        return Some(Finding::unknown(code, "/proc/cmdline", seen));
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
