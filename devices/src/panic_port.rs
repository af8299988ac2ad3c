//! pvpanic: one port through which a guest's kernel reports its panic.
//!
//! QEMU's `docs/specs/pvpanic.rst` describes it; Linux drives it with `pvpanic-mmio`, which
//! finds it as the ACPI device QEMU0001.

/// The guest has panicked and goes no further.
const PANICKED: u8 = 1 << 0;
/// The guest has panicked and boots its crash kernel: it goes on, and ends by itself.
const CRASH_LOADED: u8 = 1 << 1;

/// The port; it has no state.
#[derive(Clone, Copy, Debug)]
pub struct PanicPort;

impl PanicPort {
    /// Reads which events are understood.
    pub fn read(self, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PANICKED | CRASH_LOADED;
        }
    }

    /// Returns whether the guest has ended in a panic.
    #[must_use]
    pub fn write(self, data: &[u8]) -> bool {
        data.first().is_some_and(|events| events & PANICKED != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_says_which_events_it_takes() {
        let mut data = [0xff; 2];
        PanicPort.read(&mut data);
        assert_eq!(data, [0b11, 0]);
        PanicPort.read(&mut []);
    }

    #[test]
    fn a_guest_with_a_crash_kernel_goes_on() {
        assert!(PanicPort.write(&[0b01]) && PanicPort.write(&[0b11, 0]));
        assert!(!PanicPort.write(&[0b10]) && !PanicPort.write(&[0]) && !PanicPort.write(&[]));
    }
}
