//! Machines of berth that run on the host, and the CPUs that they have.
//!
//! The kernel knows: a vCPU's thread has its machine's name, and may run on one CPU. So nothing has
//! to be written down anywhere, and what has crashed has nothing. Everybody may read that of
//! everybody's processes, unless /proc hides them (`hidepid=`); those in other PID namespaces are
//! not to be seen.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::id_set::IdSet;
use super::root::Root;

/// How long is waited for machines that are being ended: to free a page of 1 GiB takes long.
const ORPHANS: Duration = Duration::from_secs(20);

/// What berth's processes are called: the file name of the program.
const PROGRAM: &str = "berth";

/// A machine that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunningMachine {
    /// Its process.
    pub pid: u32,
    /// Its name; of a long one only what a thread's name has room for.
    pub name: String,
    /// CPUs that its vCPUs are pinned to.
    pub vcpus: IdSet,
    /// CPUs of its other threads.
    pub own: IdSet,
}

/// Where machines are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// Among the virtual machines that KVM knows, where it tells of them.
    Machines,
    /// Among all processes: one that is being ended may have lost its virtual machine already, and
    /// have its devices still.
    Processes,
}

impl RunningMachine {
    /// All but the one that this process is to become.
    pub(super) fn read_all(root: &Root) -> Vec<Self> {
        Self::read_others(root, root.is_live().then(std::process::id))
    }

    /// Waits for machines that have lost the process that started them: the kernel is ending those,
    /// and until it has they have CPUs and devices. No longer than 20 s.
    pub fn wait_for_orphans(among: Among) {
        let root = Root::live();
        let are_left = || {
            let pids = match among {
                Among::Machines => candidates(&root),
                Among::Processes => processes(&root).collect(),
            };
            let berths: Vec<_> =
                pids.into_iter().filter_map(|pid| Relation::read(&root, pid)).collect();
            has_orphans(&berths)
        };
        let deadline = Instant::now() + ORPHANS;
        while are_left() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All but the one of process `own`.
    fn read_others(root: &Root, own: Option<u32>) -> Vec<Self> {
        let others = candidates(root).into_iter().filter(|pid| own != Some(*pid));
        others.filter_map(|pid| Self::read(root, pid)).collect()
    }

    fn read(root: &Root, pid: u32) -> Option<Self> {
        let folder = format!("/proc/{pid}/task");
        // Read again: only this one is for a snapshot.
        root.glance(format!("/proc/{pid}/comm"))?;
        let (mut name, mut vcpus, mut own) = (String::new(), Vec::new(), Vec::new());
        for thread in root.names(&folder).unwrap_or_default() {
            let status = root.glance(format!("{folder}/{thread}/status")).unwrap_or_default();
            let field = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key))?;
                Some(line.trim_start_matches(':').trim())
            };
            let cpus = field("Cpus_allowed_list").and_then(|list| list.parse::<IdSet>().ok());
            let cpus = cpus.unwrap_or_default();
            match field("Name").and_then(|name| name.rsplit_once("/vcpu")) {
                Some((machine, _)) => {
                    vcpus.extend(cpus.iter());
                    if machine.len() > name.len() {
                        name = machine.to_owned();
                    }
                }
                None => own.extend(cpus.iter()),
            }
        }
        let machine =
            Self { pid, name, vcpus: vcpus.into_iter().collect(), own: own.into_iter().collect() };
        (!machine.vcpus.is_empty()).then_some(machine)
    }
}

/// Where KVM lists the virtual machines of the host, those of a process by its number outside of PID
/// namespaces (`kvm_create_vm_debugfs` in virt/kvm/kvm_main.c).
const KVM_MACHINES: &str = "/sys/kernel/debug/kvm";

/// The host's own PID namespace (`PROC_PID_INIT_INO` in include/linux/proc_ns.h).
const HOSTS_PIDS: &str = "pid:[4026531836]";

/// Processes of berth: those of machines at least, which have a virtual machine before others may
/// see their CPUs as taken. Where KVM does not tell, all processes of the host are looked at, which
/// costs five system calls each.
fn candidates(root: &Root) -> Vec<u32> {
    // Other programs' processes belong in no snapshot.
    let quiet = Root::live();
    let look = if root.is_live() { &quiet } else { root };
    match root.is_live().then(|| with_machines(look)).flatten() {
        Some(pids) => pids.into_iter().filter(|pid| is_berth(look, *pid)).collect(),
        None => processes(look).collect(),
    }
}

/// All processes of berth.
fn processes(root: &Root) -> impl Iterator<Item = u32> {
    let names = root.names("/proc").unwrap_or_default();
    let pids = names.into_iter().filter_map(|name| name.parse().ok());
    pids.filter(|pid| is_berth(root, *pid))
}

/// Processes with a virtual machine, in order; `None` where KVM does not tell.
fn with_machines(root: &Root) -> Option<BTreeSet<u32>> {
    if root.link("/proc/self/ns/pid")? != Path::new(HOSTS_PIDS) {
        return None;
    }
    let names = root.names(KVM_MACHINES).ok()?;
    let pids = names.iter().filter_map(|name| name.split_once('-')?.0.parse().ok()).collect();
    (!names.is_empty()).then_some(pids)
}

fn is_berth(root: &Root, pid: u32) -> bool {
    let comm = root.glance(format!("/proc/{pid}/comm"));
    comm.is_some_and(|comm| comm.starts_with(PROGRAM))
}

/// What tells a machine's process from the others of berth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Relation {
    pid: u32,
    parent: u32,
    /// The parent is berth, too.
    has_parent: bool,
    /// It is the first process of a PID namespace, as a machine is, and what a container starts.
    is_first: bool,
    /// It has vCPUs. A machine that is being ended may have lost those, and have its devices still.
    has_vcpus: bool,
}

impl Relation {
    fn read(root: &Root, pid: u32) -> Option<Self> {
        let status = root.glance(format!("/proc/{pid}/status"))?;
        let field = |key| status.lines().find_map(|line| line.strip_prefix(key));
        let numbers: Vec<&str> = field("NSpid:").unwrap_or_default().split_whitespace().collect();
        let parent = field("PPid:")?.trim().parse().ok()?;
        Some(Self {
            pid,
            parent,
            has_parent: is_berth(root, parent),
            is_first: matches!(numbers.as_slice(), [_, .., "1"]),
            has_vcpus: RunningMachine::read(root, pid).is_some(),
        })
    }
}

/// Whether one of `berths` is a machine without the process that started it.
fn has_orphans(berths: &[Relation]) -> bool {
    let has_child = |pid| berths.iter().any(|other| other.parent == pid);
    let is_machine = |one: &Relation| one.has_vcpus || one.is_first && !has_child(one.pid);
    berths.iter().any(|one| !one.has_parent && is_machine(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    /// One that was killed while its memory was filled held its group for as long as that took, and
    /// had no vCPU any more.
    const MACHINE: Relation =
        Relation { pid: 71, parent: 70, has_parent: true, is_first: true, has_vcpus: true };

    /// One that was killed while its memory was filled held its group for as long as that took, and
    /// had no vCPU any more.
    #[test]
    fn a_machine_that_is_being_ended_is_an_orphan_with_vcpus_or_without() {
        let started =
            Relation { pid: 70, parent: 1, has_parent: false, is_first: false, has_vcpus: false };
        let helper = Relation { pid: 69, parent: 70, has_parent: true, ..started };
        assert!(!has_orphans(&[started, MACHINE, helper]));
        assert!(!has_orphans(&[MACHINE]), "KVM lists no others");
        let orphan = Relation { parent: 1, has_parent: false, ..MACHINE };
        assert!(has_orphans(&[helper, orphan]));
        assert!(has_orphans(&[Relation { has_vcpus: false, ..orphan }]));
        // Without namespaces of its own.
        assert!(has_orphans(&[Relation { is_first: false, ..orphan }]));
        // The first process of a container, with its machine.
        let first = Relation { pid: 90, parent: 89, has_vcpus: false, ..orphan };
        assert!(!has_orphans(&[first, Relation { pid: 91, parent: 90, ..MACHINE }]));
    }

    #[test]
    fn a_process_tells_whose_child_it_is_and_whether_it_is_the_first() {
        let mut host = Fixture::server();
        host.file("/proc/70/comm", "berth");
        host.file("/proc/71/comm", "berth");
        host.file("/proc/71/status", "Name:\tberth\nPPid:\t70\nNSpid:\t71\t1");
        host.file("/proc/72/comm", "sleep");
        let root = host.root();
        assert_eq!(processes(&root).collect::<Vec<_>>(), [70, 71]);
        let machine = Relation { has_vcpus: false, ..MACHINE };
        assert_eq!(Relation::read(&root, 71), Some(machine));
    }

    #[test]
    fn kvm_tells_who_has_machines_by_the_numbers_of_the_host_only() {
        let mut host = Fixture::server();
        host.file("/sys/kernel/debug/kvm/4711-12/halt_exits", "0");
        host.file("/sys/kernel/debug/kvm/halt_exits", "0");
        assert_eq!(with_machines(&host.root()), None, "the namespace is not to be seen");
        host.link("/proc/self/ns/pid", "pid:[4026532000]");
        assert_eq!(with_machines(&host.root()), None);
        host.link("/proc/self/ns/pid", HOSTS_PIDS);
        assert_eq!(with_machines(&host.root()), Some(BTreeSet::from([4711])));
    }

    fn thread(host: &mut Fixture, pid: u32, thread: u32, name: &str, cpus: &str) {
        host.file(&format!("/proc/{pid}/comm"), "berth");
        host.file(
            &format!("/proc/{pid}/task/{thread}/status"),
            &format!("Name:\t{name}\nState:\tS\nCpus_allowed_list:\t{cpus}"),
        );
    }

    #[test]
    fn this_process_is_not_among_the_others() {
        let (started, running) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let vcpu = std::thread::Builder::new().name("mine/vcpu0".to_owned());
        let vcpu = vcpu.spawn(move || {
            started.send(()).expect("the test waits");
            let _ = ended.recv();
        });
        running.recv().expect("it starts");
        let own = std::process::id();
        assert!(RunningMachine::read(&Root::live(), own).is_some(), "it looks like a machine");
        let others = RunningMachine::read_all(&Root::live());
        assert!(others.iter().all(|machine| machine.pid != own), "{others:?}");
        drop(end);
        vcpu.expect("a thread").join().expect("it ends");
    }

    #[test]
    fn vcpus_tell_a_machines_name_and_cpus() {
        let mut host = Fixture::server();
        thread(&mut host, 70, 70, "berth", "7,15");
        thread(&mut host, 70, 71, "a-very-lo/vcpu9", "4");
        thread(&mut host, 70, 72, "a-very-l/vcpu10", "5");
        // A guard, `berth check`, and somebody else's thread with such a name.
        thread(&mut host, 80, 80, "berth-guard", "0-15");
        host.file("/proc/90/comm", "qemu");
        host.file("/proc/90/task/90/status", "Name:\tx/vcpu0\nCpus_allowed_list:\t6");
        let list = |text: &str| text.parse::<IdSet>().expect("a list");
        let only = RunningMachine {
            pid: 70,
            name: "a-very-lo".to_owned(),
            vcpus: list("4-5"),
            own: list("7,15"),
        };
        assert_eq!(RunningMachine::read_all(&host.root()), [only]);
        // berth itself, which has started its vCPUs already, is none of the others.
        assert_eq!(RunningMachine::read_others(&host.root(), Some(70)), []);
    }
}
