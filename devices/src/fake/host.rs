//! A host's kernel, as far as the doors lead to it, and the calls that come through them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::RawFd;

use vmm_sys_util::eventfd::EventFd;

use crate::irq::{Gsi, MsiMessage};
use crate::pci::Bar;
use crate::pci::capability::capabilities;
use crate::pci::regs::{CAP_POWER, COMMAND, COMMAND_MEMORY, POWER_CONTROL, POWER_STATE};
use crate::vfio::{Affected, IrqKind, Region};

/// A call through one of the doors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Vfio(VfioCall),
    Kvm(KvmCall),
    Dma(DmaCall),
}

/// A call through the door to VFIO; of reads, only those of the expansion ROM are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VfioCall {
    ReadRom(Range<u64>),
    Write(Region, u64, Vec<u8>),
    /// For a reason that a healthy host can have.
    Refused(IrqKind),
    SetIrqs(IrqKind, u32, Vec<bool>),
    UnmaskIntx,
    DisableIrqs(IrqKind),
    Reset,
    HotReset,
}

/// A call through the door to KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmCall {
    Routes(Vec<(Gsi, MsiMessage)>),
    Attach(Gsi),
    AttachLevel(Gsi),
    Detach(Gsi),
    Map { slot: u32, guest: u64, length: u64 },
    Unmap(u32),
}

/// A call through the door to the IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DmaCall {
    Map(Range<u64>),
    Unmap(Range<u64>),
}

/// What a device is like now.
#[derive(Default)]
pub(super) struct Device {
    pub(super) config: Vec<u8>,
    /// The one type of interrupt that is enabled, and how many vectors it has.
    pub(super) enabled: Option<(IrqKind, u32)>,
    pub(super) unmask_bound: bool,
    /// What the device signals now, by vector of the enabled type, and which eventfd it is.
    pub(super) bound: BTreeMap<u32, (EventFd, u64)>,
    /// Vectors of MSI that the host has; 0 for as many as the device.
    pub(super) host_msi_vectors: u32,
    /// Why the host enables no interrupt of a kind.
    pub(super) refused: Option<(IrqKind, i32)>,
    /// What a hot reset of this device resets.
    pub(super) affected: Vec<Affected>,
    pub(super) refuse_reset: Option<i32>,
    pub(super) mappings: Vec<(Bar, Range<u64>, u64)>,
}

impl Device {
    pub(super) fn command(&self) -> u16 {
        let at = usize::from(COMMAND);
        u16::from_le_bytes([self.config[at], self.config[at + 1]])
    }

    /// Memory BARs answer: they are enabled, and the device is awake.
    pub(super) fn answers(&self) -> bool {
        self.command() & COMMAND_MEMORY != 0 && !self.sleeps()
    }

    /// In another power state than D0, in which Linux enables no MSI.
    pub(super) fn sleeps(&self) -> bool {
        let power = capabilities(&self.config).into_iter().find(|found| found.id == CAP_POWER);
        let state = power.map(|power| usize::from(power.offset + POWER_CONTROL));
        state.is_some_and(|state| u16::from(self.config[state]) & POWER_STATE != 0)
    }
}

/// What a machine has of KVM.
#[derive(Default)]
pub(super) struct Kvm {
    /// Guest addresses, and where the memory is.
    pub(super) slots: BTreeMap<u32, (Range<u64>, u64)>,
    /// By descriptor, as KVM knows them: where each leads, and which eventfd it is.
    pub(super) irqfds: BTreeMap<RawFd, (Gsi, u64)>,
    pub(super) routes: BTreeMap<Gsi, MsiMessage>,
    /// The eventfd that led to a GSI last, which a detached vector still has.
    pub(super) last: BTreeMap<Gsi, u64>,
}

/// What is mapped.
#[derive(Default)]
pub(super) struct Dma {
    /// Length and memory, by address.
    pub(super) ranges: BTreeMap<u64, (u64, u64)>,
}
