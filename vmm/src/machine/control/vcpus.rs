//! What the vCPUs' threads say when they end.

use std::os::fd::RawFd;
use std::sync::mpsc::Receiver;

use event_manager::EventOps;
use vmm_sys_util::eventfd::EventFd;

use super::RunError;
use super::event_loop::{Subscriber, watch};
use super::shutdown::Request;
use crate::machine::vcpu::Ended;

/// The last words of the vCPUs, of which the first ends the machine.
pub struct Vcpus<'a> {
    rung: &'a EventFd,
    words: &'a Receiver<Ended>,
}

impl<'a> Vcpus<'a> {
    /// `rung` is rung after each message in `words`.
    pub fn new(rung: &'a EventFd, words: &'a Receiver<Ended>) -> Self {
        Self { rung, words }
    }
}

impl Subscriber for Vcpus<'_> {
    fn start(&mut self, ops: &mut EventOps<'_>) -> Result<(), RunError> {
        watch(ops, self.rung).map(drop)
    }

    fn serve(&mut self, _: RawFd, _: &mut EventOps<'_>) -> Result<Option<Request>, RunError> {
        // A ring without a word belongs to a word that was taken before.
        let _ = self.rung.read();
        match self.words.try_recv() {
            Ok(ended) => Ok(Some(Request::End(ended?))),
            Err(_) => Ok(None),
        }
    }
}
