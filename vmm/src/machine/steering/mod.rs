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
use crate::sandbox::Restriction;

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
        restriction: &Restriction,
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
            serve(reader, functions, restriction);
        })?;
        Ok(Some(Self(Arc::new(writer))))
    }

    /// Tells it that interrupts have changed. Never waits.
    pub fn changed(&self) {
        // A child that is gone has said why.
        let _ = (&*self.0).write(&[1]);
    }
}

fn serve(mut reader: PipeReader, functions: &[FunctionPlan], restriction: &Restriction) {
    let result = restriction.apply().map_err(io::Error::other);
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::plan::SandboxPlan;
    use crate::sandbox::{Mode, Restrictions, Role};

    /// The filter lists what reading folders and files takes, and no more: with this C library.
    #[test]
    fn interrupts_are_steered_under_the_filter() {
        const LIST: &str = "proc/irq/41/smp_affinity_list";
        let root = tempfile::tempdir().expect("a folder");
        let device: berth_devices::pci::HostBdf = "0000:41:00.0".parse().expect("an address");
        let vector = format!("sys/bus/pci/devices/{device}/msi_irqs/41");
        for (path, text) in [(vector.as_str(), "msix\n"), (LIST, "0-15\n")] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        // SAFETY: the C library keeps the heap usable in a child, which ends without unwinding.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let applied = Restrictions::new(Mode::Kill, &SandboxPlan::default())
                .of(Role::Interrupts)
                .apply()
                .is_ok();
            let steered = irq_affinity::steer(root.path(), device, &[3]).is_ok();
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!(applied && steered))) }
        }
        let mut status = 0;
        // SAFETY: `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(fs::read_to_string(root.path().join(LIST)).expect("a file"), "3");
    }
}
