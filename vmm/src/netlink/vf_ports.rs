//! Ports of virtual functions, read and set through rtnetlink.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkMessage, LinkVfInfo, VfInfo, VfInfoMac, VfInfoSpoofCheck,
    VfInfoTrust, VfInfoVlan,
};

use super::{parse, send};
use crate::units::{Mac, VfPort};

/// The ports of the virtual functions behind `interface`, by index.
///
/// # Errors
/// There is no such interface, or netlink cannot be used.
pub fn ports(interface: &str) -> io::Result<Vec<VfPort>> {
    let message = link(interface, LinkAttribute::ExtMask(vec![LinkExtentMask::Vf]));
    let answer = ask(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)?;
    let mut ports = Vec::new();
    for attribute in answer.map(|link| link.attributes).unwrap_or_default() {
        if let LinkAttribute::VfInfoList(list) = attribute {
            ports.extend(list.iter().map(|LinkVfInfo(facts)| port(facts)));
        }
    }
    Ok(ports)
}

/// Changes what differs between `before` and `port`; drivers refuse what they do not implement,
/// so what stays is not sent.
///
/// # Errors
/// The driver of the physical function refuses.
pub fn set_port(interface: &str, index: u32, before: &VfPort, port: &VfPort) -> io::Result<()> {
    let mut changes = Vec::new();
    if port.mac != before.mac {
        changes.push(VfInfo::Mac(VfInfoMac::new(index, &port.mac.0)));
    }
    if port.vlan != before.vlan {
        changes.push(VfInfo::Vlan(VfInfoVlan::new(index, port.vlan.into(), 0)));
    }
    if port.spoof_check != before.spoof_check {
        changes.push(VfInfo::SpoofCheck(VfInfoSpoofCheck::new(index, port.spoof_check)));
    }
    if port.trust != before.trust {
        changes.push(VfInfo::Trust(VfInfoTrust::new(index, port.trust)));
    }
    if changes.is_empty() {
        return Ok(());
    }
    let message = link(interface, LinkAttribute::VfInfoList(vec![LinkVfInfo(changes)]));
    ask(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

fn port(facts: &[VfInfo]) -> VfPort {
    let mut port = VfPort::default();
    for fact in facts {
        match fact {
            VfInfo::Mac(fact) => port.mac.0.copy_from_slice(&fact.mac[..Mac::default().0.len()]),
            VfInfo::Vlan(fact) => port.vlan = fact.vlan_id as u16,
            VfInfo::SpoofCheck(fact) => port.spoof_check = fact.enabled,
            VfInfo::Trust(fact) => port.trust = fact.enabled,
            _ => {}
        }
    }
    port
}

/// The kernel takes the interface's name in the place of its index.
fn link(interface: &str, attribute: LinkAttribute) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(interface.to_owned()), attribute];
    message
}

/// One request, one answer: a link, or an acknowledgement.
fn ask(request: RouteNetlinkMessage, flags: u16) -> io::Result<Option<LinkMessage>> {
    let socket = send(request, flags)?;
    // A card with many functions answers with more than a page.
    let (answer, _) = socket.recv_from_full()?;
    match parse(&answer)?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
        NetlinkPayload::Error(error) if error.code.is_some() => {
            Err(io::Error::from_raw_os_error(error.raw_code().abs()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_virtual_functions_has_no_ports() {
        assert_eq!(ports("lo").expect("netlink answers"), []);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert!(ports("berth-none").is_err());
    }
}
