//! Addresses of this host's network interfaces, asked for through rtnetlink.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::netlink;

/// By interface, each as `ADDRESS/PREFIX`; not those of a link only, which every interface that
/// is up has.
///
/// # Errors
/// netlink cannot be used.
pub(super) fn by_interface() -> io::Result<BTreeMap<String, Vec<String>>> {
    let mut names = BTreeMap::new();
    dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            let mut attributes = link.attributes.into_iter();
            let name = attributes.find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            names.insert(link.header.index, name);
        }
    })?;
    let mut all = BTreeMap::<String, Vec<String>>::new();
    dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |message| {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && message.header.scope == AddressScope::Universe
            && let Some(Some(name)) = names.get(&message.header.index)
            && let Some(address) = address(&message)
        {
            all.entry(name.clone()).or_default().push(address);
        }
    })?;
    Ok(all)
}

/// Of a link between two ends, IFA_ADDRESS is the other one and IFA_LOCAL ours (if_addr.h).
fn address(message: &AddressMessage) -> Option<String> {
    let (mut ours, mut any) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => ours = Some(address),
            AddressAttribute::Address(address) => any = Some(address),
            _ => {}
        }
    }
    Some(format!("{}/{}", ours.or(any)?, message.header.prefix_len))
}

/// All answers to a request.
fn dump(request: RouteNetlinkMessage, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
    let socket = netlink::send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
    loop {
        let (answers, _) = socket.recv_from_full()?;
        let mut rest = &answers[..];
        while !rest.is_empty() {
            let answer = netlink::parse(rest)?;
            // Each message begins at a multiple of four bytes (NLMSG_ALIGN).
            let length = (answer.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => each(message),
                NetlinkPayload::Error(error) => {
                    return Err(io::Error::from_raw_os_error(error.raw_code().abs()));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_answers() {
        let all = by_interface().expect("netlink answers");
        // 127.0.0.1 is of the host's scope, not of the world's.
        assert!(!all.contains_key("lo") || all["lo"].iter().all(|one| one != "127.0.0.1/8"));
        for address in all.values().flatten() {
            let (address, prefix) = address.split_once('/').expect("an address and a prefix");
            assert!(address.parse::<std::net::IpAddr>().is_ok(), "{address}");
            assert!(prefix.parse::<u8>().is_ok_and(|prefix| prefix <= 128), "{prefix}");
        }
    }
}
