//! Ports of virtual functions, read and set through rtnetlink (`include/uapi/linux/if_link.h`).

use std::io;

use super::{Message, Request, append, attributes, number};
use crate::units::{Mac, VfPort};

/// Bytes of `struct ifinfomsg`.
pub(super) const LINK: usize = 16;

/// Of `IFLA_EXT_MASK`: the answer has the virtual functions (`RTEXT_FILTER_VF`).
const WITH_FUNCTIONS: u32 = 1;

/// The attributes of one virtual function, `IFLA_VF_*`. Each value begins with the function's
/// index; what follows is `u8[32]`, `u32` and `u32` (the priority), `u32`, `u32`.
const VF_INFO: u16 = 1;
const VF_MAC: u16 = 1;
const VF_VLAN: u16 = 2;
const VF_SPOOF_CHECK: u16 = 4;
const VF_TRUST: u16 = 9;
/// `MAX_ADDR_LEN`, which is what a hardware address has room for.
const MAX_ADDRESS: usize = 32;

/// The ports of the virtual functions behind `interface`, by index.
///
/// # Errors
/// There is no such interface, or netlink cannot be used.
pub fn ports(interface: &str) -> io::Result<Vec<VfPort>> {
    let request = request(libc::RTM_GETLINK, 0, interface)
        .with(libc::IFLA_EXT_MASK, &WITH_FUNCTIONS.to_ne_bytes());
    let answer = request.ask()?;
    Ok(answer.iter().flat_map(ports_of).collect())
}

/// Changes what differs between `before` and `port`; drivers refuse what they do not implement,
/// so what stays is not sent.
///
/// # Errors
/// The driver of the physical function refuses.
pub fn set_port(interface: &str, index: u32, before: &VfPort, port: &VfPort) -> io::Result<()> {
    let changes = changes(index, before, port);
    if changes.is_empty() {
        return Ok(());
    }
    let mut function = Vec::new();
    append(&mut function, VF_INFO, &changes);
    request(libc::RTM_SETLINK, libc::NLM_F_ACK, interface)
        .with(libc::IFLA_VFINFO_LIST, &function)
        .ask()
        .map(drop)
}

/// The kernel takes the interface's name in the place of its index.
fn request(kind: u16, flags: i32, interface: &str) -> Request {
    let name = [interface.as_bytes(), &[0]].concat();
    Request::new(kind, flags, &[0; LINK]).with(libc::IFLA_IFNAME, &name)
}

fn ports_of(link: &Message) -> Vec<VfPort> {
    let attributes_of_link = attributes(link.body.get(LINK..).unwrap_or_default());
    let lists = attributes_of_link.filter(|(kind, _)| *kind == libc::IFLA_VFINFO_LIST);
    lists.flat_map(|(_, list)| attributes(list)).map(|(_, function)| port(function)).collect()
}

fn port(function: &[u8]) -> VfPort {
    let mut port = VfPort::default();
    for (kind, value) in attributes(function) {
        // The function's index comes first.
        let value = value.get(4..).unwrap_or_default();
        match kind {
            VF_MAC => port.mac = Mac(value.first_chunk().copied().unwrap_or_default()),
            VF_VLAN => port.vlan = u16::try_from(number(value)).unwrap_or_default(),
            VF_SPOOF_CHECK => port.spoof_check = number(value) == 1,
            VF_TRUST => port.trust = number(value) == 1,
            _ => {}
        }
    }
    port
}

fn changes(index: u32, before: &VfPort, port: &VfPort) -> Vec<u8> {
    let mut changes = Vec::new();
    let mut change = |kind: u16, value: &[u8]| {
        append(&mut changes, kind, &[&index.to_ne_bytes()[..], value].concat());
    };
    if port.mac != before.mac {
        let mut address = [0; MAX_ADDRESS];
        address[..port.mac.0.len()].copy_from_slice(&port.mac.0);
        change(VF_MAC, &address);
    }
    if port.vlan != before.vlan {
        change(VF_VLAN, &[u32::from(port.vlan).to_ne_bytes(), [0; 4]].concat());
    }
    if port.spoof_check != before.spoof_check {
        change(VF_SPOOF_CHECK, &u32::from(port.spoof_check).to_ne_bytes());
    }
    if port.trust != before.trust {
        change(VF_TRUST, &u32::from(port.trust).to_ne_bytes());
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_would_be_read() {
        let mac = Mac([0x52, 0x54, 0, 0, 0, 7]);
        let wanted = VfPort { mac, vlan: 7, trust: true, spoof_check: true };
        assert_eq!(port(&changes(3, &VfPort::default(), &wanted)), wanted);
    }

    #[test]
    fn what_stays_is_not_sent() {
        let before = VfPort { vlan: 7, trust: true, ..VfPort::default() };
        assert!(changes(0, &before, &before).is_empty());
        let kinds = |port: &VfPort| -> Vec<u16> {
            attributes(&changes(0, &before, port)).map(|(kind, _)| kind).collect()
        };
        assert_eq!(kinds(&VfPort { vlan: 8, ..before.clone() }), [VF_VLAN]);
        assert_eq!(kinds(&VfPort { trust: false, ..before.clone() }), [VF_TRUST]);
    }

    #[test]
    fn the_ports_of_a_card_come_by_index() {
        let mut list = Vec::new();
        for index in 0..3 {
            let port = VfPort { vlan: index, ..VfPort::default() };
            append(&mut list, VF_INFO, &changes(u32::from(index), &VfPort::default(), &port));
        }
        let mut body = vec![0; LINK];
        append(&mut body, libc::IFLA_IFNAME, b"eth0\0");
        append(&mut body, libc::IFLA_VFINFO_LIST, &list);
        let link = Message { kind: libc::RTM_NEWLINK, is_part: false, body };
        let vlans: Vec<u16> = ports_of(&link).iter().map(|port| port.vlan).collect();
        assert_eq!(vlans, [0, 1, 2]);
    }

    #[test]
    fn an_interface_without_virtual_functions_has_no_ports() {
        assert_eq!(ports("lo").expect("netlink answers"), []);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let error = ports("berth-none").expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
