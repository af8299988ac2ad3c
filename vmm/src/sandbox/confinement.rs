//! What stands behind seccomp: berth leaves the host's namespaces, its files and root.
//!
//! Two parts are done while there is one thread, which the others inherit from: one in the process
//! that was started, one in the machine's. The last is done when everything is open, and binds the
//! whole process. What is each thread's own matter is in [`Restriction::apply`].
//!
//! [`Restriction::apply`]: super::Restriction::apply

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::{SandboxError, cores};
use crate::plan::{FILLERS, Limits, SandboxPlan, threads};
use crate::units::Layer;

/// Numbers of users that nothing hands out (systemd, "Users, Groups, UIDs and GIDs on systemd
/// Systems": 1879048192 to 2147352575 is unused). The process's own number on top makes the user
/// one that no other process is; a process has at most 2^22.
const OWN_IDS: u32 = 1_900_000_000;

/// Where the empty root is mounted first. The folder is on every host, as berth reads what is there.
const STAGE: &str = "/proc";

/// What berth maps of its own while the guest runs: heaps, one of 64 MiB for each thread at most,
/// of which nearly nothing is used.
const OWN_MAPPINGS: u64 = 256 << 20;
const HEAP_OF_THREAD: u64 = 128 << 20;

/// What a host that cannot have them is told.
const NAMESPACES: &str = "make namespaces of its own";

/// KVM's worker, and a spare.
const OTHER_TASKS: u64 = 8;

/// A confinement that has begun.
#[derive(Clone, Debug)]
pub struct Confinement {
    plan: SandboxPlan,
    limits: Limits,
    vcpus: u64,
    uid: u32,
    gid: u32,
}

fn layer(layer: Layer, doing: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Layer { layer, doing, source }
}

fn limit(source: Errno) -> SandboxError {
    SandboxError::Limit { source: source.into() }
}

/// Whether this process may `capability`.
fn may(capability: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

impl Confinement {
    /// The first part, before the machine's process is made: nothing is to be gained any more, and
    /// that process will be the first of a PID namespace. This one has one thread.
    ///
    /// # Errors
    /// The kernel has no such namespaces, or this process may make none.
    pub fn begin(plan: &SandboxPlan, limits: &Limits, vcpus: u64) -> Result<Self, SandboxError> {
        let own = OWN_IDS + rustix::process::getpid().as_raw_nonzero().get() as u32;
        let uid = plan.uid.unwrap_or(own);
        let gid = plan.gid.unwrap_or(uid);
        let begun = Self { plan: plan.clone(), limits: limits.clone(), vcpus, uid, gid };
        if plan.layers.is_empty() {
            return Ok(begun);
        }
        rustix::thread::set_no_new_privs(true)
            .map_err(|error| layer(Layer::User, "give up new privileges")(error.into()))?;
        if plan.has(Layer::Namespaces) {
            leave_processes().map_err(layer(Layer::Namespaces, NAMESPACES))?;
        }
        Ok(begun)
    }

    /// Before the first helper is started, which inherits that: no program that any of them could run
    /// would be privileged. What they have of capabilities now is needed until the end of the build.
    pub fn give_up_programs(plan: &SandboxPlan) {
        if plan.has(Layer::User) {
            super::empty_bounding_set(CapabilitySet::empty());
        }
    }

    /// The second part, in the machine's process, which has one thread: the other namespaces. The
    /// host's files are still there to be opened.
    ///
    /// # Errors
    /// As before.
    pub fn enter(&self) -> Result<(), SandboxError> {
        if !self.plan.layers.is_empty() {
            cores::keep_to_itself();
        }
        self.leave_namespaces()
    }

    fn leave_namespaces(&self) -> Result<(), SandboxError> {
        if self.plan.has(Layer::Namespaces) {
            leave_namespaces().map_err(layer(Layer::Namespaces, NAMESPACES))?;
        }
        Ok(())
    }

    /// The last part, in the machine's process: nothing is opened any more.
    ///
    /// # Errors
    /// A layer cannot be had.
    pub fn complete(&self) -> Result<(), SandboxError> {
        self.leave_files_behind()?;
        self.leave_root()
    }

    fn leave_files_behind(&self) -> Result<(), SandboxError> {
        let plan = &self.plan;
        if plan.layers.is_empty() {
            return Ok(());
        }
        // Before the files of procfs are gone that tell.
        let mapped = mapped_bytes();
        if plan.has(Layer::Root) {
            leave_files().map_err(layer(Layer::Root, "make its root folder an empty one"))?;
        }
        self.bound(mapped).map_err(limit)
    }

    /// All of it but the last step, [`leave_root`](Self::leave_root), in a process that opens
    /// nothing and maps nothing any more.
    ///
    /// # Errors
    /// A layer cannot be had.
    pub fn confine_rest(&self) -> Result<(), SandboxError> {
        self.leave_namespaces()?;
        let plan = SandboxPlan { file_size: None, ..self.plan.clone() };
        Self { plan, limits: Limits::default(), vcpus: 0, ..*self }.leave_files_behind()
    }

    /// Becomes the user of the plan, in all threads, with no group but one. The kernel takes the
    /// capabilities of who leaves root (capabilities(7)). Who is not root has none to leave.
    ///
    /// # Errors
    /// What setresuid(2) says.
    pub fn leave_root(&self) -> Result<(), SandboxError> {
        if !self.plan.has(Layer::User) || !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        become_user(self.uid, self.gid).map_err(layer(Layer::User, "become another user than root"))
    }

    /// Limits of what a thread that was taken over could use up.
    fn bound(&self, mapped: Option<u64>) -> Result<(), Errno> {
        let all = |need: u64| Rlimit { current: Some(need), maximum: Some(need) };
        if may(CapabilitySet::SYS_RESOURCE) || may(CapabilitySet::IPC_LOCK) {
            // From here on it counts: whoever is without CAP_IPC_LOCK pins no more than guest memory.
            lower(Resource::Memlock, all(self.limits.memlock))?;
        }
        if let Some(mapped) = mapped {
            let fillers = if self.vcpus == 0 { 0 } else { FILLERS };
            let heaps = HEAP_OF_THREAD * (self.vcpus + fillers);
            lower(Resource::As, all(mapped + OWN_MAPPINGS + heaps + self.limits.bars))?;
        }
        if let Some(size) = self.plan.file_size {
            lower(Resource::Fsize, all(size))?;
        }
        // Where others are the same user, their tasks count, too.
        if self.plan.has(Layer::User) && self.plan.uid.is_none() && may(CapabilitySet::SETUID) {
            lower(Resource::Nproc, all(threads(self.vcpus) + OTHER_TASKS))?;
        }
        Ok(())
    }
}

/// Limits of what a helper that was taken over could use up: memory, and a file system by the
/// journal.
pub fn bound_helper() -> io::Result<()> {
    const JOURNAL: u64 = 16 << 20;

    let all = |need: u64| Rlimit { current: Some(need), maximum: Some(need) };
    lower(Resource::Memlock, all(0))?;
    lower(Resource::Fsize, all(JOURNAL))?;
    if let Some(mapped) = mapped_bytes() {
        lower(Resource::As, all(mapped + OWN_MAPPINGS))?;
    }
    Ok(())
}

/// Sets a limit, and leaves a hard one that is lower already.
fn lower(resource: Resource, wanted: Rlimit) -> Result<(), Errno> {
    let Rlimit { maximum, .. } = getrlimit(resource);
    let wanted = match (maximum, wanted.maximum) {
        (Some(maximum), Some(more)) if maximum < more && !may(CapabilitySet::SYS_RESOURCE) => {
            Rlimit { current: Some(maximum), maximum: Some(maximum) }
        }
        _ => wanted,
    };
    setrlimit(resource, wanted)
}

/// Bytes that this process has mapped.
fn mapped_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Has the next child be the first of a PID namespace. Who may not becomes the root of a user
/// namespace that has nobody but itself in it, and may there.
fn leave_processes() -> io::Result<()> {
    if !may(CapabilitySet::SYS_ADMIN) {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        unshare(UnshareFlags::NEWUSER)?;
        // Without it a user could leave groups that keep others from a file (user_namespaces(7)).
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1", uid = uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1", gid = gid.as_raw()))?;
    }
    unshare(UnshareFlags::NEWPID)
}

/// Leaves the other namespaces of the host.
fn leave_namespaces() -> io::Result<()> {
    unshare(
        UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP,
    )?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change(c"/", private)?)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the process has one thread, and shares neither files nor folders with another.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Makes an empty folder the root of this process, and lets go of the host's mounts. In namespaces
/// that are not its own that would take them from all.
fn leave_files() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(c"berth", STAGE, c"tmpfs", flags, c"size=4k,nr_inodes=2,mode=0555")?;
    rustix::process::chdir(STAGE)?;
    rustix::mount::mount_remount(c".", flags | MountFlags::BIND | MountFlags::RDONLY, c"")?;
    match rustix::process::pivot_root(c".", c".") {
        // The old root is now on top of the new one.
        Ok(()) => rustix::mount::unmount(c".", UnmountFlags::DETACH)?,
        // An initial RAM file system cannot be left that way (pivot_root(2)), and is covered.
        Err(Errno::INVAL) => {
            rustix::mount::mount_move(c".", c"/")?;
            rustix::process::chroot(c".")?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::process::chdir(c"/")?)
}

fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let done = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: takes no pointers but none; the C library has every thread do the same.
    done(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: as before.
    done(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: as before.
    done(unsafe { libc::setresuid(uid, uid, uid) })
}
