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
        let root = Root::live();
        let deadline = Instant::now() + limit;
        let is_orphan = |machine: &Self| {
            let status = root.glance(format!("/proc/{}/status", machine.pid)).unwrap_or_default();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            let parent = parent.map(|pid| format!("/proc/{}/comm", pid.trim()));
            let name = parent.and_then(|comm| root.glance(comm));
            !name.is_some_and(|name| name.starts_with(PROGRAM))
        };
        while Self::read_all(&root).iter().any(is_orphan) && Instant::now() < deadline {
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

#[cfg(test)]
mod tests {
    use super::*;
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
