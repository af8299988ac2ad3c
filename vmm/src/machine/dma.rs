//! The devices' way to memory: opens them into one I/O address space.

use std::iter;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::thread;

use berth_devices::vfio::{AddressSpace, KernelDevice};
use vfio_ioctls::VfioDeviceFd;

use super::BuildError;
use crate::machine::kvm::Vm;
use crate::plan::{FunctionPlan, IommuPlan, MemoryPlan, Plan};

/// Where the kernel shows PCI functions.
const SYSFS_DEVICES: &str = "/sys/bus/pci/devices";

/// The devices, open, and the address space that they share.
pub struct Opened {
    /// Where guest memory is mapped.
    pub space: AddressSpace,
    /// In the plan's order.
    pub devices: Vec<KernelDevice>,
}

/// Opens all functions before anything is mapped: each may narrow what the others can use, and
/// one that came later could not join where a mapping is in its way. They are opened side by side,
/// as the kernel resets each: an FLR takes 100 ms.
pub fn open(plan: &Plan, iommu: &IommuPlan, vm: &Vm) -> Result<Opened, BuildError> {
    let kvm_vfio = VfioDeviceFd::new_from_kvm(vm.create_vfio_device()?);
    let backend = iommu.backend;
    let failed = |source| BuildError::AddressSpace { backend, source };
    let space = &AddressSpace::open(backend, kvm_vfio).map_err(failed)?;
    let open_one = |planned: &FunctionPlan| {
        let sysfs = Path::new(SYSFS_DEVICES).join(planned.host.to_string());
        let bdf = planned.host;
        let failed = |source| BuildError::Open { bdf, file: planned.vfio_file.clone(), source };
        KernelDevice::open(space, &sysfs).map_err(failed)
    };
    let devices = match plan.pci.functions.as_slice() {
        [] => Ok(Vec::new()),
        [first, others @ ..] => thread::scope(|scope| {
            let start = |planned| {
                let thread = thread::Builder::new().spawn_scoped(scope, move || open_one(planned));
                thread.map_err(BuildError::system("start a thread that opens a device"))
            };
            let opening: Vec<_> = others.iter().map(start).collect();
            let opening = opening.into_iter().map(|thread| {
                thread.and_then(|thread| thread.join().expect("opening a device does not panic"))
            });
            iter::once(open_one(first)).chain(opening).collect::<Result<_, _>>()
        }),
    };
    Ok(Opened { space: space.clone(), devices: devices? })
}

/// Holds the plan's memory map against what the kernel says now that the devices are there.
///
/// # Errors
/// Some of guest memory cannot be mapped.
pub fn check_usable(space: &AddressSpace, plan: &MemoryPlan) -> Result<(), BuildError> {
    let usable = space.usable().map_err(BuildError::system("read what the IOMMU can map"))?;
    let Some(usable) = usable else { return Ok(()) };
    log::debug!("the IOMMU can map {usable:x?}");
    match plan.regions.iter().find(|region| !covers(&usable, &region.guest)) {
        Some(region) => Err(BuildError::Unusable { range: region.guest.clone(), usable }),
        None => Ok(()),
    }
}

/// Whether one of `usable` has all of `range`, which is not empty.
fn covers(usable: &[RangeInclusive<u64>], range: &Range<u64>) -> bool {
    usable.iter().any(|whole| whole.contains(&range.start) && whole.contains(&(range.end - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_held_against_what_the_kernel_says() {
        let vtd = [0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1];
        for (range, fits) in [
            (0..0xc000_0000, true),
            (1 << 32..1 << 39, true),
            (1 << 32..(1 << 39) + 4096, false),
            (0..1 << 32, false),
            (0xfee0_0000..0xfef0_0000, false),
        ] {
            assert_eq!(covers(&vtd, &range), fits, "{range:x?}");
        }
        assert!(!covers(&[], &(0..4096)));
        assert!(covers(&[0..=u64::MAX], &(0..1 << 52)));
    }
    #[test]
    fn a_disagreement_names_what_the_kernel_takes() {
        let usable = vec![0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1];
        let error = BuildError::Unusable { range: 1 << 32..1 << 40, usable };
        assert_eq!(
            error.to_string(),
            "the IOMMU cannot map guest memory at 0x100000000..0x10000000000: it takes \
             0x0-0xfedfffff, 0xfef00000-0x7fffffffff only"
        );
        assert!(error.help().is_some());
    }
}
