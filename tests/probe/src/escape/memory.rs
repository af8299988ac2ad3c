//! The host's memory, and more of it than the machine needs.

use super::attempts::{Attempt, NONE, Outcome, call, judged};
use super::tracee::{Copy, Ended};

const WRITABLE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const PRIVATE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;

fn page(copy: &mut Copy) -> Result<Result<u64, Outcome>, Ended> {
    let flags = PRIVATE | libc::MAP_POPULATE as u64;
    let page = copy.call(libc::SYS_mmap, &[0, 4096, WRITABLE, flags, NONE, 0])?;
    Ok(u64::try_from(page).map_err(|_| judged(page)))
}

fn advise(copy: &mut Copy, advice: i32) -> Result<Outcome, Ended> {
    match page(copy)? {
        Ok(page) => call(copy, libc::SYS_madvise, &[page, 4096, advice as u64]),
        Err(refused) => Ok(refused),
    }
}

const LOCKS: Outcome = Outcome::Bounded("memory that may be locked");

/// Whether a limit of locked memory binds it: it does not who has CAP_IPC_LOCK.
fn may_lock_so_much(copy: &Copy) -> bool {
    let of = |file: &str, key: &str| {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", copy.pid()));
        let text = text.unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned)).unwrap_or_default()
    };
    let capabilities = u64::from_str_radix(of("status", "CapEff:").trim(), 16).unwrap_or(u64::MAX);
    capabilities >> 14 & 1 == 0 && !of("limits", "Max locked memory").contains("unlimited")
}

/// What is attempted.
pub fn all() -> Vec<Attempt> {
    vec![
        Attempt {
            name: "poison a page of the host",
            make: |copy, _| advise(copy, libc::MADV_HWPOISON),
        },
        Attempt {
            name: "take a page from the host",
            make: |copy, _| advise(copy, libc::MADV_SOFT_OFFLINE),
        },
        Attempt {
            name: "merge pages with other processes",
            make: |copy, _| advise(copy, libc::MADV_MERGEABLE),
        },
        Attempt {
            name: "have its memory in core dumps",
            make: |copy, _| advise(copy, libc::MADV_DODUMP),
        },
        Attempt {
            name: "map memory that can be executed",
            make: |copy, _| {
                let protection = WRITABLE | libc::PROT_EXEC as u64;
                call(copy, libc::SYS_mmap, &[0, 4096, protection, PRIVATE, NONE, 0])
            },
        },
        Attempt {
            name: "make memory executable",
            make: |copy, _| match page(copy)? {
                Ok(page) => {
                    let protection = (libc::PROT_READ | libc::PROT_EXEC) as u64;
                    call(copy, libc::SYS_mprotect, &[page, 4096, protection])
                }
                Err(refused) => Ok(refused),
            },
        },
        Attempt {
            name: "make memory executable (pkey_mprotect)",
            make: |copy, _| match page(copy)? {
                Ok(page) => {
                    let protection = (libc::PROT_READ | libc::PROT_EXEC) as u64;
                    call(copy, libc::SYS_pkey_mprotect, &[page, 4096, protection, NONE])
                }
                Err(refused) => Ok(refused),
            },
        },
        Attempt {
            name: "map a terabyte",
            make: |copy, _| {
                let flags = PRIVATE | libc::MAP_NORESERVE as u64;
                call(copy, libc::SYS_mmap, &[0, 1 << 40, WRITABLE, flags, NONE, 0])
            },
        },
        Attempt {
            name: "lock the host's memory",
            make: |copy, _| {
                let flags = PRIVATE | libc::MAP_NORESERVE as u64;
                let length = 1 << 20;
                let area = copy.call(libc::SYS_mmap, &[0, length, WRITABLE, flags, NONE, 0])?;
                let Ok(area) = u64::try_from(area) else { return Ok(judged(area)) };
                let outcome = judged(copy.call(libc::SYS_mlock, &[area, length])?);
                Ok(match outcome {
                    Outcome::Worked if may_lock_so_much(copy) => LOCKS,
                    outcome => outcome,
                })
            },
        },
        Attempt {
            name: "raise the limit of locked memory",
            make: |copy, _| {
                let limit = copy.bytes(&[0xff; 16]);
                call(copy, libc::SYS_prlimit64, &[0, libc::RLIMIT_MEMLOCK.into(), limit, 0])
            },
        },
        Attempt {
            name: "make a file in memory",
            make: |copy, _| {
                let name = copy.text("x");
                let fd = copy.call(libc::SYS_memfd_create, &[name, 0])?;
                let Ok(fd) = u64::try_from(fd) else { return Ok(judged(fd)) };
                // As large as the host: the limit of a file's size is what there is.
                match judged(copy.call(libc::SYS_ftruncate, &[fd, 1 << 40])?) {
                    Outcome::Refused(libc::EFBIG) => Ok(Outcome::Bounded("size of a file")),
                    outcome => Ok(outcome),
                }
            },
        },
        Attempt {
            name: "handle page faults for the kernel",
            make: |copy, _| call(copy, libc::SYS_userfaultfd, &[0]),
        },
        Attempt {
            name: "map VFIO memory that is not the machine's",
            make: |copy, _| {
                // VFIO_IOMMU_MAP_DMA of a page of its own on every descriptor. One container is the
                // machine's: pages that it may lock are all that it gets.
                let Ok(page) = page(copy)? else { return Ok(Outcome::Refused(libc::ENOMEM)) };
                let mut request = vec![32_u8, 0, 0, 0, 3, 0, 0, 0];
                request.extend(page.to_ne_bytes());
                request.extend((1_u64 << 38).to_ne_bytes());
                request.extend(4096_u64.to_ne_bytes());
                let request = copy.bytes(&request);
                let mut last = i64::from(-libc::EBADF);
                for fd in 0..128 {
                    last = copy.call(libc::SYS_ioctl, &[fd, 0x3b71, request])?;
                    if last == 0 {
                        return Ok(if may_lock_so_much(copy) { LOCKS } else { Outcome::Worked });
                    }
                }
                Ok(judged(last))
            },
        },
    ]
}
