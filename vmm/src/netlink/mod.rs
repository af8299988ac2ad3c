//! Messages to the kernel's rtnetlink and back, as `include/uapi/linux/netlink.h` and
//! `rtnetlink.h` lay them out.
//!
//! berth needs four kinds of message, so their few fields are laid out here. A crate that knows
//! all of rtnetlink took a fifth of a whole build for it.

pub mod vf_ports;

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// Bytes of `struct nlmsghdr`: length, kind, flags, sequence, port.
const HEADER: usize = 16;
/// Bytes of `struct nlattr`: length and kind.
const ATTRIBUTE_HEADER: usize = 4;
/// Messages and attributes begin at multiples of it (`NLMSG_ALIGNTO`, `NLA_ALIGNTO`).
const ALIGNMENT: usize = 4;
/// `NLA_TYPE_MASK`: the upper two bits of an attribute's kind are flags.
const KIND: u16 = 0x3fff;

/// A request under construction.
pub struct Request(Vec<u8>);

impl Request {
    /// A request of a kind (`RTM_*`) with flags (`NLM_F_*` beside `NLM_F_REQUEST`) and the
    /// structure that every message of its family begins with.
    pub fn new(kind: u16, flags: i32, family: &[u8]) -> Self {
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).expect("flags have 16 bits");
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(family);
        Self(bytes)
    }

    /// The request with an attribute.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        append(&mut self.0, kind, value);
        self
    }

    /// Sends the request; every message of the answer, up to the acknowledgement where the request
    /// asks for one, or to the end of a dump.
    ///
    /// # Errors
    /// netlink cannot be used, or the kernel refuses the request: the error is then its own.
    pub fn ask(mut self) -> io::Result<Vec<Message>> {
        let length = u32::try_from(self.0.len()).expect("a request is short");
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0, the default.
            None,
        )?;
        send(&socket, &self.0, SendFlags::empty())?;
        let mut messages = Vec::new();
        loop {
            let bytes = datagram(&socket)?;
            for message in Messages(&bytes) {
                match message.end()? {
                    End::Of => return Ok(messages),
                    End::NotYet if message.is_part => messages.push(message),
                    End::NotYet => {
                        messages.push(message);
                        return Ok(messages);
                    }
                }
            }
        }
    }
}

/// Appends an attribute to a request or to the value of another attribute.
pub fn append(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("an attribute is short");
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// One datagram whole: a card with many functions answers with more than a page.
fn datagram(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let (_, length) = recv(socket, &mut [0; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC)?;
    let mut bytes = vec![0; length];
    recv(socket, &mut bytes[..], RecvFlags::empty())?;
    Ok(bytes)
}

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// `RTM_*`, or one of netlink's own kinds.
    pub kind: u16,
    /// Whether more messages belong to the same answer.
    is_part: bool,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// What a message says of the answer that it is part of.
enum End {
    NotYet,
    Of,
}

impl Message {
    /// A message with nothing but a body.
    #[cfg(test)]
    pub(crate) fn of(body: Vec<u8>) -> Self {
        Self { kind: 0, is_part: true, body }
    }

    fn end(&self) -> io::Result<End> {
        match i32::from(self.kind) {
            libc::NLMSG_DONE => Ok(End::Of),
            // `struct nlmsgerr` begins with the negative error; 0 acknowledges.
            libc::NLMSG_ERROR => {
                match self.body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                    Some(0) => Ok(End::Of),
                    Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    None => Err(io::ErrorKind::InvalidData.into()),
                }
            }
            _ => Ok(End::NotYet),
        }
    }
}

/// The messages of a datagram; one that is cut short ends them.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let header = self.0.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = self.0.get(HEADER..length)?.to_vec();
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        self.0 = self.0.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            is_part: i32::from(flags) & libc::NLM_F_MULTI != 0,
            body,
        })
    }
}

/// The attributes in `bytes`, each with its kind; one that is cut short ends them.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & KIND, value))
    })
}

/// A number at the beginning of a value; 0 where it is too short.
pub fn number(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// A name, up to its zero.
pub fn name(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let request = Request::new(libc::RTM_GETLINK, 0, &[0; 16]).with(libc::IFLA_IFNAME, b"lo\0");
        assert_eq!(request.0.len(), 16 + 16 + 8);
        assert_eq!(request.0[32..], [7, 0, 3, 0, b'l', b'o', 0, 0]);
    }

    #[test]
    fn the_kernels_refusal_is_the_error() {
        let body = [(-libc::ENODEV).to_ne_bytes().to_vec(), vec![0; 16]].concat();
        let kind = u16::try_from(libc::NLMSG_ERROR).expect("it is 2");
        let refusal = Message { kind, is_part: false, body };
        let error = refusal.end().err().expect("a refusal");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let read: usize = attributes(&bytes).map(|(_, value)| ATTRIBUTE_HEADER + value.len()).sum();
            prop_assert!(read <= bytes.len());
            let read: usize = Messages(&bytes).map(|message| HEADER + message.body.len()).sum();
            prop_assert!(read <= bytes.len());
        }

        #[test]
        fn what_is_appended_is_read_again(
            values in proptest::collection::vec((0..KIND, proptest::collection::vec(any::<u8>(), 0..9)), 0..9),
        ) {
            let mut bytes = Vec::new();
            for (kind, value) in &values {
                append(&mut bytes, *kind, value);
            }
            let read: Vec<(u16, Vec<u8>)> =
                attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, values);
        }
    }
}
