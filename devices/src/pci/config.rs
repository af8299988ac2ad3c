//! Configuration space bit by bit: which bits are ours, and which of those the guest may write.

use super::bars::{Bar, BarKind, BarSpec};
use super::regs::{BAR0, EXTENDED_CONFIG_SIZE, ROM_ADDRESS, ROM_ADDRESS_MASK, ROM_ENABLE};

/// Values, ownership and write permission for each bit of configuration space.
///
/// A bit is *emulated* when it is answered from here and never reaches the device. Of the
/// emulated bits the *writable* ones take what the guest writes; the others stay.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    value: Vec<u8>,
    emulated: Vec<u8>,
    writable: Vec<u8>,
}

impl Default for ConfigSpace {
    fn default() -> Self {
        let zeros = vec![0; EXTENDED_CONFIG_SIZE];
        Self { value: zeros.clone(), emulated: zeros.clone(), writable: zeros }
    }
}

impl ConfigSpace {
    /// Emulates `value.len()` bytes at `offset`, of which the guest may write the bits of
    /// `writable`.
    ///
    /// # Panics
    /// The bytes do not lie in configuration space: our tables are wrong.
    pub fn emulate(&mut self, offset: u16, value: &[u8], writable: &[u8]) {
        let bytes = usize::from(offset)..usize::from(offset) + value.len();
        self.value[bytes.clone()].copy_from_slice(value);
        self.writable[bytes.clone()].copy_from_slice(writable);
        self.emulated[bytes].fill(0xff);
    }

    /// Emulates bytes that the guest may not write.
    pub fn fix(&mut self, offset: u16, value: &[u8]) {
        self.emulate(offset, value, &vec![0; value.len()]);
    }

    /// Changes what emulated bytes read as, whatever the guest may write.
    pub fn set(&mut self, offset: u16, value: &[u8]) {
        let start = usize::from(offset);
        self.value[start..start + value.len()].copy_from_slice(value);
    }

    /// Clears every bit that the guest may write, as a reset does.
    pub fn clear_writable(&mut self) {
        let masks = self.writable.iter().zip(&self.emulated);
        for (value, (writable, emulated)) in self.value.iter_mut().zip(masks) {
            *value &= !(writable & emulated);
        }
    }

    /// Emulates the six BARs and the expansion ROM's: those of `bars` can be sized and moved, the
    /// rest read zero.
    pub fn emulate_bars(&mut self, bars: &[BarSpec]) {
        self.fix(BAR0, &[0; 24]);
        self.fix(ROM_ADDRESS, &[0; 4]);
        for spec in bars {
            let (mask, mask_high) = halves(!(spec.size - 1));
            let (address, address_high) = halves(spec.address);
            if spec.bar == Bar::ROM {
                let address = address & mask & ROM_ADDRESS_MASK;
                let writable = mask & ROM_ADDRESS_MASK | ROM_ENABLE;
                self.emulate(ROM_ADDRESS, &address.to_le_bytes(), &writable.to_le_bytes());
                continue;
            }
            let low = spec.kind.low_bits();
            let value = address & mask | low;
            // Bits of type are read-only even where the size would let them be written.
            let keep = if spec.kind == BarKind::Io { 0b11 } else { 0b1111 };
            let writable = mask & !keep;
            self.emulate(spec.bar.register(), &value.to_le_bytes(), &writable.to_le_bytes());
            if matches!(spec.kind, BarKind::Memory64 { .. }) {
                let register = spec.bar.register() + 4;
                self.emulate(register, &address_high.to_le_bytes(), &mask_high.to_le_bytes());
            }
        }
    }

    /// The address in a BAR's register.
    #[must_use]
    pub fn bar_address(&self, spec: &BarSpec) -> u64 {
        let low = u64::from(self.word(spec.bar.register()));
        match spec.kind {
            _ if spec.bar == Bar::ROM => low & u64::from(ROM_ADDRESS_MASK),
            BarKind::Io => low & 0xffff_fffc,
            BarKind::Memory32 { .. } => low & 0xffff_fff0,
            BarKind::Memory64 { .. } => {
                low & 0xffff_fff0 | u64::from(self.word(spec.bar.register() + 4)) << 32
            }
        }
    }

    /// Whether a BAR is switched on by itself; all but the expansion ROM always are.
    #[must_use]
    pub fn bar_enabled(&self, spec: &BarSpec) -> bool {
        spec.bar != Bar::ROM || self.word(ROM_ADDRESS) & ROM_ENABLE != 0
    }

    /// Whether every bit of the access is emulated, so that the device need not be asked.
    #[must_use]
    pub fn is_emulated(&self, offset: u16, length: usize) -> bool {
        let start = usize::from(offset);
        self.emulated.get(start..start + length).is_some_and(|bits| bits.iter().all(|b| *b == 0xff))
    }

    /// Puts the emulated bits over what the device said.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (index, byte) in (usize::from(offset)..).zip(data) {
            if let (Some(value), Some(emulated)) = (self.value.get(index), self.emulated.get(index))
            {
                *byte = *byte & !emulated | value & emulated;
            }
        }
    }

    /// Takes the writable emulated bits of what the guest writes.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (index, byte) in (usize::from(offset)..).zip(data) {
            if let Some(value) = self.value.get_mut(index) {
                let mask = self.writable[index] & self.emulated[index];
                *value = *value & !mask | byte & mask;
            }
        }
    }

    /// Two emulated bytes.
    #[must_use]
    pub fn half(&self, offset: u16) -> u16 {
        super::capability::read_u16(&self.value, offset)
    }

    /// Four emulated bytes.
    #[must_use]
    pub fn word(&self, offset: u16) -> u32 {
        super::capability::read_u32(&self.value, offset)
    }
}

/// The lower and the upper half of what two registers hold.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(bar: u8, kind: BarKind, size: u64, address: u64) -> BarSpec {
        BarSpec { bar: Bar::new(bar).expect("below 6"), kind, size, address }
    }

    fn read(config: &ConfigSpace, offset: u16) -> u32 {
        let mut data = [0; 4];
        config.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_bar_is_sized_by_writing_ones() {
        let mut config = ConfigSpace::default();
        let bars = [
            spec(0, BarKind::Memory32 { prefetchable: false }, 0x2_0000, 0xc000_0000),
            spec(2, BarKind::Io, 0x20, 0x1000),
            spec(3, BarKind::Memory64 { prefetchable: true }, 1 << 36, 1 << 40),
        ];
        config.emulate_bars(&bars);
        assert_eq!(bars.map(|b| config.bar_address(&b)), [0xc000_0000, 0x1000, 1 << 40]);
        for register in (0x10..0x28).step_by(4) {
            config.write(register, &[0xff; 4]);
        }
        let sizes = [0xfffe_0000, 0, 0xffff_ffe1, 0x0000_000c, 0xffff_fff0, 0];
        let found: Vec<u32> = (0x10..0x28).step_by(4).map(|r| read(&config, r)).collect();
        assert_eq!(found, sizes);
    }

    #[test]
    fn ports_have_two_bits_of_type_and_memory_four() {
        for (size, sized) in [(4, 0xffff_fffd_u32), (8, 0xffff_fff9), (16, 0xffff_fff1)] {
            let mut config = ConfigSpace::default();
            let ports = spec(1, BarKind::Io, size, 0x1000 + 3 * size);
            config.emulate_bars(&[ports]);
            assert_eq!(config.bar_address(&ports), 0x1000 + 3 * size);
            config.write(0x14, &[0xff; 4]);
            assert_eq!(read(&config, 0x14), sized);
            config.write(0x14, &[0; 4]);
            assert_eq!(read(&config, 0x14), 1);
        }
        let mut config = ConfigSpace::default();
        config.emulate_bars(&[spec(1, BarKind::Memory32 { prefetchable: true }, 16, 0)]);
        config.write(0x14, &[0xff; 4]);
        assert_eq!(read(&config, 0x14), 0xffff_fff8);
    }

    #[test]
    fn the_rom_has_an_enable_bit_where_bars_have_their_type() {
        let mut config = ConfigSpace::default();
        let kind = BarKind::Memory32 { prefetchable: false };
        let rom = BarSpec { bar: Bar::ROM, kind, size: 0x1_0000, address: 0 };
        config.emulate_bars(&[rom]);
        assert!(!config.bar_enabled(&rom));
        config.write(ROM_ADDRESS, &0xffff_f800_u32.to_le_bytes());
        assert_eq!(read(&config, ROM_ADDRESS), 0xffff_0000);
        config.write(ROM_ADDRESS, &0xc012_ffff_u32.to_le_bytes());
        assert_eq!(read(&config, ROM_ADDRESS), 0xc012_0001);
        assert!(config.bar_enabled(&rom));
        assert_eq!(config.bar_address(&rom), 0xc012_0000);
    }

    #[test]
    fn the_device_answers_for_bits_that_are_not_emulated() {
        let mut config = ConfigSpace::default();
        config.emulate(0x3c, &[0x0b], &[0xff]);
        let mut data = [1, 2, 3, 4];
        config.read(0x3c, &mut data);
        assert_eq!(data, [0x0b, 2, 3, 4]);
        assert!(config.is_emulated(0x3c, 1) && !config.is_emulated(0x3c, 2));
    }

    #[test]
    fn accesses_at_the_end_do_not_run_over() {
        let mut config = ConfigSpace::default();
        config.write(0xfff, &[1, 2, 3, 4]);
        let mut data = [7; 4];
        config.read(0xffe, &mut data);
        assert_eq!(data, [7; 4]);
        assert!(!config.is_emulated(0xffe, 4));
    }
}
