//! The configuration space of an assigned function: what the guest sees of the device's own.
//!
//! The host's vfio-pci already virtualises what could hurt the host. On top of that berth answers
//! for what it owns: BARs and the expansion ROM's, MSI and the control word of MSI-X (VFIO programs
//! the real ones), the interrupt pin, and the list of capabilities, from which those go that a
//! guest cannot use.

use super::backend::DeviceProfile;
use super::reset::FlrBit;
use super::wiring::FunctionSite;
use crate::pci::capability::{Capability, ExtendedCapability, capabilities, extended_capabilities};
use crate::pci::msi::MsiCapability;
use crate::pci::msix::MsixCapability;
use crate::pci::regs::{
    CAP_MSI, CAP_MSIX, CAP_POWER, CAPABILITY_POINTER, CONFIG_SIZE, EXT_ARI, EXT_ATS, EXT_PASID,
    EXT_PRI, EXT_RESIZABLE_BAR, EXT_SRIOV, EXT_VF_RESIZABLE_BAR, EXTENDED, EXTENDED_CONFIG_SIZE,
    HEADER_END, HEADER_MULTI_FUNCTION, HEADER_TYPE, INTERRUPT_LINE, INTERRUPT_PIN, MSIX_CONTROL,
    MSIX_ENABLE, MSIX_FUNCTION_MASK, STATUS, STATUS_CAPABILITY_LIST,
};
use crate::pci::{Bar, BarKind, BarSpec, ConfigSpace};

/// Extended capabilities that a guest cannot use: those of a physical function's virtual
/// functions and of their routing, translation services that need a guest IOMMU, and BAR sizes
/// that the host has already chosen.
const HIDDEN_EXTENDED: [u16; 7] =
    [EXT_ARI, EXT_ATS, EXT_SRIOV, EXT_PRI, EXT_RESIZABLE_BAR, EXT_PASID, EXT_VF_RESIZABLE_BAR];

/// Where configuration space ends.
const EXTENDED_END: u16 = 0x1000;

/// Bytes that an expansion ROM's register can at least say, and an expansion ROM has at most
/// (PCI Local Bus 3.0, section 6.2.5.2).
const ROM_MINIMUM: u64 = 2 << 10;
const ROM_LIMIT: u64 = 16 << 20;

/// A function's configuration space and what berth looks up in it.
#[derive(Clone, Debug)]
pub struct FunctionConfig {
    /// Emulated bits over the device's.
    pub space: ConfigSpace,
    /// The interrupt pin is shown.
    pub has_intx: bool,
    /// The MSI capability, when there is a usable one.
    pub msi: Option<MsiCapability>,
    /// The MSI-X capability, when there is a usable one.
    pub msix: Option<MsixCapability>,
    /// The expansion ROM, when there is one and the place keeps an address for it.
    pub rom: Option<BarSpec>,
    /// Offset of the power management capability.
    pub power: Option<u16>,
    /// Where the guest tells the function to reset itself.
    pub flr: Vec<FlrBit>,
}

impl FunctionConfig {
    /// From what the device has and where it goes.
    pub fn new(profile: &DeviceProfile, place: &FunctionSite) -> Self {
        let raw = profile.config.as_slice();
        let mut space = ConfigSpace::default();
        if raw.len() < EXTENDED_CONFIG_SIZE {
            // Nothing behind a conventional function's 256 bytes; asking the device would fail.
            space.fix(EXTENDED, &[0; EXTENDED_CONFIG_SIZE - CONFIG_SIZE]);
        }
        let rom = place.rom.and_then(|address| rom(profile, address));
        let bars: Vec<BarSpec> = place.bars.iter().copied().chain(rom).collect();
        space.emulate_bars(&bars);
        let header = raw.get(usize::from(HEADER_TYPE)).copied().unwrap_or(0);
        let several = if place.multi_function { HEADER_MULTI_FUNCTION } else { 0 };
        space.fix(HEADER_TYPE, &[header & !HEADER_MULTI_FUNCTION | several]);
        space.emulate(INTERRUPT_LINE, &[0xff], &[0xff]);
        let pin = profile.interrupt_pin().filter(|_| place.intx_gsi.is_some());
        space.fix(INTERRUPT_PIN, &[pin.unwrap_or(0)]);

        let found = capabilities(raw);
        let power = found.iter().find(|c| c.id == CAP_POWER).map(|c| c.offset);
        let msi = found.iter().find(|c| c.id == CAP_MSI);
        let msi = msi.and_then(|c| MsiCapability::parse(raw, c.offset));
        let msi = msi.filter(|msi| u32::from(msi.vectors) <= profile.msi_vectors);
        if let Some(msi) = &msi {
            msi.emulate(&mut space);
        }
        let msix = found.iter().find(|c| c.id == CAP_MSIX);
        let msix = msix.and_then(|c| MsixCapability::parse(raw, c.offset));
        let msix = msix.filter(|msix| u32::from(msix.vectors) <= profile.msix_vectors);
        if let Some(msix) = &msix {
            let writable = (MSIX_ENABLE | MSIX_FUNCTION_MASK).to_le_bytes();
            space.fix(msix.offset, &[CAP_MSIX]);
            space.emulate(msix.offset + MSIX_CONTROL, &(msix.vectors - 1).to_le_bytes(), &writable);
        }
        let hidden = |c: &Capability| match c.id {
            // A second one would be shown, and not work.
            CAP_MSI => msi.is_none_or(|msi| msi.offset != c.offset),
            CAP_MSIX => msix.is_none_or(|msix| msix.offset != c.offset),
            _ => false,
        };
        relink(&mut space, raw, &found, hidden);
        relink_extended(&mut space, &extended_capabilities(raw));
        let (has_intx, flr) = (pin.is_some(), FlrBit::of(raw));
        Self { space, power, has_intx, msi, msix, rom, flr }
    }
}

/// The expansion ROM as a BAR. Its region is as large as what the host's kernel found, which can
/// be less than a register can say.
fn rom(profile: &DeviceProfile, address: u64) -> Option<BarSpec> {
    let size = profile.bars[Bar::ROM.index()].size;
    let kind = BarKind::Memory32 { prefetchable: false };
    (1..=ROM_LIMIT).contains(&size).then(|| {
        let size = size.next_power_of_two().max(ROM_MINIMUM);
        BarSpec { bar: Bar::ROM, kind, size, address }
    })
}

/// Links the capabilities that stay, and clears the others: what is left of a hidden capability
/// would be found by a driver that knows its offset.
fn relink(
    space: &mut ConfigSpace,
    raw: &[u8],
    found: &[Capability],
    hidden: impl Fn(&Capability) -> bool,
) {
    for capability in found.iter().filter(|c| hidden(c)) {
        let behind = found.iter().map(|c| c.offset).filter(|o| *o > capability.offset).min();
        // MSI with 64-bit address and per-vector masking, the longest of those hidden, has 24 bytes.
        let end = behind.unwrap_or(EXTENDED).min(capability.offset + 24);
        space.fix(capability.offset, &vec![0; usize::from(end - capability.offset)]);
    }
    let visible: Vec<u16> = found.iter().filter(|c| !hidden(c)).map(|c| c.offset).collect();
    let mut pointer = CAPABILITY_POINTER;
    for next in visible.iter().chain([&0]) {
        space.fix(pointer, &next.to_le_bytes()[..1]);
        pointer = next + 1;
    }
    if visible.is_empty() {
        let status = raw.get(usize::from(STATUS)).copied().unwrap_or(0);
        let list = STATUS_CAPABILITY_LIST.to_le_bytes()[0];
        // Only the list's bit matters in this byte; the others in it are read-only.
        space.fix(STATUS, &[status & !list]);
    }
    debug_assert!(visible.iter().all(|offset| *offset >= HEADER_END));
}

/// The same for extended capabilities. Their list starts at a fixed offset: when that one is
/// hidden, a null capability (ID 0) stays in its place and carries the link.
fn relink_extended(space: &mut ConfigSpace, found: &[ExtendedCapability]) {
    let hidden = |c: &ExtendedCapability| HIDDEN_EXTENDED.contains(&c.id);
    for capability in found.iter().filter(|c| hidden(c)) {
        let behind = found.iter().map(|c| c.offset).filter(|o| *o > capability.offset).min();
        // SR-IOV, the longest of those hidden, has 64 bytes.
        let end = behind.unwrap_or(EXTENDED_END).min(capability.offset + 64);
        space.fix(capability.offset, &vec![0; usize::from(end - capability.offset)]);
    }
    let visible: Vec<&ExtendedCapability> = found.iter().filter(|c| !hidden(c)).collect();
    let header = |id: u16, version: u8, next: u16| {
        (u32::from(id) | u32::from(version) << 16 | u32::from(next) << 20).to_le_bytes()
    };
    if found.first().is_some_and(hidden)
        && let Some(first) = visible.first()
    {
        space.fix(EXTENDED, &header(0, 1, first.offset));
    }
    for (index, capability) in visible.iter().enumerate() {
        let next = visible.get(index + 1).map_or(0, |c| c.offset);
        space.fix(capability.offset, &header(capability.id, capability.version, next));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pci::regs::CAP_EXPRESS;

    /// Like an 82576: power management, MSI, MSI-X, PCI Express; AER, ARI, SR-IOV.
    fn raw() -> Vec<u8> {
        let mut raw = vec![0; EXTENDED_CONFIG_SIZE];
        raw[0x06] = 0x10;
        raw[0x0e] = 0x80;
        raw[0x34] = 0x40;
        raw[0x3d] = 1;
        for (offset, id, next) in [
            (0x40, CAP_POWER, 0x50),
            (0x50, CAP_MSI, 0x70),
            (0x70, CAP_MSIX, 0xa0),
            (0xa0, CAP_EXPRESS, 0),
        ] {
            raw[offset..offset + 2].copy_from_slice(&[id, next]);
        }
        raw[0x52..0x54].copy_from_slice(&[0x80, 0x01]);
        raw[0x72..0x7c].copy_from_slice(&[9, 0, 3, 0, 0, 0, 3, 0x20, 0, 0]);
        for (offset, id, next) in [(0x100, 1u32, 0x150), (0x150, 0x0e, 0x160), (0x160, 0x10, 0)] {
            raw[offset..offset + 4].copy_from_slice(&(id | 1 << 16 | next << 20).to_le_bytes());
        }
        raw[0x164] = 0xff;
        raw
    }

    fn config(raw: &[u8], multi_function: bool) -> FunctionConfig {
        let mut profile =
            DeviceProfile { config: raw.to_vec(), msix_vectors: 10, ..Default::default() };
        profile.bars[Bar::ROM.index()].size = 0x1_8000;
        let bdf = crate::pci::GuestBdf::new(0, 1, 0).expect("device 1, function 0");
        let reset = crate::vfio::rig::RESET;
        let place = FunctionSite {
            bdf,
            bars: Vec::new(),
            multi_function,
            intx_gsi: None,
            rom: Some(0),
            reset,
        };
        FunctionConfig::new(&profile, &place)
    }

    fn seen(raw: &[u8]) -> Vec<u8> {
        let config = config(raw, false);
        let mut data = raw.to_vec();
        config.space.read(0, &mut data);
        data
    }

    #[test]
    fn hidden_capabilities_leave_neither_link_nor_residue() {
        let seen = seen(&raw());
        let ids = |list: Vec<Capability>| list.iter().map(|c| c.id).collect::<Vec<_>>();
        assert_eq!(ids(capabilities(&seen)), [CAP_POWER, CAP_MSIX, CAP_EXPRESS]);
        assert_eq!(seen[0x50..0x68], [0; 24]);
        let extended = extended_capabilities(&seen);
        assert_eq!(extended.iter().map(|c| c.id).collect::<Vec<_>>(), [1]);
        assert_eq!(seen[0x150..0x1a0], [0; 0x50]);
    }

    #[test]
    fn what_the_host_has_no_vectors_for_is_hidden() {
        let mut raw = raw();
        raw[0x72] = 10;
        let ids: Vec<u8> = capabilities(&seen(&raw)).iter().map(|c| c.id).collect();
        assert_eq!(ids, [CAP_POWER, CAP_EXPRESS]);
    }

    #[test]
    fn a_rom_is_rounded_up_to_what_a_register_can_say() {
        assert_eq!(config(&raw(), false).rom.map(|rom| rom.size), Some(0x2_0000));
    }

    #[test]
    fn a_hidden_first_extended_capability_becomes_a_null_one() {
        let mut raw = raw();
        raw[0x100..0x104].copy_from_slice(&(0x0010u32 | 1 << 16 | 0x150 << 20).to_le_bytes());
        raw[0x150..0x154].copy_from_slice(&(0x0003u32 | 1 << 16).to_le_bytes());
        let found = extended_capabilities(&seen(&raw));
        assert_eq!(
            found.iter().map(|c| (c.id, c.offset)).collect::<Vec<_>>(),
            [(0, 0x100), (3, 0x150)]
        );
        raw[0x150..0x154].copy_from_slice(&(0x000eu32 | 1 << 16).to_le_bytes());
        assert!(extended_capabilities(&seen(&raw)).is_empty());
    }

    #[test]
    fn the_enable_bit_is_the_guests_own() {
        let mut config = config(&raw(), false);
        assert_eq!(config.msix.map(|m| m.vectors), Some(10));
        config.space.write(0x72, &[0xff, 0xff]);
        assert_eq!(config.space.half(0x72), MSIX_ENABLE | MSIX_FUNCTION_MASK | 9);
        assert!(config.space.is_emulated(0x72, 2));
    }

    #[test]
    fn header_bits_are_berths() {
        let seen = seen(&raw());
        assert_eq!((seen[0x0e], seen[0x3c], seen[0x3d]), (0, 0xff, 0));
        let several = config(&raw(), true);
        let mut data = [0];
        several.space.read(HEADER_TYPE, &mut data);
        assert_eq!(data, [HEADER_MULTI_FUNCTION]);
    }

    proptest! {
        #[test]
        fn no_device_shows_what_is_hidden(seed in prop::collection::vec(any::<u8>(), 512), long in any::<bool>()) {
            let length = if long { EXTENDED_CONFIG_SIZE } else { CONFIG_SIZE };
            let raw: Vec<u8> = seed.iter().cycle().take(length).copied().collect();
            let had: Vec<_> = extended_capabilities(&raw).iter().map(|c| (c.offset, c.id)).collect();
            let mut seen = vec![0xa5; EXTENDED_CONFIG_SIZE];
            seen[..length].copy_from_slice(&raw);
            config(&raw, false).space.read(0, &mut seen);
            let mut visible = had.clone();
            visible.retain(|(_, id)| !HIDDEN_EXTENDED.contains(id));
            for capability in extended_capabilities(&seen) {
                let found = (capability.offset, capability.id);
                prop_assert!(visible.contains(&found) || found == (EXTENDED, 0), "{:x?}", found);
            }
            if !long {
                prop_assert!(seen[CONFIG_SIZE..].iter().all(|byte| *byte == 0));
            }
            let offsets: Vec<_> = capabilities(&raw).iter().map(|c| c.offset).collect();
            for capability in capabilities(&seen) {
                prop_assert!(offsets.contains(&capability.offset), "{:x?}", capability);
            }
        }

        /// Devices as they are sold: capabilities that do not overlap, in any order.
        #[test]
        fn a_list_keeps_all_that_is_not_hidden(
            ids in prop::collection::vec(
                prop_oneof![prop::sample::select(HIDDEN_EXTENDED.to_vec()), 1u16..0x30], 0..40,
            ),
        ) {
            let mut raw = raw();
            raw[EXTENDED.into()..].fill(0);
            let at = |index: usize| EXTENDED + 0x40 * u16::try_from(index).expect("below 60");
            for (index, id) in ids.iter().enumerate() {
                let next = if index + 1 < ids.len() { at(index + 1) } else { 0 };
                let header = u32::from(*id) | 2 << 16 | u32::from(next) << 20;
                let body = [[0xff; 4]; 16].concat();
                raw[at(index).into()..][..64].copy_from_slice(&body);
                raw[at(index).into()..][..4].copy_from_slice(&header.to_le_bytes());
            }
            let seen = seen(&raw);
            let mut found: Vec<_> =
                extended_capabilities(&seen).iter().map(|c| (c.id, c.version, c.offset)).collect();
            found.retain(|(id, _, _)| *id != 0);
            let shown: Vec<_> = ids.iter().enumerate().map(|(index, id)| (*id, 2, at(index)))
                .filter(|(id, _, _)| !HIDDEN_EXTENDED.contains(id)).collect();
            prop_assert_eq!(&found, &shown);
            for (index, id) in ids.iter().enumerate().filter(|(_, id)| HIDDEN_EXTENDED.contains(id)) {
                let link = if index == 0 && !shown.is_empty() { 4 } else { 0 };
                let rest = &seen[usize::from(at(index)) + link..][..64 - link];
                prop_assert!(rest.iter().all(|byte| *byte == 0), "{:#x} leaves something", id);
            }
        }
    }
}
