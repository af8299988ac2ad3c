//! The expansion ROM of an assigned function: a copy, made when the guest first looks.
//!
//! The host's kernel maps the ROM anew for each read of it (`vfio_pci_bar_rw`), far too slow for
//! a guest that reads byte by byte. The copy is not made before, because most guests never look,
//! and some devices do not survive the look (QEMU keeps a list, `vfio_opt_rom_in_denylist`).

use std::io;

use super::backend::{Region, VfioPort};
use crate::pci::Bar;

/// What the ROM holds, once somebody has asked.
#[derive(Debug, Default)]
pub struct Rom(Option<Vec<u8>>);

impl Rom {
    /// Reads inside the region. A read that fails is tried again the next time: the device may
    /// have been switched off between the access and the look at it.
    pub fn read(&mut self, offset: u64, data: &mut [u8], device: &dyn VfioPort) -> io::Result<()> {
        let copy = match self.0.take() {
            Some(copy) => copy,
            None => {
                let size = device.profile().bars[Bar::ROM.index()].size;
                let mut copy = vec![0; usize::try_from(size).map_err(io::Error::other)?];
                device.read(Region::Bar(Bar::ROM), 0, &mut copy)?;
                copy
            }
        };
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| copy.get(at)).copied().unwrap_or(0xff);
        }
        self.0 = Some(copy);
        Ok(())
    }
}
