//! The MSI capability that the guest sees (PCI Local Bus 3.0, section 6.8.1).
//!
//! ```text
//!       32-bit address            64-bit address
//! +0    ID, next, control         ID, next, control
//! +4    address                   address
//! +8    data                      upper address
//! +12   mask, if there            data
//! +16   pending, if there         mask, if there
//! +20                             pending, if there
//! ```

use super::ConfigSpace;
use super::capability::read_u16;
use super::regs::{
    CAP_MSI, CONFIG_SIZE, MSI_64_BIT, MSI_ADDRESS, MSI_CAPABLE, MSI_CONTROL, MSI_ENABLE,
    MSI_ENABLED, MSI_MASKABLE,
};
use crate::irq::MsiMessage;

/// What the capability says: how many vectors, and which registers it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiCapability {
    /// Offset of the capability in configuration space.
    pub offset: u16,
    /// Vectors that the device is capable of: 1, 2, 4, 8, 16 or 32.
    pub vectors: u8,
    /// The message address has 64 bits.
    pub is_64_bit: bool,
    /// Each vector can be masked, and shows whether it is pending.
    pub maskable: bool,
}

/// What the guest has programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiState {
    /// MSI is enabled.
    pub enabled: bool,
    /// Vectors that the device may use: a power of two, no more than it is capable of.
    pub vectors: u8,
    /// Message of vector 0.
    message: MsiMessage,
    /// One bit per vector.
    mask: u32,
}

impl MsiState {
    /// The message of a vector: the device puts its number into the lowest bits of data, as many
    /// as it was given.
    #[must_use]
    pub fn message(&self, vector: u8) -> MsiMessage {
        let low = u32::from(self.vectors) - 1;
        let MsiMessage { address, data } = self.message;
        MsiMessage { address, data: data & !low | u32::from(vector) & low }
    }

    /// Whether the device must keep a vector's message back.
    #[must_use]
    pub fn is_masked(&self, vector: u8) -> bool {
        self.mask >> vector & 1 != 0
    }
}

impl MsiCapability {
    /// Reads the capability at `offset`; `None` when it would not fit into configuration space or
    /// has a count that is reserved.
    #[must_use]
    pub fn parse(config: &[u8], offset: u16) -> Option<Self> {
        let control = read_u16(config, offset + MSI_CONTROL);
        let exponent = (control & MSI_CAPABLE) >> 1;
        let msi = Self {
            offset,
            vectors: 1u8.checked_shl(exponent.into()).filter(|_| exponent <= 5)?,
            is_64_bit: control & MSI_64_BIT != 0,
            maskable: control & MSI_MASKABLE != 0,
        };
        (usize::from(offset + msi.length()) <= CONFIG_SIZE.min(config.len())).then_some(msi)
    }

    /// Bytes, in whole words.
    #[must_use]
    pub fn length(&self) -> u16 {
        let masks = if self.maskable { 8 } else { 0 };
        self.data() + 4 + masks - self.offset
    }

    fn data(&self) -> u16 {
        self.offset + if self.is_64_bit { 12 } else { 8 }
    }

    fn mask(&self) -> u16 {
        self.data() + 4
    }

    /// Offset of the pending bits, where they are.
    #[must_use]
    pub fn pending(&self) -> Option<u16> {
        self.maskable.then(|| self.data() + 8)
    }

    /// Emulates every register but the link. The device's own are VFIO's, which programs
    /// them with the host's address and data.
    pub fn emulate(&self, space: &mut ConfigSpace) {
        let length = usize::from(self.length()) - usize::from(MSI_CONTROL);
        // The ID too: an access to all of the first word then is ours alone.
        space.fix(self.offset, &[CAP_MSI]);
        space.fix(self.offset + MSI_CONTROL, &vec![0; length]);
        let capable = u16::try_from(self.vectors.trailing_zeros() << 1).expect("at most 16");
        let mut control = capable;
        let ones = [0xff; 4];
        let mut registers = vec![(self.offset + MSI_ADDRESS, [0xfc, 0xff, 0xff, 0xff])];
        // The upper two bytes belong to extended message data, which is not offered.
        registers.push((self.data(), [0xff, 0xff, 0, 0]));
        if self.is_64_bit {
            control |= MSI_64_BIT;
            registers.push((self.offset + MSI_ADDRESS + 4, ones));
        }
        if self.maskable {
            control |= MSI_MASKABLE;
            let bits = (u32::MAX >> (32 - self.vectors)).to_le_bytes();
            registers.push((self.mask(), bits));
        }
        for (register, writable) in registers {
            space.emulate(register, &[0; 4], &writable);
        }
        let writable = (MSI_ENABLE | MSI_ENABLED).to_le_bytes();
        space.emulate(self.offset + MSI_CONTROL, &control.to_le_bytes(), &writable);
    }

    /// What the guest has programmed into the emulated registers.
    #[must_use]
    pub fn state(&self, space: &ConfigSpace) -> MsiState {
        let control = space.half(self.offset + MSI_CONTROL);
        let wanted = 1u8 << ((control & MSI_ENABLED) >> 4).min(5);
        let mut address = u64::from(space.word(self.offset + MSI_ADDRESS));
        if self.is_64_bit {
            address |= u64::from(space.word(self.offset + MSI_ADDRESS + 4)) << 32;
        }
        let message = MsiMessage { address, data: space.half(self.data()).into() };
        MsiState {
            enabled: control & MSI_ENABLE != 0,
            vectors: wanted.min(self.vectors),
            message,
            mask: if self.maskable { space.word(self.mask()) } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability(control: u16) -> MsiCapability {
        let mut config = vec![0; CONFIG_SIZE];
        config[0x50] = CAP_MSI;
        config[0x52..0x54].copy_from_slice(&control.to_le_bytes());
        MsiCapability::parse(&config, 0x50).expect("a sound capability")
    }

    #[test]
    fn has_the_registers_that_control_says() {
        let lengths = [0, MSI_64_BIT, MSI_MASKABLE, MSI_64_BIT | MSI_MASKABLE].map(|control| {
            let msi = capability(control);
            (msi.length(), msi.pending())
        });
        assert_eq!(lengths, [(12, None), (16, None), (20, Some(0x60)), (24, Some(0x64))]);
        let config = vec![0xff; CONFIG_SIZE];
        assert_eq!(MsiCapability::parse(&config, 0x50), None, "a reserved count");
        let config = vec![0; CONFIG_SIZE];
        assert_eq!(MsiCapability::parse(&config, 0xf8), None, "past the end");
        assert!(MsiCapability::parse(&config, 0xf4).is_some());
    }

    #[test]
    fn the_vector_is_in_the_low_bits_of_data() {
        let msi = capability(3 << 1 | MSI_64_BIT);
        let mut space = ConfigSpace::default();
        msi.emulate(&mut space);
        space.write(0x54, &0xfee0_1007_u32.to_le_bytes());
        space.write(0x58, &1u32.to_le_bytes());
        space.write(0x5c, &0xffff_4047_u32.to_le_bytes());
        // Eight vectors of eight.
        space.write(0x52, &(MSI_ENABLE | 3 << 4).to_le_bytes());
        let state = msi.state(&space);
        assert!(state.enabled && state.vectors == 8);
        let message = |data| MsiMessage { address: 0x1_fee0_1004, data };
        assert_eq!((state.message(0), state.message(5)), (message(0x4040), message(0x4045)));
        // One vector: data is as written. More than there are: all.
        space.write(0x52, &MSI_ENABLE.to_le_bytes());
        assert_eq!(msi.state(&space).message(0), message(0x4047));
        space.write(0x52, &(MSI_ENABLE | 7 << 4).to_le_bytes());
        assert_eq!(msi.state(&space).vectors, 8);
    }

    #[test]
    fn only_what_may_be_written_is() {
        let msi = capability(2 << 1 | MSI_MASKABLE);
        let mut space = ConfigSpace::default();
        msi.emulate(&mut space);
        for register in (0x50..0x64).step_by(2) {
            space.write(register, &[0xff; 2]);
        }
        let words: Vec<u32> =
            (0x54..0x64).step_by(4).map(|register| space.word(register)).collect();
        assert_eq!(words, [0xffff_fffc, 0xffff, 0xf, 0]);
        assert_eq!(space.half(0x52), MSI_MASKABLE | MSI_ENABLED | 2 << 1 | MSI_ENABLE);
        assert!(space.is_emulated(0x52, 2) && space.is_emulated(0x60, 4));
        assert!(msi.state(&space).is_masked(3) && !msi.state(&space).is_masked(4));
    }
}
