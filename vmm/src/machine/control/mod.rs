//! The control thread: signals, console, devices, and the end of the machine.
//!
//! Each source of events is a subscriber of the [`EventLoop`] and says what it asks for as a
//! [`shutdown::Request`]; [`Shutdown`] decides what follows. The thread takes no lock that is held while
//! something waits for the console's reader, so that it serves a signal whatever the guest does.

mod console;
mod devices;
mod event_loop;
mod requests;
mod shutdown;
mod vcpus;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Machine, RunError};
use crate::exit::Exit;
use crate::footprint;
use crate::machine::vcpu::{Shared, VcpuThread};
use crate::sandbox::Role;
use console::ConsoleInput;
use devices::Devices;
use event_loop::EventLoop;
pub use requests::Requests;
use shutdown::{Action, Shutdown};
use vcpus::Vcpus;

/// How long a kicked vCPU gets before it is kicked again.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

/// Takes every vCPU out of the guest for good.
///
/// One kick is enough for a vCPU in the guest. One that is about to write to a console that nobody
/// reads would miss it, so kicks are repeated.
pub fn stop(shared: &Shared, threads: &[VcpuThread]) {
    shared.stop.store(true, Ordering::Release);
    while threads.iter().filter(|thread| thread.kick()).count() > 0 {
        std::thread::sleep(KICK_INTERVAL);
    }
}

/// Waits for the machine's end, and brings it about when asked to.
///
/// # Errors
/// A vCPU cannot go on, or the host refuses what berth waits with.
pub fn supervise(machine: &mut Machine) -> Result<Exit, RunError> {
    let chipset = &machine.shared.chipset;
    let mut events = EventLoop::new()?;
    events.add(Vcpus::new(&machine.shared.ended, &machine.ended.1))?;
    events.add(&mut machine.requests)?;
    events.add(ConsoleInput::new(machine.input.as_mut(), &chipset.console))?;
    events.add(Devices::new(&mut machine.watch, &chipset.segment))?;
    machine.restrictions.of(Role::Control).apply()?;
    if let Some(reporter) = machine.reporter.take() {
        reporter.report();
    }
    footprint::shrink();
    let mut shutdown = Shutdown::new(machine.plan.shutdown_timeout);
    loop {
        let requests = events.wait(shutdown.deadline())?;
        let now = Instant::now();
        for request in requests {
            match shutdown.follow(request, now) {
                Action::End(exit) => return Ok(exit),
                Action::PressButton => {
                    if let Err(error) = chipset.power().press_button() {
                        log::warn!("the guest's power button cannot be pressed: {error}");
                    }
                }
            }
        }
        // A guest that has ended in its last moment has ended in time.
        if let Some(exit) = shutdown.expire(now) {
            return Ok(exit);
        }
    }
}
