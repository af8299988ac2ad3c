//! The gate that holds devices back from memory which is not ready for them.
//!
//! A machine's guest may start before all of its memory is filled and mapped for DMA. No device
//! reaches memory, with data or with an interrupt, until its guest makes it a bus master (PCI Express
//! Base, section 7.5.1.1.3), so it is enough that such a write waits.

use std::sync::{Condvar, Mutex, PoisonError};

use super::regs::{COMMAND, COMMAND_MASTER};

/// What the gate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Memory is ready.
    #[default]
    Open,
    /// Memory will be ready.
    Closed,
    /// The machine ends, and memory will never be.
    Shut,
}

/// Lets devices become bus masters when memory is ready for them. A new one is open.
#[derive(Debug, Default)]
pub struct DmaGate {
    state: Mutex<State>,
    changed: Condvar,
}

impl DmaGate {
    /// A gate that [`open`](Self::open) opens.
    #[must_use]
    pub fn closed() -> Self {
        Self { state: Mutex::new(State::Closed), changed: Condvar::new() }
    }

    /// Memory is ready.
    pub fn open(&self) {
        self.set(State::Open);
    }

    /// The machine ends: who waits is let go, and none of them may go on. An open gate stays open.
    pub fn shut(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Closed {
            *state = State::Shut;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether devices may become bus masters.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) == State::Open
    }

    fn set(&self, new: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.changed.notify_all();
    }

    /// Waits before a write of `data` at `offset` of a function's configuration space that makes it a
    /// bus master. Returns whether it may be made; it may not once the machine ends.
    ///
    /// No lock may be held: the wait lasts until memory is ready.
    pub(super) fn wait_before(&self, offset: u16, data: &[u8]) -> bool {
        if !makes_bus_master(offset, data) {
            return true;
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.changed.wait_while(state, |state| *state == State::Closed);
        *state.unwrap_or_else(PoisonError::into_inner) == State::Open
    }
}

fn makes_bus_master(offset: u16, data: &[u8]) -> bool {
    const BIT: u8 = COMMAND_MASTER.to_le_bytes()[0];
    let byte = COMMAND.checked_sub(offset).and_then(|at| data.get(usize::from(at)));
    byte.is_some_and(|byte| byte & BIT != 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_makes_a_bus_master_waits() {
        let gate = DmaGate::closed();
        for (offset, data) in [
            (COMMAND, &[0x03, 0][..]),
            (COMMAND + 1, &[0x04]),
            (COMMAND + 2, &[0xff, 0xff]),
            (0x3c, &[0xff]),
        ] {
            assert!(gate.wait_before(offset, data), "{offset:#x}");
        }
        assert!(makes_bus_master(COMMAND, &[0x04]));
        assert!(makes_bus_master(COMMAND, &[0x07, 0x04, 0, 0]));
        // A dword that starts before the register.
        assert!(makes_bus_master(COMMAND - 2, &[0, 0, 0x04, 0]));
    }

    /// Whether a write went on, once the gate has changed.
    fn waits_until(change: impl FnOnce(&DmaGate)) -> bool {
        let gate = Arc::new(DmaGate::closed());
        let (went, result) = mpsc::channel();
        let waiting = gate.clone();
        let waiter = thread::spawn(move || went.send(waiting.wait_before(COMMAND, &[0x06, 0])));
        let early = result.recv_timeout(Duration::from_millis(50));
        assert!(early.is_err(), "nothing is ready yet");
        change(&gate);
        let went_on = result.recv().expect("the wait has an end");
        waiter.join().expect("it does not panic").expect("somebody listens");
        went_on
    }

    #[test]
    fn a_bus_master_waits_until_memory_is_ready() {
        assert!(waits_until(DmaGate::open));
        assert!(
            DmaGate::default().wait_before(COMMAND, &[0x06, 0]),
            "there is nothing to wait for"
        );
    }

    #[test]
    fn nothing_becomes_a_bus_master_when_the_machine_ends() {
        assert!(!waits_until(DmaGate::shut));
        let open = DmaGate::default();
        open.shut();
        assert!(open.wait_before(COMMAND, &[0x06, 0]), "memory was ready");
    }
}
