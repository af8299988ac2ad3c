//! ACPI fixed power registers: power button and soft off (ACPI 6.5, section 4.8.3).

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// PM1 status and enable: the power button.
const POWER_BUTTON: u16 = 1 << 8;
/// PM1 control: the machine is in ACPI mode.
const SCI_ENABLE: u16 = 1 << 0;
/// PM1 control: go to the sleep state of bits 10 to 12.
const SLEEP_ENABLE: u16 = 1 << 13;

/// What a guest's write to these registers asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Soft off, S5.
    Off,
}

/// PM1 event and control blocks. Only S5 is described to the guest, so that any sleep means off.
#[derive(Debug)]
pub struct PowerRegisters {
    status: u16,
    enable: u16,
    sci: EventFd,
}

impl PowerRegisters {
    /// Bytes of the event block: status, enable.
    pub const EVENT_LENGTH: u16 = 4;
    /// Bytes of the control block.
    pub const CONTROL_LENGTH: u16 = 2;

    /// `sci` raises the system control interrupt.
    #[must_use]
    pub fn new(sci: EventFd) -> Self {
        Self { status: 0, enable: 0, sci }
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// The interrupt cannot be raised.
    pub fn press_button(&mut self) -> io::Result<()> {
        self.status |= POWER_BUTTON;
        self.raise()
    }

    /// Reads the event block.
    pub fn read_event(&self, offset: u16, data: &mut [u8]) {
        let [s0, s1] = self.status.to_le_bytes();
        let [e0, e1] = self.enable.to_le_bytes();
        copy(&[s0, s1, e0, e1], offset, data);
    }

    /// Writes the event block: ones clear status bits, enable bits are kept.
    ///
    /// # Errors
    /// The interrupt cannot be raised; the registers are written.
    pub fn write_event(&mut self, offset: u16, data: &[u8]) -> io::Result<()> {
        for (at, byte) in (offset..).zip(data) {
            let shifted = u16::from(*byte) << (8 * (at % 2));
            match at {
                0 | 1 => self.status &= !shifted,
                2 | 3 => self.enable = self.enable & !(0xff << (8 * (at % 2))) | shifted,
                _ => {}
            }
        }
        self.raise()
    }

    /// Reads the control block.
    pub fn read_control(&self, offset: u16, data: &mut [u8]) {
        copy(&SCI_ENABLE.to_le_bytes(), offset, data);
    }

    /// Writes the control block.
    pub fn write_control(&mut self, offset: u16, data: &[u8]) -> Option<PowerRequest> {
        let high = match (offset, data) {
            (0, [_, high, ..]) | (1, [high, ..]) => *high,
            _ => return None,
        };
        (u16::from(high) << 8 & SLEEP_ENABLE != 0).then_some(PowerRequest::Off)
    }

    fn raise(&self) -> io::Result<()> {
        if self.status & self.enable != 0 { self.sci.write(1) } else { Ok(()) }
    }
}

fn copy(register: &[u8], offset: u16, data: &mut [u8]) {
    for (at, byte) in (usize::from(offset)..).zip(data) {
        *byte = register.get(at).copied().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn registers() -> (PowerRegisters, EventFd) {
        let sci = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        (PowerRegisters::new(sci.try_clone().expect("a second handle")), sci)
    }

    #[test]
    fn a_button_press_interrupts_once_it_is_enabled() {
        let (mut power, sci) = registers();
        assert!(power.press_button().is_ok());
        assert!(sci.read().is_err(), "not enabled yet");
        assert!(power.write_event(2, &POWER_BUTTON.to_le_bytes()).is_ok());
        assert!(sci.read().is_ok());
        let mut status = [0; 2];
        power.read_event(0, &mut status);
        assert_eq!(u16::from_le_bytes(status), POWER_BUTTON);
        assert!(power.write_event(0, &POWER_BUTTON.to_le_bytes()).is_ok());
        assert!(sci.read().is_err(), "acknowledged");
    }

    #[test]
    fn a_status_bit_is_cleared_by_a_one_at_its_place_only() {
        let (mut power, _sci) = registers();
        assert!(power.press_button().is_ok());
        let status = |power: &PowerRegisters| {
            let mut data = [0; 2];
            power.read_event(0, &mut data);
            u16::from_le_bytes(data)
        };
        for (offset, data) in [(0, &[0xff, 0xfe][..]), (0, &[0, 0]), (0, &[0xff]), (2, &[0, 1])] {
            assert!(power.write_event(offset, data).is_ok());
            assert_eq!(status(&power), POWER_BUTTON, "{offset} {data:x?}");
        }
        assert!(power.write_event(1, &[1]).is_ok());
        assert_eq!(status(&power), 0);
    }

    #[test]
    fn enable_bits_are_kept_byte_by_byte() {
        let (mut power, _sci) = registers();
        assert!(power.write_event(2, &[0x21, 0x43]).is_ok());
        assert!(power.write_event(3, &[0x65]).is_ok());
        let mut data = [0xff; 6];
        power.read_event(0, &mut data);
        assert_eq!(data, [0, 0, 0x21, 0x65, 0, 0], "and zeros behind the block");
    }

    #[test]
    fn sleep_enable_means_off() {
        let (mut power, _sci) = registers();
        let mut control = [0; 2];
        power.read_control(0, &mut control);
        assert_eq!(control, [1, 0]);
        assert_eq!(power.write_control(0, &[0x01, 0x14]), None);
        assert_eq!(power.write_control(0, &[0x01, 0x34]), Some(PowerRequest::Off));
        assert_eq!(power.write_control(1, &[0x20]), Some(PowerRequest::Off));
        assert_eq!(power.write_control(7, &[0xff; 4]), None);
    }
}
