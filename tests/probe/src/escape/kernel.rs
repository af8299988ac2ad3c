//! The kernel's own interfaces.

use super::attempts::{Attempt, NONE, Outcome, call, judged, open};

/// What is attempted.
pub fn all() -> Vec<Attempt> {
    vec![
        Attempt {
            name: "load a program into the kernel (bpf)",
            make: |copy, _| {
                // BPF_MAP_CREATE: an array of one number.
                let mut attributes = [0_u8; 72];
                for (at, value) in [(0, 2), (4, 4), (8, 4), (12, 1)] {
                    attributes[at] = value;
                }
                let attributes = copy.bytes(&attributes);
                call(copy, libc::SYS_bpf, &[0, attributes, 72])
            },
        },
        Attempt {
            name: "count events of all processes",
            make: |copy, _| {
                // A software counter of CPU 0, the kernel's part included.
                let mut attributes = [0_u8; 128];
                (attributes[0], attributes[4]) = (1, 128);
                let attributes = copy.bytes(&attributes);
                call(copy, libc::SYS_perf_event_open, &[attributes, NONE, 0, NONE, 0])
            },
        },
        Attempt {
            name: "make calls around the filter (io_uring)",
            make: |copy, _| {
                let parameters = copy.room(120);
                call(copy, libc::SYS_io_uring_setup, &[1, parameters])
            },
        },
        Attempt {
            name: "look at keys",
            make: |copy, _| {
                // KEYCTL_GET_KEYRING_ID of the session's.
                call(copy, libc::SYS_keyctl, &[0, -3_i64 as u64, 1])
            },
        },
        Attempt {
            name: "add a key",
            make: |copy, _| {
                let (kind, name) = (copy.text("user"), copy.text("berth"));
                call(copy, libc::SYS_add_key, &[kind, name, name, 5, -4_i64 as u64])
            },
        },
        Attempt {
            name: "load a module",
            make: |copy, _| {
                let (image, options) = (copy.room(16), copy.text(""));
                let result = copy.call(libc::SYS_init_module, &[image, 16, options])?;
                // Who may, is told that this is no module.
                let may = result == i64::from(-libc::ENOEXEC);
                Ok(if may { Outcome::Worked } else { judged(result) })
            },
        },
        Attempt {
            name: "remove a module",
            make: |copy, _| {
                let name = copy.text("berth_is_no_module");
                let result = copy.call(libc::SYS_delete_module, &[name, 0])?;
                let may = result == i64::from(-libc::ENOENT);
                Ok(if may { Outcome::Worked } else { judged(result) })
            },
        },
        Attempt {
            name: "boot another kernel",
            make: |copy, _| call(copy, libc::SYS_kexec_load, &[0, 0, 0, 0]),
        },
        Attempt {
            name: "reboot the host",
            make: |copy, _| {
                // LINUX_REBOOT_CMD_CAD_OFF: harmless, and nobody but root of the host may.
                call(copy, libc::SYS_reboot, &[0xfee1_dead, 672_274_793, 0, 0])
            },
        },
        Attempt {
            name: "name the host",
            make: |copy, _| {
                let name = copy.text("(none)");
                call(copy, libc::SYS_sethostname, &[name, 6])
            },
        },
        Attempt {
            name: "set the host's clock",
            make: |copy, _| {
                let mut change = [0_u8; 208];
                // ADJ_TICK to what it is: 10,000 us.
                change[1] = 0x40;
                change[88..96].copy_from_slice(&10_000_u64.to_ne_bytes());
                let change = copy.bytes(&change);
                call(copy, libc::SYS_adjtimex, &[change])
            },
        },
        Attempt { name: "reach all ports", make: |copy, _| call(copy, libc::SYS_iopl, &[3]) },
        Attempt {
            name: "reach some ports",
            make: |copy, _| call(copy, libc::SYS_ioperm, &[0x80, 1, 1]),
        },
        Attempt {
            name: "read the kernel's messages",
            make: |copy, _| {
                let room = copy.room(4096);
                call(copy, libc::SYS_syslog, &[3, room, 4096])
            },
        },
        Attempt {
            name: "set the kernel's messages",
            make: |copy, _| call(copy, libc::SYS_syslog, &[8, 0, 7]),
        },
        Attempt {
            name: "be dumped",
            make: |copy, _| {
                call(copy, libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0])
            },
        },
        Attempt {
            name: "change how addresses are laid out",
            make: |copy, _| call(copy, libc::SYS_personality, &[0x0040_0000]),
        },
        Attempt {
            name: "set a segment of its own",
            make: |copy, _| {
                let room = copy.bytes(&[0; 16]);
                call(copy, libc::SYS_modify_ldt, &[0, room, 16])
            },
        },
        Attempt {
            name: "have timers that signal",
            make: |copy, _| {
                let timer = copy.room(8);
                call(copy, libc::SYS_timer_create, &[0, 0, timer])
            },
        },
        Attempt {
            name: "run at real-time priority",
            make: |copy, _| {
                let priority = copy.bytes(&1_u32.to_ne_bytes());
                call(copy, libc::SYS_sched_setscheduler, &[0, libc::SCHED_FIFO as u64, priority])
            },
        },
        Attempt {
            name: "make another virtual machine",
            make: |copy, _| match open(copy, "/dev/kvm", libc::O_RDWR)? {
                // KVM_CREATE_VM
                Ok(kvm) => call(copy, libc::SYS_ioctl, &[kvm, 0xae01, 0]),
                Err(refused) => Ok(refused),
            },
        },
        Attempt {
            name: "make another vCPU",
            make: |copy, _| {
                let mut last = i64::from(-libc::EBADF);
                for fd in 0..128 {
                    last = copy.call(libc::SYS_ioctl, &[fd, 0xae41, 200])?;
                    // EIO is KVM's answer to another process than the machine's, which it knows by
                    // its memory: a thread that was taken over has that memory.
                    if last >= 0 || last == i64::from(-libc::EIO) {
                        return Ok(Outcome::Worked);
                    }
                }
                Ok(judged(last))
            },
        },
    ]
}
