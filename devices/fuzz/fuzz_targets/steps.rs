//! Steps from the bytes of the fuzzing engine: any access, and those that mean something.

use arbitrary::Arbitrary;
use berth_devices::pci::Space;
use berth_devices::vfio::hostile::{APART, Step};

/// A step in few bytes, each of which changes what the step does.
#[derive(Arbitrary, Debug)]
pub enum Action {
    /// Anything to configuration space: device, offset, bytes.
    Config(u8, u16, [u8; 4], u8),
    /// A register on which much depends.
    Register(u8, u8, u32),
    /// A BAR's register, with an address.
    MoveBar(u8, u8, Place),
    /// Reads configuration space.
    ReadConfig(u8, u16, u8),
    /// Where BARs can be.
    Write(Place, u8, u64, u8),
    /// The same, reading.
    Read(Place, u8, u8),
    /// I/O ports.
    Ports(u8, u32, u8),
    /// The host fails the next call.
    Fail,
    /// The host wants the function behind the port back.
    Unplug,
}

/// An address.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Place {
    /// Where a function's BAR is in the beginning: of which function, and which BAR.
    First(u8, u8),
    /// A page of the window's start.
    Page(u8),
    /// Anywhere.
    Any(u64),
}

/// Offsets of BARs 0, 3 (the MSI-X table is in its first page, hot registers follow) and 4.
const FIRST: [u64; 5] = [0, 0x2_0000, 0x2_1000, 0x2_2000, 0x4_0000];
/// The command register, power state, control of MSI-X and of MSI, MSI's registers, the expansion
/// ROM's address.
const REGISTERS: [u16; 10] = [0x04, 0x44, 0x72, 0x52, 0x50, 0x54, 0x58, 0x5c, 0x60, 0x30];
const BARS: [u16; 5] = [0x10, 0x18, 0x1c, 0x20, 0x30];

impl Place {
    fn address(self) -> u64 {
        const WINDOW: u64 = 0xc000_0000;
        match self {
            Self::First(function, bar) => {
                WINDOW + FIRST[usize::from(bar) % FIRST.len()] + u64::from(function % 3) * APART
            }
            Self::Page(page) => WINDOW + (u64::from(page) << 12),
            Self::Any(address) => address,
        }
    }
}

/// Two functions, the port, the function behind it, and one that is not there.
fn device(number: u8) -> u8 {
    1 + number % 5
}

impl Action {
    /// The step.
    pub fn step(&self) -> Step {
        match *self {
            Self::Config(number, offset, bytes, length) => {
                let data = bytes[..usize::from(length) % 5].to_vec();
                Step::ConfigWrite(device(number), offset & 0xfff, data)
            }
            Self::Register(number, register, value) => {
                let register = REGISTERS[usize::from(register) % REGISTERS.len()];
                let length = if register == 0x04 || register == 0x44 { 2 } else { 4 };
                Step::ConfigWrite(device(number), register, value.to_le_bytes()[..length].to_vec())
            }
            Self::MoveBar(number, register, place) => {
                let register = BARS[usize::from(register) % BARS.len()];
                let value = place.address() as u32 | u32::from(register == 0x30);
                Step::ConfigWrite(device(number), register, value.to_le_bytes().to_vec())
            }
            Self::ReadConfig(number, offset, length) => {
                Step::ConfigRead(device(number), offset & 0xfff, usize::from(length % 9))
            }
            Self::Write(place, offset, value, length) => {
                let at = place.address().saturating_add(u64::from(offset));
                Step::Write(
                    Space::Memory,
                    at,
                    value.to_le_bytes()[..usize::from(length) % 9].to_vec(),
                )
            }
            Self::Read(place, offset, length) => {
                let at = place.address().saturating_add(u64::from(offset));
                Step::Read(Space::Memory, at, usize::from(length % 9))
            }
            Self::Ports(port, value, length) => {
                let data = value.to_le_bytes()[..usize::from(length) % 5].to_vec();
                Step::Write(Space::Io, 0xff0 + u64::from(port), data)
            }
            Self::Fail => Step::Fail,
            Self::Unplug => Step::Unplug,
        }
    }
}
