//! Other processes, and those that it could start.

use super::attempts::{AT_FDCWD, Attempt, NONE, Outcome, call, judged};
use super::tracee::{Copy, Ended};

/// Signal 0 asks whether one may be sent.
const ASK: u64 = 0;

/// Moves a byte between its memory and that of a process, at an address that the process has not.
fn reach(copy: &mut Copy, number: libc::c_long, victim: u64) -> Result<Outcome, Ended> {
    let room = copy.room(16);
    let own = copy.bytes(&[room.to_ne_bytes(), 1_u64.to_ne_bytes()].concat());
    let other = copy.bytes(&[16_u64.to_ne_bytes(), 1_u64.to_ne_bytes()].concat());
    let result = copy.call(number, &[victim, own, 1, other, 1, 0])?;
    // Who may, is told that nothing is there.
    let may = result == i64::from(-libc::EFAULT);
    Ok(if may { Outcome::Worked } else { judged(result) })
}

/// What is attempted.
pub fn all() -> Vec<Attempt> {
    vec![
        Attempt {
            name: "signal a process (kill)",
            make: |copy, scene| call(copy, libc::SYS_kill, &[scene.victim, ASK]),
        },
        Attempt {
            name: "signal a process (tgkill)",
            make: |copy, scene| call(copy, libc::SYS_tgkill, &[scene.victim, scene.victim, ASK]),
        },
        Attempt {
            name: "signal a process (tkill)",
            make: |copy, scene| call(copy, libc::SYS_tkill, &[scene.victim, ASK]),
        },
        Attempt {
            name: "signal a process (rt_sigqueueinfo)",
            make: |copy, scene| {
                let mut info = [0_u8; 128];
                // SI_QUEUE
                info[8..12].copy_from_slice(&(-1_i32).to_ne_bytes());
                let info = copy.bytes(&info);
                call(copy, libc::SYS_rt_sigqueueinfo, &[scene.victim, ASK, info])
            },
        },
        Attempt {
            name: "signal a process (pidfd)",
            make: |copy, scene| {
                let fd = copy.call(libc::SYS_pidfd_open, &[scene.victim, 0])?;
                match u64::try_from(fd) {
                    Ok(fd) => call(copy, libc::SYS_pidfd_send_signal, &[fd, ASK, 0, 0]),
                    Err(_) => Ok(judged(fd)),
                }
            },
        },
        Attempt {
            name: "signal all processes",
            make: |copy, _| call(copy, libc::SYS_kill, &[NONE, ASK]),
        },
        Attempt {
            name: "trace a process",
            make: |copy, scene| {
                call(copy, libc::SYS_ptrace, &[libc::PTRACE_SEIZE.into(), scene.victim, 0, 0])
            },
        },
        Attempt {
            name: "read a process's memory",
            make: |copy, scene| reach(copy, libc::SYS_process_vm_readv, scene.victim),
        },
        Attempt {
            name: "write to a process's memory",
            make: |copy, scene| reach(copy, libc::SYS_process_vm_writev, scene.victim),
        },
        Attempt {
            name: "take a descriptor of a process",
            make: |copy, scene| {
                let fd = copy.call(libc::SYS_pidfd_open, &[scene.victim, 0])?;
                match u64::try_from(fd) {
                    Ok(fd) => call(copy, libc::SYS_pidfd_getfd, &[fd, 0, 0]),
                    Err(_) => Ok(judged(fd)),
                }
            },
        },
        Attempt {
            name: "move a process to other CPUs",
            make: |copy, scene| {
                let all = copy.bytes(&[0xff; 8]);
                call(copy, libc::SYS_sched_setaffinity, &[scene.victim, 8, all])
            },
        },
        Attempt {
            name: "make a process slow",
            make: |copy, scene| call(copy, libc::SYS_setpriority, &[0, scene.victim, 0]),
        },
        Attempt {
            name: "change the limits of a process",
            make: |copy, scene| {
                let limit = copy.bytes(&[0xff; 16]);
                call(copy, libc::SYS_prlimit64, &[scene.victim, libc::RLIMIT_CORE.into(), limit, 0])
            },
        },
        Attempt {
            name: "move a process's memory",
            make: |copy, scene| {
                let nodes = copy.bytes(&1_u64.to_ne_bytes());
                call(copy, libc::SYS_migrate_pages, &[scene.victim, 64, nodes, nodes])
            },
        },
        Attempt {
            name: "join the host's namespaces",
            make: |copy, scene| {
                let fd = copy.call(libc::SYS_pidfd_open, &[scene.victim, 0])?;
                match u64::try_from(fd) {
                    Ok(fd) => call(copy, libc::SYS_setns, &[fd, libc::CLONE_NEWUTS as u64]),
                    Err(_) => Ok(judged(fd)),
                }
            },
        },
        Attempt {
            name: "run a program",
            make: |copy, _| {
                let path = copy.text("/bin/busybox");
                let arguments = copy.bytes(&[path.to_ne_bytes(), 0_u64.to_ne_bytes()].concat());
                call(copy, libc::SYS_execve, &[path, arguments, 0])
            },
        },
        Attempt {
            name: "run a program that has no file",
            make: |copy, _| {
                let name = copy.text("x");
                let fd = copy.call(libc::SYS_memfd_create, &[name, 0])?;
                let Ok(fd) = u64::try_from(fd) else { return Ok(judged(fd)) };
                let script = copy.text("#!/bin/busybox true\n");
                copy.call(libc::SYS_write, &[fd, script, 20])?;
                let (empty, flags) = (copy.text(""), libc::AT_EMPTY_PATH as u64);
                call(copy, libc::SYS_execveat, &[fd, empty, 0, 0, flags])
            },
        },
        Attempt {
            name: "start a process",
            make: |copy, _| call(copy, libc::SYS_clone, &[libc::SIGCHLD as u64, 0, 0, 0, 0]),
        },
        Attempt { name: "start a process (fork)", make: |copy, _| call(copy, libc::SYS_fork, &[]) },
        Attempt {
            name: "start a process in a user namespace of its own",
            make: |copy, _| {
                let flags = (libc::CLONE_NEWUSER | libc::SIGCHLD) as u64;
                call(copy, libc::SYS_clone, &[flags, 0, 0, 0, 0])
            },
        },
        Attempt {
            name: "make a user namespace",
            make: |copy, _| call(copy, libc::SYS_unshare, &[libc::CLONE_NEWUSER as u64]),
        },
        Attempt {
            name: "make a mount namespace",
            make: |copy, _| call(copy, libc::SYS_unshare, &[libc::CLONE_NEWNS as u64]),
        },
        Attempt {
            name: "become root",
            make: |copy, _| call(copy, libc::SYS_setresuid, &[0, 0, 0]),
        },
        Attempt {
            name: "get a capability back",
            make: |copy, _| {
                // Version 3, of itself; CAP_SYS_ADMIN, effective and permitted.
                let header = copy.bytes(&[0x2008_0522_u32.to_ne_bytes(), [0; 4]].concat());
                let set = (1_u32 << 21).to_ne_bytes();
                let data = copy.bytes(&[set, set, [0; 4], [0; 4], [0; 4], [0; 4]].concat());
                call(copy, libc::SYS_capset, &[header, data])
            },
        },
        Attempt {
            name: "open a network socket and send from the host",
            make: |copy, _| {
                let fd = copy.call(libc::SYS_socket, &[2, 2, 0])?;
                let Ok(fd) = u64::try_from(fd) else { return Ok(judged(fd)) };
                // 127.0.0.1:9. A network namespace of its own has not even that.
                let to = copy.bytes(&[2, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
                call(copy, libc::SYS_sendto, &[fd, to, 1, 0, to, 16])
            },
        },
        Attempt {
            name: "read all packets of the host",
            make: |copy, _| call(copy, libc::SYS_socket, &[17, 3, 0x0300]),
        },
        Attempt {
            name: "change the host's network interfaces",
            make: |copy, _| {
                // NETLINK_ROUTE; RTM_NEWLINK that sets flags of interface 1 to what they are.
                let fd = copy.call(libc::SYS_socket, &[16, 3, 0])?;
                let Ok(fd) = u64::try_from(fd) else { return Ok(judged(fd)) };
                let mut message = vec![32, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0];
                message.extend([0; 16]);
                message[20] = 1;
                let message = copy.bytes(&message);
                let to = copy.bytes(&[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                copy.call(libc::SYS_sendto, &[fd, message, 32, 0, to, 12])?;
                let room = copy.room(64);
                copy.call(libc::SYS_recvfrom, &[fd, room, 64, 0, 0, 0])?;
                let answer: [u8; 4] = copy.read(room + 16);
                Ok(judged(i32::from_ne_bytes(answer).into()))
            },
        },
        Attempt {
            name: "connect to a service of the host",
            make: |copy, scene| {
                let fd = copy.call(libc::SYS_socket, &[1, 1, 0])?;
                let Ok(fd) = u64::try_from(fd) else { return Ok(judged(fd)) };
                let mut to = vec![1, 0];
                to.extend(scene.socket.as_bytes());
                to.push(0);
                let (length, to) = (to.len() as u64, copy.bytes(&to));
                call(copy, libc::SYS_connect, &[fd, to, length])
            },
        },
        Attempt {
            name: "pass a descriptor on",
            make: |copy, _| {
                let pair = copy.room(8);
                call(copy, libc::SYS_socketpair, &[1, 1, 0, pair])
            },
        },
        Attempt {
            name: "share memory with the host's processes",
            make: |copy, _| {
                // A segment that all users of the namespace see.
                let id = copy.call(libc::SYS_shmget, &[0x6265_7274, 4096, 0o1666])?;
                let Ok(id) = u64::try_from(id) else { return Ok(judged(id)) };
                copy.call(libc::SYS_shmctl, &[id, 0, 0])?;
                let own = std::fs::read_link(format!("/proc/{}/ns/ipc", copy.pid()));
                let host = std::fs::read_link("/proc/self/ns/ipc");
                let is_host = own.ok() == host.ok();
                Ok(if is_host { Outcome::Worked } else { Outcome::Bounded("IPC of its own") })
            },
        },
        Attempt {
            name: "watch a folder of the host",
            make: |copy, scene| {
                let fd = copy.call(libc::SYS_inotify_init1, &[0])?;
                let Ok(fd) = u64::try_from(fd) else { return Ok(judged(fd)) };
                let path = copy.text(&scene.target);
                call(copy, libc::SYS_inotify_add_watch, &[fd, path, 2])
            },
        },
        Attempt {
            name: "read what a link of the host says",
            make: |copy, scene| {
                let (path, room) = (copy.text(&format!("{}/link", scene.target)), copy.room(64));
                call(copy, libc::SYS_readlinkat, &[AT_FDCWD, path, room, 64])
            },
        },
    ]
}
