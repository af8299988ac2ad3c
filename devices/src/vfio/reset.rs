//! Resets of assigned functions: which way is the best, and what came of it.
//!
//! A function's own reset touches nothing else, so it is the best there is. Without one, a hot
//! reset of the bus resets all that is on it, which may be done only when all of that is the
//! guest's. What power management resets differs from device to device, and so comes last. QEMU
//! ranks them alike (`vfio_pci_reset` and `vfio_pci_pre_reset` in hw/vfio/pci.c).
//!
//! What the kernel knows of a device may be out of date, so that its word is asked for once more
//! when the device is open: [`FunctionReset::confirmed`].
//!
//! The kernel resets a function that it can reset alone by itself when it is opened and when it is
//! closed (`vfio_pci_core_enable` and `vfio_pci_core_disable` in drivers/vfio/pci/vfio_pci_core.c).
//! An FLR takes 100 ms, so that what the kernel is about to do is not done here before.

mod method;

use std::io;

use super::backend::{Region, VfioPort};
use crate::pci::capability::{capabilities, read_u16, read_u32};
use crate::pci::regs::{
    ADVANCED_CAPABLE, ADVANCED_CONTROL, ADVANCED_FLR, ADVANCED_FLR_CAPABLE, CAP_ADVANCED_FEATURES,
    CAP_EXPRESS, COMMAND, EXPRESS_CONTROL, EXPRESS_DEVICE, EXPRESS_FLR, EXPRESS_FLR_CAPABLE,
};
use crate::pci::{HostBdf, ResetBuses, ResetCause};
use crate::warnings::Warnings;
pub use method::ResetMethod;

/// Where a function is told to reset itself: a byte of its configuration space, and the bit in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlrBit {
    offset: u16,
    bit: u8,
}

impl FlrBit {
    /// All of a function.
    pub fn of(config: &[u8]) -> Vec<Self> {
        capabilities(config).iter().filter_map(|c| flr_bit(config, c.id, c.offset)).collect()
    }

    /// Whether a write sets it.
    pub fn is_set_by(self, offset: u16, data: &[u8]) -> bool {
        let byte = self.offset.checked_sub(offset).and_then(|at| data.get(usize::from(at)));
        byte.is_some_and(|byte| byte & self.bit != 0)
    }
}

fn flr_bit(config: &[u8], id: u8, capability: u16) -> Option<FlrBit> {
    let advanced = || read_u16(config, capability + ADVANCED_CAPABLE).to_le_bytes()[0];
    match id {
        CAP_EXPRESS if read_u32(config, capability + EXPRESS_DEVICE) & EXPRESS_FLR_CAPABLE != 0 => {
            Some(FlrBit {
                offset: capability + EXPRESS_CONTROL + 1,
                bit: EXPRESS_FLR.to_le_bytes()[1],
            })
        }
        CAP_ADVANCED_FEATURES if advanced() & ADVANCED_FLR_CAPABLE == ADVANCED_FLR_CAPABLE => {
            Some(FlrBit { offset: capability + ADVANCED_CONTROL, bit: ADVANCED_FLR })
        }
        _ => None,
    }
}

/// A function's ways to be reset, and the name that the operator knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionReset {
    /// Address on the host.
    pub host: HostBdf,
    /// The best way.
    pub method: ResetMethod,
    /// The kernel's way to reset the function alone, for when a hot reset is refused or fails.
    pub alone: ResetMethod,
    /// A hot reset hits nothing that the guest has elsewhere than behind the same port, so that the
    /// guest may cause it through that port.
    pub hot_at_port: bool,
    /// Where there is no way: the kernel resets the bus once nobody has a function of it open
    /// (`vfio_pci_dev_set_try_reset` in drivers/vfio/pci/vfio_pci_core.c).
    pub on_close: bool,
}

impl FunctionReset {
    /// What is left of the plan when the host's kernel has been asked: whether it can reset the
    /// function alone, and whom a hot reset hits. The kernel has tried the former when it opened
    /// the device.
    #[must_use]
    pub fn confirmed(self, device: &dyn VfioPort) -> Self {
        let host = self.host;
        let alone = if device.profile().can_be_reset { self.alone } else { ResetMethod::None };
        let affected = device.hot_reset_affects();
        let others = match &affected {
            Ok(affected) => {
                let others = affected.iter().filter(|a| !a.held).map(|a| a.bdf.to_string());
                others.collect::<Vec<_>>().join(", ")
            }
            Err(error) => format!("no bus that can be reset ({error})"),
        };
        let on_close = affected.is_ok_and(|all| all.iter().all(|a| a.is_bound));
        let hot = others.is_empty();
        let method = match self.method {
            ResetMethod::Hot if hot => ResetMethod::Hot,
            ResetMethod::Hot => {
                log::warn!("{host}: no hot reset: it would hit {others}; instead: {alone}");
                alone
            }
            ResetMethod::None => ResetMethod::None,
            method if device.profile().can_be_reset => method,
            method => {
                let instead = if hot { ResetMethod::Hot } else { ResetMethod::None };
                log::warn!("{host}: the kernel has no {method} for it; instead: {instead}");
                instead
            }
        };
        Self { method, alone, on_close, ..self }
    }

    /// Resets `device`, or with it all of its bus, unless `done` has its bus, and says what came of
    /// it. Returns what is known of its state then. `warnings` are about the device, and limited
    /// where the guest is the cause.
    pub(super) fn run(
        self,
        device: &dyn VfioPort,
        cause: ResetCause,
        warnings: &mut Warnings,
        done: &mut ResetBuses,
    ) -> DeviceState {
        let Self { host, mut method, alone, .. } = self;
        if done.contains(host) {
            return DeviceState::Reset;
        }
        if method == ResetMethod::Hot {
            let why = if cause == ResetCause::Port && !self.hot_at_port {
                "would hit other devices of the guest".to_owned()
            } else {
                match device.hot_reset() {
                    Ok(()) => {
                        log::info!("{host}: reset {cause}: {method}");
                        done.insert(host);
                        return DeviceState::Reset;
                    }
                    Err(error) => format!("fails: {error}"),
                }
            };
            if alone == ResetMethod::None {
                warnings.say(format_args!("not reset {cause}: a {method} {why}"));
                return DeviceState::Unknown;
            }
            warnings.say(format_args!("a {method} {cause} {why}; instead: {alone}"));
            method = alone;
        }
        if method == ResetMethod::None {
            match (self.on_close, cause) {
                (true, ResetCause::End) => log::info!(
                    "{host}: left to the kernel, which resets its bus when nobody has a function \
                     of it open"
                ),
                _ => warnings.say(format_args!("not reset {cause}: there is no way to")),
            }
            return DeviceState::Kept;
        }
        let error = match device.reset() {
            Ok(()) => {
                log::info!("{host}: reset {cause}: {method}");
                return DeviceState::Reset;
            }
            Err(error) => error,
        };
        // The kernel does not wait for whoever has the device locked.
        if error.kind() == io::ErrorKind::WouldBlock {
            warnings.say(format_args!("not reset {cause}: the host is busy with it"));
        } else {
            warnings.say(format_args!("not reset {cause}: {method} fails: {error}"));
        }
        DeviceState::Unknown
    }

    /// Whether the kernel resets the function by itself, when it is opened and when it is closed, as
    /// it is to be reset.
    fn is_the_kernels(self, device: &dyn VfioPort) -> bool {
        let alone = !matches!(self.method, ResetMethod::Hot | ResetMethod::None);
        device.profile().can_be_reset && alone
    }

    /// The same for a device that is closed next. Unless a reset of it has failed before, the kernel's
    /// own is enough.
    pub(super) fn run_at_end(
        self,
        device: &dyn VfioPort,
        has_failed: bool,
        warnings: &mut Warnings,
        done: &mut ResetBuses,
    ) -> DeviceState {
        if has_failed || !self.is_the_kernels(device) {
            return self.run(device, ResetCause::End, warnings, done);
        }
        log::info!("{}: reset {}: {}, when it is closed", self.host, ResetCause::End, self.method);
        DeviceState::Reset
    }

    /// The same for a device that no guest has yet. It is no bus master afterwards, whatever came
    /// of the reset: the kernel opens it as none.
    ///
    /// The kernel has tried to reset the function alone when it opened it, and says that it can
    /// where that went well (`vfio_pci_core_enable` in drivers/vfio/pci/vfio_pci_core.c). Nobody
    /// has used it since, so that once more would only cost the time of an FLR: 100 ms.
    pub fn run_at_start(self, device: &dyn VfioPort, done: &mut ResetBuses) -> DeviceState {
        let Self { host, method, .. } = self;
        if self.is_the_kernels(device) {
            log::info!("{host}: reset {}: {method}, when it was opened", ResetCause::Start);
            return DeviceState::Reset;
        }
        let warnings = &mut Warnings::about(self.host);
        let state = self.run(device, ResetCause::Start, warnings, done);
        if state == DeviceState::Unknown
            && let Err(error) = device.write(Region::Config, COMMAND.into(), &[0, 0])
        {
            warnings.say(format_args!("its command register cannot be cleared: {error}"));
        }
        state
    }
}

/// What is known of a device after the attempt to reset it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It is as after power-on.
    Reset,
    /// It is as its last user left it, and another attempt changes nothing.
    Kept,
    /// Every way failed, which another attempt may mend.
    Unknown,
}

#[cfg(test)]
mod tests;
