//! The control thread: signals, console, devices, and the end of the machine.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::watch::DeviceEvent;
use super::{Machine, RunError};
use crate::console::Request;
use crate::exit::Exit;
use crate::vcpu::{ExitCounts, Shared, VcpuThread};

/// How long to wait before looking again whether the guest's serial port has room for input.
const INPUT_RETRY: Duration = Duration::from_millis(20);

/// How long a kicked vCPU gets before it is kicked again.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

/// Signals that ask for an end.
const END_SIGNALS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Blocks the signals that ask for an end, in this thread and all it starts, and returns the
/// descriptor from which they are read.
pub fn take_signals() -> io::Result<File> {
    let set = vmm_sys_util::signal::create_sigset(&END_SIGNALS)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    // SAFETY: `set` is a valid signal set, and no old set is asked for.
    let blocked =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    // SAFETY: as above; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Takes every vCPU out of the guest and waits for its thread.
///
/// One kick is enough for a vCPU in the guest. One that is about to write to a console that nobody
/// reads would miss it, so kicks are repeated.
pub fn stop(shared: &Shared, threads: Vec<VcpuThread>) -> Vec<ExitCounts> {
    shared.stop.store(true, Ordering::Release);
    while threads.iter().filter(|thread| thread.kick()).count() > 0 {
        std::thread::sleep(KICK_INTERVAL);
    }
    threads.into_iter().map(VcpuThread::join).collect()
}

/// What the control thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Ended,
    Signals,
    Input,
    Device(DeviceEvent),
}

/// Waits for the machine's end, and brings it about when asked to.
pub fn supervise(machine: &mut Machine) -> Result<Exit, RunError> {
    machine.filters.control.apply()?;
    let mut deadline: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Ok(Exit::Forced);
        }
        if let Some(exit) = machine.watch.expire(now) {
            return Ok(exit);
        }
        // A vCPU that writes to a console that nobody reads has the serial port; there is no room
        // then, and signals still have to be served.
        let room = machine.shared.chipset.try_serial().map_or(0, |serial| serial.room());
        let next = deadline.into_iter().chain(machine.watch.deadline()).min();
        let mut wait = next.map(|next| next - now);
        if machine.input.is_some() && room == 0 {
            wait = Some(wait.map_or(INPUT_RETRY, |wait| wait.min(INPUT_RETRY)));
        }
        let sources = sources(machine, room);
        for source in poll(&sources, wait)? {
            match source {
                Source::Ended => {
                    let ended = machine.ended.1.try_recv();
                    return Ok(ended.expect("a vCPU sends before it signals")?);
                }
                Source::Signals if read_signals(&mut machine.signals)? => {
                    if deadline.is_some() {
                        return Ok(Exit::Killed);
                    }
                    deadline = Some(press_power_button(machine));
                }
                Source::Signals => {}
                Source::Input => match serve_input(machine, room) {
                    Some(Request::Kill) => return Ok(Exit::Killed),
                    Some(Request::PowerButton) => {
                        deadline = deadline.or(Some(press_power_button(machine)))
                    }
                    None => {}
                },
                Source::Device(event) => {
                    let segment = &machine.shared.chipset.segment;
                    if let Some(exit) = machine.watch.handle(event, segment, now) {
                        return Ok(exit);
                    }
                }
            }
        }
    }
}

fn sources(machine: &Machine, room: usize) -> Vec<(Source, RawFd)> {
    let mut sources = vec![
        (Source::Ended, machine.shared.ended.as_raw_fd()),
        (Source::Signals, machine.signals.as_raw_fd()),
    ];
    if machine.input.is_some() && room > 0 {
        sources.push((Source::Input, libc::STDIN_FILENO));
    }
    sources
        .extend(machine.watch.sources().into_iter().map(|(event, fd)| (Source::Device(event), fd)));
    sources
}

/// `poll`, not `epoll`: standard input may be a file, which epoll refuses.
fn poll(sources: &[(Source, RawFd)], wait: Option<Duration>) -> Result<Vec<Source>, RunError> {
    let mut fds: Vec<libc::pollfd> = sources
        .iter()
        .map(|(_, fd)| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 })
        .collect();
    // Rounded up, so that a deadline has passed when the wait is over.
    let millis = wait.map_or(-1, |wait| i32::try_from(wait.as_millis() + 1).unwrap_or(i32::MAX));
    // SAFETY: `fds` is valid for its length.
    if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) } < 0 {
        let source = io::Error::last_os_error();
        if source.kind() != io::ErrorKind::Interrupted {
            return Err(RunError::System { doing: "wait for events", source });
        }
        return Ok(Vec::new());
    }
    Ok(fds
        .iter()
        .zip(sources)
        .filter(|(fd, _)| fd.revents != 0)
        .map(|(_, source)| source.0)
        .collect())
}

/// Takes the pending signals; returns whether there was one.
fn read_signals(signals: &mut File) -> Result<bool, RunError> {
    let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
    match signals.read(&mut buffer) {
        Ok(length) => Ok(length > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(source) => Err(RunError::System { doing: "read signals", source }),
    }
}

/// Asks the guest to power off; returns when that has taken too long.
fn press_power_button(machine: &Machine) -> Instant {
    if let Err(error) = machine.shared.chipset.power().press_button() {
        log::warn!("the guest's power button cannot be pressed: {error}");
    }
    Instant::now() + machine.plan.shutdown_timeout
}

/// Moves input to the guest; what berth itself is asked for is returned.
fn serve_input(machine: &mut Machine, room: usize) -> Option<Request> {
    let read = machine.input.as_mut().map(|input| input.read(room));
    match read {
        Some(Ok(Some((bytes, request)))) => {
            if !bytes.is_empty() {
                machine.shared.chipset.serial().input(&bytes);
            }
            request
        }
        // No more input; the guest goes on without.
        Some(Ok(None)) => {
            machine.input = None;
            None
        }
        Some(Err(error)) => {
            log::warn!("standard input cannot be read any more: {error}");
            machine.input = None;
            None
        }
        None => None,
    }
}
