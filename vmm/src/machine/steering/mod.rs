//! The process that keeps the interrupts of a machine's devices off its vCPUs' CPUs.
//!
//! An interrupt of the host exists once the guest's driver has enabled it, and by then berth opens
//! nothing any more. So a child that was forked before does it: it has none of berth's files,
//! hears through a pipe that a device's interrupts have changed, and looks by itself which there
//! are. All that a guest can tell it is that it should look. It ends with berth.

mod irq_affinity;

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use crate::child;
use crate::machine::pin::pin_this_thread;
use crate::plan::FunctionPlan;
use crate::sandbox::Filter;

/// How often interrupts are put back that something on the host moves. irqbalance looks at them
/// every ten seconds.
const AGAIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The process, from berth's side. It ends with the last of these.
#[derive(Clone)]
pub struct Steering(Arc<PipeWriter>);

impl Steering {
    /// Starts it on the CPUs of berth's own threads, while the process has one thread; `None` when
    /// nothing is to be steered.
    ///
    /// # Errors
    /// No pipe, or no child ([`child::start`]).
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
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK)?;
        let kept = [libc::STDERR_FILENO, reader.as_raw_fd()];
        child::start(c"berth-irq", &kept, || {
            // Not to be pinned is no reason not to steer.
            let _ = pin_this_thread(cpus);
            serve(reader, functions, filter);
        })?;
        Ok(Some(Self(Arc::new(writer))))
    }

    /// Tells it that interrupts have changed. Never waits.
    pub fn changed(&self) {
        // A child that is gone has said why.
        let _ = (&*self.0).write(&[1]);
    }
}

fn serve(mut reader: PipeReader, functions: &[FunctionPlan], filter: &Filter) {
    let result = filter.apply().map_err(io::Error::other);
    if let Err(error) = result.and_then(|()| steer_until_end(&mut reader, functions)) {
        log::warn!("the devices' interrupts stay where they are: {error}");
        // The warning is said once. berth goes on telling, so the other end stays open.
        while matches!(reader.read(&mut [0; 4096]), Ok(1..)) {}
    }
}

fn steer_until_end(reader: &mut PipeReader, functions: &[FunctionPlan]) -> io::Result<()> {
    let again = functions.iter().any(|plan| plan.resteer).then_some(&AGAIN);
    loop {
        let ready = poll(&mut [PollFd::new(&*reader, PollFlags::IN)], again);
        // An interrupted wait is as good as one that is over.
        if ready.is_ok_and(|ready| ready > 0) && reader.read(&mut [0; 4096])? == 0 {
            return Ok(());
        }
        for plan in functions.iter().filter(|plan| !plan.interrupt_cpus.is_empty()) {
            irq_affinity::steer(Path::new("/"), plan.host, &plan.interrupt_cpus)?;
        }
    }
}
