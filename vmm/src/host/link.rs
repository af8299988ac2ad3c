//! The PCI Express link of a function, as sysfs shows it.

use berth_devices::pci::capability::{capabilities, read_u16, read_u32};
use berth_devices::pci::regs::CAP_EXPRESS;
use berth_devices::pci::{Link, LinkSpeed, LinkWidth, Payload};

use super::root::Root;

/// The link of the function in `folder`, whose configuration space starts with `config`. `None`
/// for a function without one: conventional PCI, or integrated into the root complex.
///
/// The kernel shows its speed and width to everyone, the capabilities only to root; for others
/// the payload is the least that there is. What cannot be read now, as of a device that is powered
/// down, is as good as unknown.
pub(super) fn read(root: &Root, folder: &str, config: &[u8]) -> Option<Link> {
    // The link registers of a virtual function do not speak of the link (PCI Express Base 6.0,
    // section 9.3.5): it is its physical function's.
    let physical = format!("{folder}/physfn");
    let of = if root.exists(&physical) { physical.as_str() } else { folder };
    let width = |kind: &str| {
        let text = |what: &str| root.text(format!("{of}/{kind}_link_{what}")).ok().flatten();
        let lanes = text("width")?.parse().ok().filter(|lanes| (1..=32).contains(lanes))?;
        Some(LinkWidth { speed: LinkSpeed::parse(&text("speed")?)?, lanes })
    };
    let capable = width("max")?;
    let negotiated = width("current").unwrap_or(capable);
    let (payload_supported, payload) = payloads(config);
    Some(Link { negotiated, capable, payload_supported, payload })
}

/// Payload supported and set, from device capabilities and device control (section 7.5.3).
fn payloads(config: &[u8]) -> (Payload, Payload) {
    let express = capabilities(config).into_iter().find(|c| c.id == CAP_EXPRESS);
    let Some(at) = express.map(|c| c.offset).filter(|at| usize::from(*at) + 10 <= config.len())
    else {
        return (Payload::default(), Payload::default());
    };
    let supported = Payload::from_code(read_u32(config, at + 4) as u8 & 7);
    let set = Payload::from_code((read_u16(config, at + 8) >> 5) as u8 & 7);
    (supported, set.min(supported))
}
