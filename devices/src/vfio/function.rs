//! An assigned function on the guest's PCI bus.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::backend::{IrqKind, Region, VfioBackend};
use super::config_space::FunctionConfig;
use super::mapping::HostMapping;
use super::msix::MsixVectors;
use super::regions::direct_parts;
use crate::irq::{MsiRouter, VmPort};
use crate::pci::regs::{
    COMMAND, COMMAND_IO, COMMAND_MEMORY, MSIX_CONTROL, POWER_CONTROL, POWER_STATE,
};
use crate::pci::{Bar, BarDecode, BarRoutes, BarSpec, Bdf, ConfigSpace, PciFunction, Space};

/// Warnings that one guest can cause per function, before berth stays silent.
const WARNINGS: u32 = 16;

/// Why a function could not be put into the machine.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The host's kernel and the plan disagree.
    #[error("BAR {bar} has {found:#x} bytes; {planned:#x} were planned from sysfs")]
    BarSize {
        /// Register.
        bar: usize,
        /// What VFIO says.
        found: u64,
        /// What the plan says.
        planned: u64,
    },
    /// A BAR can not be mapped.
    #[error("{:#x}..{:#x} of BAR {bar} can not be mapped", part.start, part.end)]
    Map {
        /// Register.
        bar: usize,
        /// Part of it.
        part: Range<u64>,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// An interrupt can not be prepared.
    #[error("its interrupts can not be prepared")]
    Irq(#[source] io::Error),
    /// The device can not be reset or read.
    #[error("it does not answer")]
    Access(#[source] io::Error),
}

/// Eventfds with which the host's kernel speaks of the device.
#[derive(Debug, Default)]
pub struct Notifications {
    /// An uncorrectable error.
    pub error: Option<EventFd>,
    /// The host wants the device back.
    pub request: Option<EventFd>,
}

/// Where a function goes on the guest's bus, and what the guest finds in its BARs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Address in the guest.
    pub bdf: Bdf,
    /// BARs with their first addresses.
    pub bars: Vec<BarSpec>,
    /// Its device has several functions in the guest.
    pub multi_function: bool,
}

/// What all functions of a machine share.
#[derive(Clone)]
pub struct Wiring {
    /// The door to KVM.
    pub port: Arc<dyn VmPort>,
    /// MSI routes.
    pub router: Arc<MsiRouter>,
    /// Who answers in the windows.
    pub routes: Arc<BarRoutes>,
}

/// An assigned function: the device behind a virtual configuration space.
pub struct VfioFunction {
    bdf: Bdf,
    device: Box<dyn VfioBackend>,
    wiring: Wiring,
    config: ConfigSpace,
    power: Option<u16>,
    bars: Vec<FunctionBar>,
    msix: Option<MsixVectors>,
    /// Spaces that the device answers in, from its command register.
    command: u16,
    /// The device is in D0; in any other power state its BARs do not answer.
    awake: bool,
    warnings_left: u32,
}

struct FunctionBar {
    spec: BarSpec,
    parts: Vec<DirectPart>,
    /// Where it answers now.
    at: Option<Range<u64>>,
    /// Where it was last refused, so that it is said once.
    refused: Option<Range<u64>>,
}

/// A part of a BAR that the guest reaches without an exit.
struct DirectPart {
    slot: u32,
    offset: u64,
    mapping: HostMapping,
}

impl VfioFunction {
    /// Puts an opened device onto the bus. `slots` are memory slots that nobody else uses; one is
    /// taken per directly mapped part of a BAR. The device is reset first.
    pub fn new(
        device: Box<dyn VfioBackend>,
        place: &Place,
        slots: &mut impl Iterator<Item = u32>,
        wiring: Wiring,
    ) -> Result<Self, FunctionError> {
        let Place {
            bdf,
            bars,
            multi_function,
        } = place;
        if let Err(error) = device.reset() {
            // Some devices have no reset of their own; opening the group has tried what there is.
            log::warn!("{bdf}: the device can not be reset alone: {error}");
        }
        let config = FunctionConfig::new(&device.profile().config, bars, *multi_function);
        let usable = config
            .msix
            .filter(|m| u32::from(m.vectors) <= device.profile().msix_vectors);
        let mut function_bars = Vec::new();
        for spec in bars {
            let (bar, found) = (
                spec.bar.index(),
                device.profile().bars[spec.bar.index()].size,
            );
            if found != spec.size {
                return Err(FunctionError::BarSize {
                    bar,
                    found,
                    planned: spec.size,
                });
            }
            let mut parts = Vec::new();
            for part in direct_parts(device.profile(), spec.bar, spec.kind, usable.as_ref()) {
                let mapped = device.mmap(spec.bar, &part);
                let mapping = mapped.map_err(|source| FunctionError::Map {
                    bar,
                    part: part.clone(),
                    source,
                })?;
                let slot = slots
                    .next()
                    .expect("memory slots are a range that does not end");
                parts.push(DirectPart {
                    slot,
                    offset: part.start,
                    mapping,
                });
            }
            function_bars.push(FunctionBar {
                spec: *spec,
                parts,
                at: None,
                refused: None,
            });
        }
        let msix = usable
            .map(|capability| MsixVectors::new(capability, &wiring.router))
            .transpose();
        let mut function = Self {
            bdf: *bdf,
            device,
            wiring,
            config: config.space,
            power: config.power,
            bars: function_bars,
            msix: msix.map_err(FunctionError::Irq)?,
            command: 0,
            awake: true,
            warnings_left: WARNINGS,
        };
        function.refresh().map_err(FunctionError::Access)?;
        Ok(function)
    }

    /// Asks the host's kernel to speak up when the device fails or is wanted back.
    pub fn notifications(&self) -> io::Result<Notifications> {
        let bind = |kind, present: bool| {
            let bound = || {
                let fd = EventFd::new(EFD_NONBLOCK)?;
                self.device.set_irqs(kind, 0, &[Some(&fd)])?;
                Ok::<_, io::Error>(fd)
            };
            present.then(bound).transpose()
        };
        let profile = self.device.profile();
        Ok(Notifications {
            error: bind(IrqKind::Error, profile.has_error_irq)?,
            request: bind(IrqKind::Request, profile.has_request_irq)?,
        })
    }

    /// Where each BAR should answer, from the registers.
    pub fn decode(&self) -> BarDecode {
        let mut decode = BarDecode::default();
        for bar in &self.bars {
            let space = Space::from(bar.spec.kind);
            let enable = if space == Space::Io {
                COMMAND_IO
            } else {
                COMMAND_MEMORY
            };
            let address = self.config.bar_address(&bar.spec);
            let end = address.checked_add(bar.spec.size);
            if self.awake
                && self.command & enable != 0
                && let Some(end) = end
            {
                decode.0[bar.spec.bar.index()] = Some((space, address..end));
            }
        }
        decode
    }

    fn warn(&mut self, message: std::fmt::Arguments<'_>) {
        if self.warnings_left > 0 {
            self.warnings_left -= 1;
            let last = if self.warnings_left == 0 {
                " (further warnings are not shown)"
            } else {
                ""
            };
            log::warn!("{}: {message}{last}", self.bdf);
        }
    }

    /// Reads from the device what decides over its BARs.
    fn refresh(&mut self) -> io::Result<()> {
        let half = |offset: u16| {
            let mut data = [0; 2];
            self.device.read(Region::Config, offset.into(), &mut data)?;
            Ok::<_, io::Error>(u16::from_le_bytes(data))
        };
        let command = half(COMMAND)?;
        let awake = match self.power {
            Some(power) => half(power + POWER_CONTROL)? & POWER_STATE == 0,
            None => true,
        };
        (self.command, self.awake) = (command, awake);
        Ok(())
    }

    /// Takes away at once what a write is about to switch off: a BAR whose device no longer
    /// answers must not be mapped, or a guest access would fail KVM_RUN (the host's fault
    /// handler for the BAR raises SIGBUS then). What a write switches on follows after it.
    fn before_write(&mut self, offset: u16, data: &[u8]) -> bool {
        let written = |register: u16, old: u16| merge(old, register, offset, data);
        self.command &= written(COMMAND, self.command);
        if let Some(power) = self.power {
            self.awake &= written(power + POWER_CONTROL, 0) & POWER_STATE == 0;
        }
        self.sync()
    }

    fn place(&mut self, index: usize, space: Space, range: Range<u64>) {
        let bar = self.bars[index].spec.bar;
        if let Err(error) = self
            .wiring
            .routes
            .insert(space, range.clone(), self.bdf, bar)
        {
            // Zero is what a BAR holds before anyone gave it an address.
            let known = self.bars[index].refused.replace(range.clone()) == Some(range.clone());
            if !known && range.start != 0 {
                self.warn(format_args!("BAR {} does not answer: {error}", bar.index()));
            }
            return;
        }
        for part in 0..self.bars[index].parts.len() {
            let DirectPart {
                slot,
                offset,
                mapping,
            } = &self.bars[index].parts[part];
            // SAFETY: the mapping lives as long as the function, which unmaps the slot in `drop`
            // at the latest, and is never borrowed.
            let mapped = unsafe {
                self.wiring.port.map_slot(
                    *slot,
                    range.start + offset,
                    mapping.address(),
                    mapping.length(),
                )
            };
            if let Err(error) = mapped {
                for undone in &self.bars[index].parts[..part] {
                    // What was mapped a moment ago can be unmapped.
                    let _ = self.wiring.port.unmap_slot(undone.slot);
                }
                self.wiring.routes.remove(space, &range);
                self.warn(format_args!(
                    "BAR {} can not be mapped at {:#x}: {error}",
                    bar.index(),
                    range.start
                ));
                return;
            }
        }
        self.bars[index].at = Some(range);
        self.bars[index].refused = None;
    }

    /// Returns whether it is gone.
    fn displace(&mut self, index: usize, range: &Range<u64>) -> bool {
        let bar = &self.bars[index];
        for part in &bar.parts {
            if let Err(error) = self.wiring.port.unmap_slot(part.slot) {
                let slot = part.slot;
                self.warn(format_args!(
                    "memory slot {slot} can not be removed: {error}"
                ));
                return false;
            }
        }
        self.wiring.routes.remove(bar.spec.kind.into(), range);
        self.bars[index].at = None;
        true
    }
}

/// `old`, a 16-bit register at `register`, with the bytes of a write at `offset` over it.
fn merge(old: u16, register: u16, offset: u16, data: &[u8]) -> u16 {
    let mut bytes = old.to_le_bytes();
    for (at, byte) in (offset..).zip(data) {
        if let Some(target) = at
            .checked_sub(register)
            .and_then(|i| bytes.get_mut(usize::from(i)))
        {
            *target = *byte;
        }
    }
    u16::from_le_bytes(bytes)
}

impl PciFunction for VfioFunction {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if !self.config.is_emulated(offset, data.len())
            && let Err(error) = self.device.read(Region::Config, offset.into(), data)
        {
            data.fill(0xff);
            self.warn(format_args!(
                "configuration space at {offset:#x} can not be read: {error}"
            ));
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) -> bool {
        self.config.write(offset, data);
        let mut freed = false;
        if !self.config.is_emulated(offset, data.len()) {
            freed = self.before_write(offset, data);
            let forwarded = self.device.write(Region::Config, offset.into(), data);
            // Not only command and power state move BARs: so does a reset through a capability.
            if let Err(error) = forwarded.and_then(|()| self.refresh()) {
                self.warn(format_args!(
                    "configuration space at {offset:#x} can not be written: {error}"
                ));
            }
        }
        if let Some(msix) = &mut self.msix {
            let control = self.config.half(msix.capability().offset + MSIX_CONTROL);
            if control != msix.control()
                && let Err(error) = msix.write_control(control, self.device.as_ref())
            {
                self.warn(format_args!("MSI-X can not be switched: {error}"));
            }
        }
        self.sync() || freed
    }

    fn bar_read(&mut self, bar: Bar, offset: u64, data: &mut [u8]) {
        if let Some(msix) = &self.msix {
            let (table, pba) = (msix.capability().table(), msix.capability().pba());
            if msix.capability().table_bar == bar && table.contains(&offset) {
                return msix.read_table(offset - table.start, data);
            }
            if msix.capability().pba_bar == bar && pba.contains(&offset) {
                return msix.read_pba(offset - pba.start, data);
            }
        }
        if let Err(error) = self.device.read(Region::Bar(bar), offset, data) {
            data.fill(0xff);
            self.warn(format_args!(
                "BAR {} at {offset:#x} can not be read: {error}",
                bar.index()
            ));
        }
    }

    fn bar_write(&mut self, bar: Bar, offset: u64, data: &[u8]) {
        let mut written = Ok(());
        match &mut self.msix {
            Some(msix)
                if msix.capability().table_bar == bar
                    && msix.capability().table().contains(&offset) =>
            {
                let start = msix.capability().table_offset;
                written = msix.write_table(offset - start, data, self.device.as_ref());
            }
            // The pending bits are read-only.
            Some(msix)
                if msix.capability().pba_bar == bar
                    && msix.capability().pba().contains(&offset) => {}
            _ => written = self.device.write(Region::Bar(bar), offset, data),
        }
        if let Err(error) = written {
            self.warn(format_args!(
                "BAR {} at {offset:#x} can not be written: {error}",
                bar.index()
            ));
        }
    }

    fn sync(&mut self) -> bool {
        let wanted = self.decode();
        let mut freed = false;
        for index in 0..self.bars.len() {
            let here = wanted.0[self.bars[index].spec.bar.index()]
                .as_ref()
                .map(|(_, range)| range);
            if let Some(at) = self.bars[index].at.clone()
                && here != Some(&at)
            {
                freed |= self.displace(index, &at);
            }
        }
        for index in 0..self.bars.len() {
            let here = wanted.0[self.bars[index].spec.bar.index()].clone();
            if let (None, Some((space, range))) = (&self.bars[index].at, here) {
                self.place(index, space, range);
            }
        }
        freed
    }
}

impl Drop for VfioFunction {
    /// Gives the device back reset. Closing it resets it too where the kernel can, and so does
    /// the kernel when berth is killed.
    fn drop(&mut self) {
        self.command = 0;
        self.sync();
        if let Some(msix) = &mut self.msix
            && let Err(error) = msix.write_control(0, self.device.as_ref())
        {
            log::warn!("{}: MSI-X can not be switched off: {error}", self.bdf);
        }
        if let Err(error) = self.device.reset() {
            log::warn!("{}: the device can not be reset alone: {error}", self.bdf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{DeviceCall, DeviceLog, FakeDevice, FakePort, PortCall};
    use crate::irq::{Gsi, MsiMessage};
    use crate::pci::BarKind;
    use crate::vfio::{DeviceProfile, RegionProfile};

    const BDF: Bdf = Bdf::new(0, 0, 1, 0).expect("device 1, function 0");
    const CONTROL: u16 = 0x72;
    const MESSAGE: MsiMessage = MsiMessage {
        address: 0xfee0_0000,
        data: 0x31,
    };

    struct Rig {
        function: VfioFunction,
        device: DeviceLog,
        port: Arc<FakePort>,
        routes: Arc<BarRoutes>,
    }

    fn bar(index: u8) -> Bar {
        Bar::new(index).expect("below 6")
    }

    /// Like an 82576: registers in BAR 0, ports in BAR 2, the MSI-X table alone in a page of
    /// BAR 3; power management at 0x40.
    fn rig(msix_grows: bool) -> Rig {
        let mut config = vec![0; 4096];
        config[0x06] = 0x10;
        config[0x34] = 0x40;
        config[0x40..0x42].copy_from_slice(&[0x01, 0x70]);
        config[0x70..0x7c].copy_from_slice(&[0x11, 0, 2, 0, 3, 0, 0, 0, 3, 0x20, 0, 0]);
        let mut profile = DeviceProfile {
            config,
            msix_vectors: 3,
            msix_grows,
            ..Default::default()
        };
        for (index, size) in [(0, 0x2_0000u64), (2, 0x20), (3, 0x4000)] {
            let mappable = if index == 2 {
                vec![]
            } else {
                std::iter::once(0..size).collect()
            };
            profile.bars[index] = RegionProfile { size, mappable };
        }
        let memory = BarKind::Memory32 {
            prefetchable: false,
        };
        let bars = vec![
            BarSpec {
                bar: bar(0),
                kind: memory,
                size: 0x2_0000,
                address: 0xc000_0000,
            },
            BarSpec {
                bar: bar(2),
                kind: BarKind::Io,
                size: 0x20,
                address: 0x1000,
            },
            BarSpec {
                bar: bar(3),
                kind: memory,
                size: 0x4000,
                address: 0xc002_0000,
            },
        ];
        let windows = vec![
            (Space::Memory, 0xc000_0000..0xe000_0000),
            (Space::Io, 0x1000..0x1_0000),
        ];
        let (port, routes) = (
            Arc::new(FakePort::default()),
            Arc::new(BarRoutes::new(windows)),
        );
        let wiring = Wiring {
            port: port.clone(),
            router: MsiRouter::new(port.clone()),
            routes: routes.clone(),
        };
        let (device, log) = FakeDevice::new(profile);
        let place = Place {
            bdf: BDF,
            bars,
            multi_function: false,
        };
        let function = VfioFunction::new(Box::new(device), &place, &mut (8..), wiring)
            .expect("a sound device");
        Rig {
            function,
            device: log,
            port,
            routes,
        }
    }

    fn write(function: &mut VfioFunction, offset: u16, value: u32) {
        function.config_write(offset, &value.to_le_bytes());
    }

    fn unmask(function: &mut VfioFunction, vector: u64) {
        function.bar_write(bar(3), vector * 16, &MESSAGE.address.to_le_bytes());
        function.bar_write(bar(3), vector * 16 + 8, &MESSAGE.data.to_le_bytes());
        function.bar_write(bar(3), vector * 16 + 12, &[0; 4]);
    }

    #[test]
    fn bars_answer_after_the_device_was_told_and_go_before_it_is() {
        let mut rig = rig(true);
        assert_eq!(rig.device.take(), [DeviceCall::Reset]);
        assert!(rig.port.mapped().is_empty());
        rig.function
            .config_write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
        // All of BAR 0, and BAR 3 without the table's page.
        assert_eq!(
            rig.port.mapped(),
            [0xc000_0000..0xc002_0000, 0xc002_1000..0xc002_4000]
        );
        let hit = rig
            .routes
            .find(Space::Memory, 0xc002_0010)
            .expect("the table's page exits");
        assert_eq!((hit.function, hit.bar, hit.offset), (BDF, bar(3), 0x10));
        assert!(
            rig.routes.find(Space::Io, 0x1000).is_none(),
            "I/O is not enabled"
        );
        rig.function.config_write(COMMAND, &[0, 0]);
        assert!(rig.port.mapped().is_empty());
    }

    #[test]
    fn leaving_d0_takes_the_bars_away() {
        let mut rig = rig(true);
        rig.function
            .config_write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
        rig.function.config_write(0x44, &[3, 0]);
        assert!(rig.port.mapped().is_empty());
        rig.function.config_write(0x44, &[0, 0]);
        assert_eq!(rig.port.mapped().len(), 2);
    }

    #[test]
    fn a_bar_follows_its_register() {
        let mut rig = rig(true);
        rig.function
            .config_write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
        rig.port.take_calls();
        write(&mut rig.function, 0x10, 0xd000_0000);
        let moved = PortCall::Map {
            slot: 8,
            guest: 0xd000_0000,
            length: 0x2_0000,
        };
        assert_eq!(rig.port.take_calls(), [PortCall::Unmap(8), moved]);
        // Sizing with decoding on, as some guests do: the BAR is nowhere for a moment.
        write(&mut rig.function, 0x10, !0);
        assert!(rig.routes.find(Space::Memory, 0xd000_0000).is_none());
        write(&mut rig.function, 0x10, 0xd000_0000);
        assert!(rig.routes.find(Space::Memory, 0xd000_0000).is_some());
    }

    #[test]
    fn a_bar_on_top_of_another_waits_until_it_is_free() {
        let mut rig = rig(true);
        rig.function
            .config_write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
        write(&mut rig.function, 0x10, 0xc002_0000);
        assert_eq!(rig.port.mapped(), [0xc002_1000..0xc002_4000]);
        write(&mut rig.function, 0x1c, 0xc100_0000);
        assert_eq!(
            rig.port.mapped(),
            [0xc002_0000..0xc004_0000, 0xc100_1000..0xc100_4000]
        );
    }

    #[test]
    fn a_bar_over_ram_or_ecam_does_not_answer() {
        let mut rig = rig(true);
        rig.function
            .config_write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
        for address in [
            0,
            0x10_0000,
            0xbfff_0000,
            0xe000_0000,
            0xfee0_0000,
            0xfffe_0000,
        ] {
            write(&mut rig.function, 0x10, address);
            assert_eq!(rig.port.mapped().len(), 1, "{address:#x}");
        }
    }

    #[test]
    fn a_mapping_that_fails_is_undone() {
        let mut rig = rig(true);
        rig.port.fail_next();
        rig.function
            .config_write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
        assert!(rig.routes.find(Space::Memory, 0xc000_0000).is_none());
        assert!(rig.routes.find(Space::Memory, 0xc002_0000).is_some());
        rig.function.sync();
        assert!(rig.routes.find(Space::Memory, 0xc000_0000).is_some());
    }

    #[test]
    fn vectors_are_bound_one_by_one_as_the_guest_unmasks_them() {
        let mut rig = rig(true);
        rig.device.take();
        rig.function.config_write(CONTROL, &0x8002u16.to_le_bytes());
        assert_eq!(
            rig.device.take(),
            [DeviceCall::SetIrqs(IrqKind::Msix, 0, vec![false])]
        );
        unmask(&mut rig.function, 1);
        assert_eq!(
            rig.device.take(),
            [DeviceCall::SetIrqs(IrqKind::Msix, 1, vec![true])]
        );
        let gsi = Gsi(25);
        assert_eq!(
            rig.port.take_calls(),
            [
                PortCall::Routes(vec![(gsi, MESSAGE)]),
                PortCall::Attach(gsi)
            ]
        );
        rig.function.bar_write(bar(3), 28, &[1, 0, 0, 0]);
        assert_eq!(rig.port.take_calls(), [PortCall::Detach(gsi)]);
        rig.function.bar_write(bar(3), 28, &[0, 0, 0, 0]);
        assert_eq!(rig.port.take_calls(), [PortCall::Attach(gsi)]);
        assert!(
            rig.device.take().is_empty(),
            "masking does not reach the device"
        );
    }

    #[test]
    fn all_vectors_are_bound_at_once_where_none_can_be_added() {
        let mut rig = rig(false);
        rig.device.take();
        unmask(&mut rig.function, 2);
        rig.function.config_write(CONTROL, &0x8000u16.to_le_bytes());
        assert_eq!(
            rig.device.take(),
            [DeviceCall::SetIrqs(IrqKind::Msix, 0, vec![true; 3])]
        );
        assert_eq!(
            rig.port.take_calls().last(),
            Some(&PortCall::Attach(Gsi(26)))
        );
        rig.function.config_write(CONTROL, &[0, 0]);
        assert_eq!(rig.device.take(), [DeviceCall::DisableIrqs(IrqKind::Msix)]);
        let silent = [PortCall::Detach(Gsi(26)), PortCall::Routes(vec![])];
        assert_eq!(rig.port.take_calls(), silent);
    }

    #[test]
    fn the_function_mask_holds_every_vector() {
        let mut rig = rig(true);
        unmask(&mut rig.function, 0);
        rig.function.config_write(CONTROL, &0xc000u16.to_le_bytes());
        assert!(rig.port.take_calls().is_empty());
        rig.function.config_write(CONTROL, &0x8000u16.to_le_bytes());
        assert_eq!(
            rig.port.take_calls().last(),
            Some(&PortCall::Attach(Gsi(24)))
        );
    }

    #[test]
    fn the_device_is_given_back_reset() {
        let mut rig = rig(true);
        rig.function
            .config_write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
        unmask(&mut rig.function, 0);
        rig.function.config_write(CONTROL, &0x8000u16.to_le_bytes());
        rig.device.take();
        let Rig {
            function,
            device,
            port,
            ..
        } = rig;
        drop(function);
        assert_eq!(
            device.take(),
            [DeviceCall::DisableIrqs(IrqKind::Msix), DeviceCall::Reset]
        );
        assert!(port.mapped().is_empty());
    }

    #[test]
    fn the_plan_and_the_host_must_agree_on_sizes() {
        let profile = DeviceProfile {
            config: vec![0; 256],
            ..Default::default()
        };
        let port = Arc::new(FakePort::default());
        let routes = Arc::new(BarRoutes::new(vec![]));
        let wiring = Wiring {
            port: port.clone(),
            router: MsiRouter::new(port),
            routes,
        };
        let kind = BarKind::Memory32 {
            prefetchable: false,
        };
        let spec = BarSpec {
            bar: bar(0),
            kind,
            size: 4096,
            address: 0xc000_0000,
        };
        let place = Place {
            bdf: BDF,
            bars: vec![spec],
            multi_function: false,
        };
        let device = Box::new(FakeDevice::new(profile).0);
        let refused = VfioFunction::new(device, &place, &mut (0..), wiring);
        assert!(matches!(
            refused,
            Err(FunctionError::BarSize {
                bar: 0,
                found: 0,
                planned: 4096
            })
        ));
    }
}
