//! Devices that cannot work as they are, and what the kernel's log says of them.

use berth_devices::pci::HostBdf;

use super::{Advice, Code, Steps, line, parameters};
use crate::host::{HostProfile, LinuxVersion, Unfit};

const DEVICES: &str = "/sys/bus/pci/devices";

/// The line of the log that is about `device` and has one of `words`.
fn said<'a>(host: &'a HostProfile, device: HostBdf, words: &[&str]) -> Option<&'a str> {
    let mut lines = host.log.lines.iter().filter(|line| names(line, device));
    lines.find(|line| words.iter().any(|word| line.contains(word))).map(String::as_str)
}

/// Whether a line of the log is about `device`: an address within a longer one, of another domain,
/// is not its own. Only in the first domain is an address said without it.
fn names(line: &str, device: HostBdf) -> bool {
    let long = device.to_string();
    let stands_in = |address: &str| {
        line.match_indices(address).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|letter| letter.is_ascii_hexdigit() || letter == ':')
        })
    };
    let short = long.split_once(':').map(|(_, short)| short).filter(|_| device.domain() == 0);
    stands_in(&long) || short.is_some_and(stands_in)
}

/// The code of what makes a function unfit.
pub fn unfit_code(unfit: &Unfit) -> Code {
    match unfit {
        Unfit::Unreachable => Code::DeviceUnreachable,
        Unfit::BarUnassigned { .. } => Code::BarUnassigned,
        Unfit::TokenNeeded { .. } => Code::VfToken,
    }
}

/// A function is unfit for any guest.
pub fn unfit(host: &HostProfile, device: HostBdf, unfit: &Unfit) -> Advice {
    match unfit {
        Unfit::Unreachable => unreachable(host, device),
        Unfit::BarUnassigned { bar, size } => {
            let seen = format!(
                "its BAR {bar} of {} has no address: firmware and kernel found no room for it",
                crate::units::Bytes(*size)
            );
            Advice::new(format!("{DEVICES}/{device}/resource"), seen)
                .said(said(host, device, &["can't assign", "failed to assign"]))
                .step(
                    "turn on Above 4G Decoding in the firmware's setup, or make its memory for \
                     devices (MMIOH) larger",
                )
                .step("or let the kernel place BARs anew:")
                .steps(parameters::change(host, "pci=realloc", None))
        }
        Unfit::TokenNeeded { physical } => {
            let seen = format!(
                "its physical function {physical} is on vfio-pci, and VFIO opens it with the token \
                 of who has that one only"
            );
            Advice::new(format!("{DEVICES}/{device}/physfn/driver"), seen)
                .said(said(host, device, &["VF token required"]))
                .step(format!("`berth unbind {physical}` gives that one back to its own driver"))
                .step("or bind it to pci-pf-stub, where it has no driver")
        }
    }
}

/// The memory of a card's virtual functions has no address: no number of them can be had.
pub fn no_room(host: &HostProfile, device: HostBdf) -> Advice {
    let seen = "the memory of its virtual functions has no address: firmware and kernel found no \
                room for it";
    Advice::new(format!("{DEVICES}/{device}/resource"), seen)
        .said(said(host, device, &["resources for SR-IOV", "can't assign", "failed to assign"]))
        .step(
            "turn on SR-IOV and Above 4G Decoding in the firmware's setup, or make its memory for \
             devices (MMIOH) larger",
        )
        .step("or let the kernel place BARs anew:")
        .steps(parameters::change(host, "pci=realloc", None))
}

/// What the kernel logs of a device that has failed, with what it comes to: a reset that did not
/// end (`pci_dev_wait` in drivers/pci/pci.c), configuration lost under a guest
/// (`vfio_bar_restore` in drivers/vfio/pci/vfio_pci_config.c), an error that PCI Express does not
/// mend (drivers/pci/pcie/aer.c), a power state that it does not leave (`pci_power_up`).
const FAILURES: [(&str, &str); 5] = [
    ("giving up", "it did not come back from a reset"),
    ("reset recovery - restoring BARs", "it was reset behind its guest's back"),
    ("AER: Uncorrect", "it reported an error that PCI Express does not mend"),
    ("severity=Uncorrect", "it reported an error that PCI Express does not mend"),
    ("Unable to change power state", "it did not change its power state"),
];

/// The last line of the log in which `device` failed.
pub fn failed(host: &HostProfile, device: HostBdf) -> Option<Advice> {
    let lines = host.log.lines.iter().rev().filter(|line| names(line, device));
    let (line, seen) = lines
        .filter_map(|line| {
            let failure = FAILURES.iter().find(|(words, _)| line.contains(words))?;
            Some((line, failure.1))
        })
        .next()?;
    Some(
        Advice::new(
            host.log.source.clone().unwrap_or_default(),
            format!("{seen} since the host booted"),
        )
        .said(Some(line))
        .step("power the host off and on again before a guest gets it: a reboot may not reset it")
        .step("if it happens again: update the firmware of card and host, and seat the card anew"),
    )
}

/// A function cannot be reset; a hot reset of it would hit `others`, if there is one.
pub fn no_reset(others: &[HostBdf]) -> Steps {
    if others.is_empty() {
        return vec!["choose another device".to_owned()];
    }
    let others: Vec<String> = others.iter().map(ToString::to_string).collect();
    vec![format!("give the guest {} too: their bus is then reset as a whole", others.join(", "))]
}

fn unreachable(host: &HostProfile, device: HostBdf) -> Advice {
    let words = ["D3cold to D0, device inaccessible", "device inaccessible"];
    let said = said(host, device, &words);
    let seen = match said {
        Some(_) => "it does not come back from D3cold: its configuration space reads all ones",
        None => "it does not answer: its configuration space reads all ones",
    };
    Advice::new(format!("{DEVICES}/{device}/config"), seen)
        .said(said)
        .step("power the host off and on again; if that does not help, seat the card again")
        .step("then keep it awake: `options vfio-pci disable_idle_d3=1` in /etc/modprobe.d")
        .step(format!(
            "and `echo 0 > {DEVICES}/{device}/d3cold_allowed`, also of the port above it"
        ))
}

/// The firmware's frame buffer has a display's memory.
///
/// vfio-pci has taken it away by itself since 6.0 (commit d17378062079, "vfio/pci: Remove console
/// drivers"); sysfb makes it for drivers of all kinds since 5.15, which `video=efifb:off` does not
/// reach (drivers/firmware/sysfb.c).
pub fn framebuffer(host: &HostProfile) -> Steps {
    const EVICTED: LinuxVersion = LinuxVersion(6, 0);
    const SYSFB: LinuxVersion = LinuxVersion(5, 15);
    match host.linux {
        Some(version) if version >= EVICTED => Steps::new(),
        Some(version) if version < SYSFB => parameters::change(host, "video=efifb:off", None),
        _ => parameters::change(host, "initcall_blacklist=sysfb_init", None),
    }
}

/// VFIO could not have a BAR, because something else has its memory; `holder` is what the
/// firmware's frame buffer is called there.
pub fn bar_held(host: &HostProfile, device: HostBdf, holder: Option<&str>) -> Option<Advice> {
    let line = said(host, device, &["can't reserve"])?;
    let seen = match holder {
        Some(holder) => {
            format!("its memory is held by {holder} (/proc/iomem), the firmware's frame buffer")
        }
        None => "something else holds its memory: /proc/iomem names what".to_owned(),
    };
    let advice = Advice::new("/proc/iomem", seen).said(Some(line));
    let steps = framebuffer(host);
    Some(if steps.is_empty() {
        advice.step(
            "bind it again: this kernel's vfio-pci takes it away from the frame buffer itself",
        )
    } else {
        advice.steps(steps)
    })
}

/// What the IOMMU logs of a device that it stops (drivers/iommu/intel/dmar.c, amd/iommu.c).
const FAULTS: [&str; 11] = [
    "fault addr",
    "[DMA Read",
    "[DMA Write",
    "[INTR-REMAP]",
    "IO_PAGE_FAULT",
    "ILLEGAL_DEV_TABLE_ENTRY",
    "DEV_TAB_HARDWARE_ERROR",
    "PAGE_TAB_HARDWARE_ERROR",
    "IOTLB_INV_TIMEOUT",
    "INVALID_DEVICE_REQUEST",
    "INVALID_PPR_REQUEST",
];

/// Lines of the log in which the IOMMU stopped `device`: `DMAR: [DMA Read NO_PASID] Request device
/// [41:00.0] fault addr 0x0`, `vfio-pci 0000:41:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT ...]`,
/// `AMD-Vi: Event logged [IOTLB_INV_TIMEOUT device=41:00.0 ...]`.
pub fn faults(host: &HostProfile, device: HostBdf) -> Vec<&str> {
    let lines = host.log.lines.iter().map(String::as_str).filter(|line| names(line, device));
    lines.filter(|line| FAULTS.iter().any(|fault| line.contains(fault))).collect()
}

/// The IOMMU stopped a device; `last` is the last line of the log that says so.
pub fn faulty(last: &str) -> Steps {
    if last.contains("[INTR-REMAP]") {
        return vec![
            "its interrupts were blocked: update the firmware of the device and of the host"
                .to_owned(),
            "or, where its interrupts come from another function than itself, boot with \
             `intremap=nosid`, which trusts what a device says it is"
                .to_owned(),
        ];
    }
    vec![
        "see what ran when it happened; a driver that was just unbound may leave one behind"
            .to_owned(),
    ]
}

/// Groups are smaller than the hardware makes them (a patch that several distributions carry).
pub fn acs_override(host: &HostProfile) -> Option<Advice> {
    let parameter = parameters::find(host, |word| word.starts_with("pcie_acs_override="))?;
    let seen = format!(
        "`{parameter}` makes the groups look smaller than they are: devices behind one port reach \
         each other and the host past the IOMMU"
    );
    let said = line(&host.log, &["ACS overrides enabled"], &[]);
    Some(
        Advice::new("/proc/cmdline", seen)
            .said(said)
            .step("run only guests that you trust as you trust the host, or")
            .steps(parameters::change(host, "", Some(parameter))),
    )
}
