//! The process that keeps the interrupts of a machine's devices off its vCPUs' CPUs.
//!
//! An interrupt of the host exists once the guest's driver has enabled it, and by then berth opens
//! nothing any more. So a child that was forked before does it: it has none of berth's files,
//! hears through a pipe that a device's interrupts have changed, and looks by itself which there
//! are. All that a guest can tell it is that it should look. It ends with berth.

mod affinity;
mod steered;

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

pub use steered::Steered;

use crate::affinity::pin_this_thread;
use crate::plan::FunctionPlan;
use crate::sandbox::Filter;

/// How often interrupts are put back that something on the host moves, in milliseconds.
/// irqbalance looks at them every ten seconds.
const AGAIN_MS: libc::c_int = 10_000;

/// The process, from berth's side. It ends with the last of these.
#[derive(Clone)]
pub struct Steering(Arc<PipeWriter>);

impl Steering {
    /// Starts it on the CPUs of berth's own threads; `None` when nothing is to be steered.
    ///
    /// To be called while the process has one thread, because only that one is in the child.
    pub fn start(
        functions: &[FunctionPlan],
        cpus: &[u32],
        filter: &Filter,
    ) -> io::Result<Option<Self>> {
        if functions.iter().all(|plan| plan.interrupt_cpus.is_empty()) {
            return Ok(None);
        }
        let (reader, writer) = io::pipe()?;
        // A vCPU must not wait: with a full pipe the child is about to look anyway.
        // SAFETY: sets a flag of a descriptor of ours.
        if unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the process has one thread, so the child may do all that it could.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(writer);
                // Not to be pinned is no reason not to steer.
                let _ = pin_this_thread(cpus);
                serve(reader, functions, filter)
            }
            _ => Ok(Some(Self(Arc::new(writer)))),
        }
    }

    /// Tells it that interrupts have changed.
    fn changed(&self) {
        // Without it interrupts stay where they are, which it has said.
        let _ = (&*self.0).write(&[1]);
    }
}

fn serve(mut reader: PipeReader, functions: &[FunctionPlan], filter: &Filter) -> ! {
    let kept = reader.as_raw_fd();
    // SAFETY: system calls on values of our own; descriptors that are closed here belong to
    // values of the parent's that this process never touches again.
    unsafe {
        // What ends a job is berth's to follow, and this ends with berth.
        libc::setpgid(0, 0);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, c"berth-irq".as_ptr());
        libc::chdir(c"/".as_ptr());
        libc::close(libc::STDIN_FILENO);
        libc::close(libc::STDOUT_FILENO);
        libc::syscall(libc::SYS_close_range, libc::STDERR_FILENO + 1, kept - 1, 0);
        libc::syscall(libc::SYS_close_range, kept + 1, libc::c_uint::MAX, 0);
    }
    let result = filter.apply().map_err(io::Error::other);
    if let Err(error) = result.and_then(|()| steer_until_end(&mut reader, functions)) {
        log::warn!("the devices' interrupts stay where they are: {error}");
        // Said once, and berth shall not find itself without the other end.
        while matches!(reader.read(&mut [0; 4096]), Ok(1..)) {}
    }
    // SAFETY: ends this process, without running what berth has registered for its own end.
    unsafe { libc::_exit(0) }
}

fn steer_until_end(reader: &mut PipeReader, functions: &[FunctionPlan]) -> io::Result<()> {
    let wait = if functions.iter().any(|plan| plan.resteer) { AGAIN_MS } else { -1 };
    loop {
        let mut poll = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, wait) };
        // An interrupted wait is as good as one that is over.
        if ready > 0 && reader.read(&mut [0; 4096])? == 0 {
            return Ok(());
        }
        for plan in functions.iter().filter(|plan| !plan.interrupt_cpus.is_empty()) {
            affinity::steer(Path::new("/"), plan.host, &plan.interrupt_cpus)?;
        }
    }
}
