//! Which I/O virtual addresses the kernel says may be mapped.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;

use iommufd_bindings::iommufd::{
    IOMMUFD_CMD_IOAS_IOVA_RANGES, IOMMUFD_TYPE, iommu_ioas_iova_ranges, iommu_iova_range,
};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_TYPE,
};
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_mut_ref};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_IOMMU_GET_INFO, VFIO_TYPE.into(), VFIO_BASE + 12);
ioctl_io_nr!(IOMMU_IOAS_IOVA_RANGES, IOMMUFD_TYPE.into(), IOMMUFD_CMD_IOAS_IOVA_RANGES);

/// First and last address of each range.
type Ranges = Vec<RangeInclusive<u64>>;

/// Bytes of `struct vfio_iommu_type1_info`: argsz, flags, page sizes, offset of the first
/// capability, padding.
const INFO: usize = 24;

/// More than the kernel writes for a container with a hundred ranges; a larger answer is asked
/// for once more.
const INFO_ROOM: usize = 2048;

/// What `VFIO_IOMMU_GET_INFO` tells; the container has a group.
pub fn of_container(container: &impl AsRawFd) -> io::Result<Option<Ranges>> {
    let mut room = INFO_ROOM;
    loop {
        // Words, so that it is aligned as the kernel's structure is.
        let mut buffer = vec![0u64; room.div_ceil(8)];
        let bytes = u32::try_from(buffer.len() * 8).map_err(io::Error::other)?;
        buffer[0] = bytes.into();
        // SAFETY: the buffer has the `argsz` bytes that its first word promises the kernel.
        let result =
            unsafe { ioctl_with_mut_ptr(container, VFIO_IOMMU_GET_INFO(), buffer.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let info: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
        match word(&info, 0) {
            Some(needed) if needed > bytes => room = needed as usize,
            _ => return Ok(parse(&info)),
        }
    }
}

/// The ranges in an answer of `VFIO_IOMMU_GET_INFO`; `None` when there is no such capability.
/// Offsets are the kernel's, and none of them is trusted.
fn parse(info: &[u8]) -> Option<Ranges> {
    const FLAGS: usize = 4;
    const FIRST: usize = 16;
    /// Bytes of a capability: header of 8, number of ranges, padding.
    const HEADER: usize = 16;
    const RANGE: usize = 16;

    if word(info, FLAGS)? & VFIO_IOMMU_INFO_CAPS == 0 {
        return None;
    }
    let mut at = word(info, FIRST)? as usize;
    // Each is at least a header behind the last one.
    while at >= INFO {
        let id = word(info, at)? & 0xffff;
        if id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE {
            let count = word(info, at + 8)? as usize;
            let ranges = (0..count).map(|index| {
                let start = at + HEADER + index * RANGE;
                Some(double(info, start)?..=double(info, start + 8)?)
            });
            return ranges.collect();
        }
        let next = word(info, at + 4)? as usize;
        if next <= at {
            return None;
        }
        at = next;
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn double(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// What `IOMMU_IOAS_IOVA_RANGES` tells of an I/O address space.
pub fn of_ioas(iommufd: &impl AsRawFd, ioas: u32) -> io::Result<Ranges> {
    let mut ranges = vec![iommu_iova_range::default(); 64];
    loop {
        let mut query = iommu_ioas_iova_ranges {
            size: u32::try_from(size_of::<iommu_ioas_iova_ranges>()).map_err(io::Error::other)?,
            ioas_id: ioas,
            num_iovas: u32::try_from(ranges.len()).map_err(io::Error::other)?,
            allowed_iovas: ranges.as_mut_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: the kernel writes `num_iovas` ranges at most, for which `ranges` has room.
        let result = unsafe { ioctl_with_mut_ref(iommufd, IOMMU_IOAS_IOVA_RANGES(), &mut query) };
        let error = io::Error::last_os_error();
        let count = query.num_iovas as usize;
        if result == 0 {
            ranges.truncate(count);
            return Ok(ranges.iter().map(|range| range.start..=range.last).collect());
        }
        if error.raw_os_error() != Some(libc::EMSGSIZE) || count <= ranges.len() {
            return Err(error);
        }
        ranges.resize(count, iommu_iova_range::default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer with a migration capability (2) at 24 and ranges at 48.
    fn answer(ranges: &[(u64, u64)]) -> Vec<u8> {
        let mut info = vec![0; 64 + ranges.len() * 16];
        let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
        put(4, &3u32.to_ne_bytes());
        put(16, &24u32.to_ne_bytes());
        put(24, &2u16.to_ne_bytes());
        put(28, &48u32.to_ne_bytes());
        put(48, &1u16.to_ne_bytes());
        put(56, &(ranges.len() as u32).to_ne_bytes());
        for (index, (start, end)) in ranges.iter().enumerate() {
            put(64 + index * 16, &start.to_ne_bytes());
            put(72 + index * 16, &end.to_ne_bytes());
        }
        info
    }

    #[test]
    fn ranges_are_found_behind_other_capabilities() {
        let vtd = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)];
        assert_eq!(parse(&answer(&vtd)), Some(vec![0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff]));
    }

    #[test]
    fn an_answer_without_ranges_tells_nothing() {
        let mut no_capabilities = answer(&[(0, 1)]);
        no_capabilities[4] = 1;
        assert_eq!(parse(&no_capabilities), None);
        let mut other = answer(&[(0, 1)]);
        other[48] = 3;
        assert_eq!(parse(&other), None);
    }

    #[test]
    fn a_cyclic_or_cut_list_ends() {
        let mut cyclic = answer(&[(0, 1)]);
        cyclic[28] = 24;
        assert_eq!(parse(&cyclic), None);
        let whole = answer(&[(0, 1)]);
        assert_eq!(parse(&whole[..whole.len() - 1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked(info in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&info);
        }
    }
}
