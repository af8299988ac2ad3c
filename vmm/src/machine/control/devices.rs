//! What the host's kernel says of the assigned devices, and slots that the guest switches off.

use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use berth_devices::pci::Segment;
use event_manager::EventOps;
use vmm_sys_util::eventfd::EventFd;

use super::RunError;
use super::event_loop::{Subscriber, unwatch, watch};
use super::shutdown::Request;
use crate::machine::watch::Watch;

/// The assigned devices, and where they are in the guest.
pub struct Devices<'a> {
    watch: &'a mut Watch,
    segment: &'a Segment,
}

impl<'a> Devices<'a> {
    /// `watch` decides, `segment` has the slots.
    pub fn new(watch: &'a mut Watch, segment: &'a Segment) -> Self {
        Self { watch, segment }
    }
}

impl Subscriber for Devices<'_> {
    fn start(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError> {
        self.watch.sources().into_iter().try_for_each(|(_, fd)| watch(ops, fd).map(drop))
    }

    fn serve(&mut self, fd: RawFd, ops: &mut EventOps<'_>) -> Result<Option<Request>, RunError> {
        let sources = self.watch.sources();
        let source = sources.into_iter().find(|(_, source)| source.as_raw_fd() == fd);
        let Some(event) = source.map(|(event, _)| event) else { return Ok(None) };
        let mut unwatch = |fd: &EventFd| unwatch(ops, fd);
        let exit = self.watch.handle(event, self.segment, Instant::now(), &mut unwatch);
        Ok(exit.map(Request::End))
    }

    fn deadline(&self) -> Option<Instant> {
        self.watch.deadline()
    }

    fn expire(&mut self, now: Instant) -> Result<Option<Request>, RunError> {
        Ok(self.watch.expire(now).map(Request::End))
    }
}
