//! The door to VFIO, with somebody told of each change of interrupts.

use std::io;
use std::ops::Range;

use berth_devices::pci::Bar;
use berth_devices::vfio::{Affected, DeviceProfile, HostMapping, IrqKind, Region, VfioPort};
use vmm_sys_util::eventfd::EventFd;

use super::Steering;

/// A device whose new interrupts are steered.
pub struct Steered<B> {
    device: B,
    steering: Option<Steering>,
}

impl<B> Steered<B> {
    /// Tells `steering`, if there is one.
    pub fn new(device: B, steering: Option<Steering>) -> Self {
        Self { device, steering }
    }
}

impl<B: VfioPort> VfioPort for Steered<B> {
    fn profile(&self) -> &DeviceProfile {
        self.device.profile()
    }

    fn read(&self, region: Region, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.device.read(region, offset, data)
    }

    fn write(&self, region: Region, offset: u64, data: &[u8]) -> io::Result<()> {
        self.device.write(region, offset, data)
    }

    fn mmap(&self, bar: Bar, part: &Range<u64>) -> io::Result<HostMapping> {
        self.device.mmap(bar, part)
    }

    fn set_irqs(&self, kind: IrqKind, start: u32, irqfds: &[Option<&EventFd>]) -> io::Result<()> {
        self.device.set_irqs(kind, start, irqfds)?;
        let message_signalled = matches!(kind, IrqKind::Msi | IrqKind::Msix);
        if let Some(steering) = self.steering.as_ref().filter(|_| message_signalled) {
            steering.changed();
        }
        Ok(())
    }

    fn unmask_intx_on(&self, resample: &EventFd) -> io::Result<()> {
        self.device.unmask_intx_on(resample)
    }

    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()> {
        self.device.disable_irqs(kind)
    }

    fn reset(&self) -> io::Result<()> {
        self.device.reset()
    }
    fn hot_reset_affects(&self) -> io::Result<Vec<Affected>> {
        self.device.hot_reset_affects()
    }

    fn hot_reset(&self) -> io::Result<()> {
        self.device.hot_reset()
    }
}
