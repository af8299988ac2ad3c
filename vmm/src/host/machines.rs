//! Machines of berth that run on the host, and the CPUs that they have.
//!
//! The kernel knows: a vCPU's thread has its machine's name, and may run on one CPU. So nothing has
//! to be written down anywhere, and what has crashed has nothing. Everybody may read that of
//! everybody's processes, unless /proc hides them (`hidepid=`); those in other PID namespaces are
//! not to be seen.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::id_set::IdSet;
use super::root::Root;

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

impl RunningMachine {
    /// All but the one that this process is to become.
    pub(super) fn read_all(root: &Root) -> Vec<Self> {
        Self::read_others(root, root.is_live().then(std::process::id))
    }

    /// Waits for machines that have lost the process that started them: the kernel is ending those,
    /// and until it has they have CPUs and devices. No longer than `limit`.
    pub fn wait_for_orphans(limit: Duration) {
        let deadline = Instant::now() + limit;
        while has_orphans(&Relation::read_all(&Root::live())) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All but the one of process `own`.
    fn read_others(root: &Root, own: Option<u32>) -> Vec<Self> {
        // Other programs' processes belong in no snapshot.
        let quiet = Root::live();
        let look = if root.is_live() { &quiet } else { root };
        let names = look.names("/proc").unwrap_or_default();
        let pids = names.iter().filter_map(|name| name.parse().ok());
        let is_other = |pid: &u32| own != Some(*pid);
        let is_berth = |pid: &u32| {
            let comm = look.glance(format!("/proc/{pid}/comm")).unwrap_or_default();
            comm.starts_with(PROGRAM)
        };
        pids.filter(is_other).filter(is_berth).filter_map(|pid| Self::read(root, pid)).collect()
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

/// What tells a machine's process from the others of berth.
#[derive(Clone, Copy, Debug)]
struct Relation {
    pid: u32,
    parent: u32,
    /// It is the first process of a PID namespace, as a machine is, and what a container starts.
    is_first: bool,
    /// It has vCPUs. A machine that is being ended may have lost those, and have its devices still.
    has_vcpus: bool,
}

impl Relation {
    fn read_all(root: &Root) -> Vec<Self> {
        let names = root.names("/proc").unwrap_or_default();
        let pids = names.iter().filter_map(|name| name.parse().ok());
        pids.filter_map(|pid| Self::read(root, pid)).collect()
    }

    fn read(root: &Root, pid: u32) -> Option<Self> {
        let comm = root.glance(format!("/proc/{pid}/comm"))?;
        if !comm.starts_with(PROGRAM) {
            return None;
        }
        let status = root.glance(format!("/proc/{pid}/status"))?;
        let field = |key| status.lines().find_map(|line| line.strip_prefix(key));
        let numbers: Vec<&str> = field("NSpid:").unwrap_or_default().split_whitespace().collect();
        Some(Self {
            pid,
            parent: field("PPid:")?.trim().parse().ok()?,
            is_first: matches!(numbers.as_slice(), [_, .., "1"]),
            has_vcpus: RunningMachine::read(root, pid).is_some(),
        })
    }
}

/// Whether one of `berths` is a machine without the process that started it.
fn has_orphans(berths: &[Relation]) -> bool {
    let is_berth = |pid| berths.iter().any(|other| other.pid == pid);
    let has_child = |pid| berths.iter().any(|other| other.parent == pid);
    let is_machine = |one: &Relation| one.has_vcpus || one.is_first && !has_child(one.pid);
    berths.iter().any(|one| !is_berth(one.parent) && is_machine(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that was killed while its memory was filled held its group for as long as that took, and
    /// had no vCPU any more.
    #[test]
    fn a_machine_that_is_being_ended_is_an_orphan_with_vcpus_or_without() {
        let started = Relation { pid: 70, parent: 1, is_first: false, has_vcpus: false };
        let machine = Relation { pid: 71, parent: 70, is_first: true, has_vcpus: true };
        let helper = Relation { pid: 69, parent: 70, is_first: false, has_vcpus: false };
        assert!(!has_orphans(&[started, machine, helper]));
        let orphan = Relation { parent: 1, ..machine };
        assert!(has_orphans(&[helper, orphan]));
        assert!(has_orphans(&[Relation { has_vcpus: false, ..orphan }]));
        // Without namespaces of its own.
        assert!(has_orphans(&[Relation { is_first: false, ..orphan }]));
        // The first process of a container, with its machine.
        let first = Relation { pid: 90, parent: 89, is_first: true, has_vcpus: false };
        assert!(!has_orphans(&[first, Relation { pid: 91, parent: 90, ..machine }]));
    }

    #[test]
    fn a_process_tells_whose_child_it_is_and_whether_it_is_the_first() {
        let mut host = Fixture::server();
        host.file("/proc/71/comm", "berth");
        host.file("/proc/71/status", "Name:\tberth\nPPid:\t70\nNSpid:\t71\t1");
        host.file("/proc/72/comm", "sleep");
        host.file("/proc/72/status", "Name:\tsleep\nPPid:\t70\nNSpid:\t72\t1");
        let all = Relation::read_all(&host.root());
        assert!(matches!(
            all.as_slice(),
            [Relation { pid: 71, parent: 70, is_first: true, has_vcpus: false }]
        ));
    }
    use crate::host::fixture::Fixture;

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
