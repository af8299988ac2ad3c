//! The host bridge, function 0 of the root bus: an identity, and nothing that can be set.
//!
//! It has the 256 bytes of a conventional function. Beyond them reads give ones, at which a guest's
//! search for extended capabilities ends; zeros would say that there are none, each time anew.

use super::config::ConfigSpace;
use super::regs::CONFIG_SIZE;
use super::{Bar, Freed, LinkState, PciFunction, ResetBuses, ResetCause};

/// Red Hat's vendor ID and its generic PCIe host bridge, which any guest takes for a host bridge
/// without quirks (QEMU docs/specs/pci-ids.rst).
const IDENTITY: [u8; 4] = [0x36, 0x1b, 0x08, 0x00];
/// Revision 0, interface 0, subclass 0, class 6: host bridge.
const CLASS: [u8; 4] = [0, 0, 0, 6];

/// A host bridge without registers of its own.
#[derive(Debug)]
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::default();
        config.fix(0, &[0; CONFIG_SIZE]);
        config.fix(0, &IDENTITY);
        config.fix(8, &CLASS);
        Self(config)
    }
}

impl PciFunction for HostBridge {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        self.0.read(offset, data);
    }

    fn config_write(&mut self, _offset: u16, _data: &[u8]) -> Freed {
        Freed::Nothing
    }

    fn bar_read(&mut self, _bar: Bar, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&mut self, _bar: Bar, _offset: u64, _data: &[u8]) {}

    fn sync(&mut self) -> Freed {
        Freed::Nothing
    }

    fn set_link(&mut self, _link: LinkState) -> Freed {
        Freed::Nothing
    }

    fn reset(&mut self, _cause: ResetCause, _done: &mut ResetBuses) {}
}
