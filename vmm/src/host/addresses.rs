//! Network interfaces and their addresses, asked for through rtnetlink.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use crate::netlink::{Message, Request, attributes, name, number};

/// Bytes of `struct ifinfomsg`, whose second word is the interface's index.
const LINK: usize = 16;
/// `IFLA_PARENT_DEV_NAME` and `IFLA_PARENT_DEV_BUS_NAME` (include/uapi/linux/if_link.h).
const PARENT: u16 = 56;
const PARENT_BUS: u16 = 57;
/// Bytes of `struct ifaddrmsg`: family, prefix, flags and scope in a byte each, then the index.
const ADDRESS: usize = 8;

/// By interface, each as `ADDRESS/PREFIX`; not those of a link only, which every interface that
/// is up has.
///
/// # Errors
/// netlink cannot be used.
pub(super) fn by_interface() -> io::Result<BTreeMap<String, Vec<String>>> {
    let addresses = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS]).ask()?;
    let names: BTreeMap<u32, String> =
        links()?.into_iter().map(|link| (link.index, link.name)).collect();
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for (index, address) in addresses.iter().filter_map(address) {
        if let Some(name) = names.get(&index) {
            all.entry(name.clone()).or_default().push(address);
        }
    }
    Ok(all)
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Its index in its namespace.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// The index of the one that it stands on, or that is its other end.
    pub(super) lower: Option<u32>,
    /// What its namespace calls that one's, where it is another one.
    pub(super) lower_namespace: Option<i32>,
    /// The device that it belongs to, after that one's bus.
    pub(super) parent: Option<(String, String)>,
}

/// The interfaces of this thread's network namespace.
///
/// # Errors
/// netlink cannot be used.
pub(super) fn links() -> io::Result<Vec<Link>> {
    let links = Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; LINK]).ask()?;
    Ok(links.iter().filter_map(link).collect())
}

fn link(message: &Message) -> Option<Link> {
    let (header, rest) = message.body.split_at_checked(LINK)?;
    let value = |wanted| Some(attributes(rest).find(|(kind, _)| *kind == wanted)?.1);
    let parent = |bus| Some((name(bus), name(value(PARENT)?)));
    Some(Link {
        index: number(&header[4..]),
        name: name(value(libc::IFLA_IFNAME)?),
        lower: value(libc::IFLA_LINK).map(number),
        lower_namespace: value(libc::IFLA_LINK_NETNSID).map(|id| number(id).cast_signed()),
        parent: value(PARENT_BUS).and_then(parent),
    })
}

/// An address of the world's scope, and the index of its interface.
fn address(message: &Message) -> Option<(u32, String)> {
    let (header, rest) = message.body.split_at_checked(ADDRESS)?;
    let (prefix, scope, index) = (header[1], header[3], number(&header[4..]));
    if scope != libc::RT_SCOPE_UNIVERSE {
        return None;
    }
    // Of a link between two ends, IFA_ADDRESS is the other one and IFA_LOCAL ours (if_addr.h).
    let value = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted);
    let (_, bytes) = value(libc::IFA_LOCAL).or_else(|| value(libc::IFA_ADDRESS))?;
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some((index, format!("{address}/{prefix}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::append;

    fn message(header: &[u8], all: &[(u16, &[u8])]) -> Message {
        let mut body = header.to_vec();
        for (kind, value) in all {
            append(&mut body, *kind, value);
        }
        Message::of(body)
    }

    #[test]
    fn our_end_of_a_link_between_two_is_the_address() {
        let ends: [(u16, &[u8]); 2] =
            [(libc::IFA_ADDRESS, &[10, 0, 0, 2]), (libc::IFA_LOCAL, &[10, 0, 0, 1])];
        let of = |scope: u8| address(&message(&[2, 32, 0, scope, 7, 0, 0, 0], &ends));
        assert_eq!(of(libc::RT_SCOPE_UNIVERSE), Some((7, "10.0.0.1/32".to_owned())));
        assert_eq!(of(libc::RT_SCOPE_LINK), None);
        assert_eq!(of(libc::RT_SCOPE_HOST), None);
    }

    #[test]
    fn an_interface_has_a_name_and_maybe_a_lower_one_and_a_device() {
        let header = [0, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let of = |more: &[(u16, &[u8])]| {
            link(&message(&header, &[&[(libc::IFLA_IFNAME, &b"eth0\0"[..])], more].concat()))
        };
        let eth0 = Link {
            index: 7,
            name: "eth0".to_owned(),
            lower: None,
            lower_namespace: None,
            parent: None,
        };
        assert_eq!(of(&[]), Some(eth0.clone()));
        let lower = of(&[(libc::IFLA_LINK, &[2, 0, 0, 0]), (libc::IFLA_LINK_NETNSID, &[0; 4])]);
        let stacked = Link { lower: Some(2), lower_namespace: Some(0), ..eth0.clone() };
        assert_eq!(lower, Some(stacked));
        let parent = of(&[(PARENT, b"0000:01:00.0\0"), (PARENT_BUS, b"pci\0")]);
        let device = Some(("pci".to_owned(), "0000:01:00.0".to_owned()));
        assert_eq!(parent, Some(Link { parent: device, ..eth0 }));
        assert_eq!(link(&Message::of(vec![0; 3])), None);
    }

    #[test]
    fn this_host_answers_with_every_interface_of_sysfs() {
        let links = links().expect("netlink answers");
        let names: Vec<String> = links.into_iter().map(|link| link.name).collect();
        assert!(names.contains(&"lo".to_owned()), "{names:?}");
        for address in by_interface().expect("netlink answers").values().flatten() {
            assert!(!address.starts_with("127."), "{address} is of the host's scope");
        }
    }
}
