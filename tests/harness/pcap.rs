//! Reads the packet capture that QEMU writes outside L1.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// An Ethernet frame on the NIC's wire.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Destination MAC as `52:54:00:12:34:56`.
    pub destination: String,
    /// Source MAC.
    pub source: String,
    /// 0x0800 for IPv4, 0x0806 for ARP.
    pub ethertype: u16,
    /// What follows the Ethernet header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The type of an ICMP message (8 a ping, 0 its answer), if it is one.
    pub fn icmp_type(&self) -> Option<u8> {
        let header_length = usize::from(self.payload.first()? & 0xf) * 4;
        let is_icmp = self.ethertype == 0x0800 && *self.payload.get(9)? == 1;
        if is_icmp { self.payload.get(header_length).copied() } else { None }
    }
}

/// All frames of a capture. QEMU may be writing its last record right now: a record that is cut
/// short ends the list.
pub fn read(path: &Path) -> Result<Vec<Frame>> {
    // The format: a 24-byte file header, then records of a 16-byte header (seconds,
    // microseconds, captured length, original length; here little-endian) and the frame.
    let bytes = std::fs::read(path).with_context(|| format!("no capture {}", path.display()))?;
    ensure!(bytes.starts_with(&[0xd4, 0xc3, 0xb2, 0xa1]), "not a little-endian pcap file");
    let mut rest = bytes.get(24..).unwrap_or_default();
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<16>() {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some((frame, after)) = after.split_at_checked(length) else {
            break;
        };
        frames.extend(parse(frame));
        rest = after;
    }
    Ok(frames)
}

fn parse(bytes: &[u8]) -> Option<Frame> {
    let (header, payload) = bytes.split_first_chunk::<14>()?;
    let mac = |bytes: &[u8]| {
        let octets: Vec<String> = bytes.iter().map(|octet| format!("{octet:02x}")).collect();
        octets.join(":")
    };
    Some(Frame {
        destination: mac(&header[..6]),
        source: mac(&header[6..12]),
        ethertype: u16::from_be_bytes([header[12], header[13]]),
        payload: payload.to_vec(),
    })
}
