//! Resource limits, against what the machine's plan needs.

use super::{Case, Code, Finding};
use crate::advice;
use crate::advice::limits::{CgroupResource, cgroup_limit, cgroup_needs};
use crate::host::Capability;
use crate::plan::{Plan, threads};
use crate::units::Bytes;

const SOURCE: &str = "/proc/self/limits";

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let Some(plan) = case.plan() else {
        return Vec::new();
    };
    if case.facts.lacks.contains(&SOURCE) {
        let unknown = |code| Finding::unknown(code, SOURCE, "limits are not in the snapshot");
        let mut findings = vec![unknown(Code::MemlockLow), unknown(Code::FilesLow)];
        findings.extend(cgroups(case, plan));
        return findings;
    }
    let limits = &plan.limits;
    let mut findings = vec![memlock(case, limits.memlock), files(case, limits.open_files)];
    findings.extend(cgroups(case, plan));
    findings
}

fn memlock(case: &Case, need: u64) -> Finding {
    let code = Code::MemlockLow;
    let host = &case.facts.host;
    if host.process.has(Capability::IpcLock) {
        let seen = format!("{} are locked, and CAP_IPC_LOCK lifts the limit", Bytes(need));
        return Finding::pass(code, "/proc/self/status", seen);
    }
    match host.process.memlock {
        Some(limit) if limit < need => {
            let seen =
                format!("{} are locked, and RLIMIT_MEMLOCK is {}", Bytes(need), Bytes(limit));
            Finding::fail(code, SOURCE, seen).steps(advice::limits::locked_memory(host, need))
        }
        _ => Finding::pass(code, SOURCE, format!("{} may be locked", Bytes(need))),
    }
}

fn files(case: &Case, need: u64) -> Finding {
    let code = Code::FilesLow;
    let host = &case.facts.host;
    match host.process.open_files {
        Some(limit) if limit < need => {
            let seen = format!("up to {need} files are open, and RLIMIT_NOFILE is {limit}");
            Finding::fail(code, SOURCE, seen).steps(advice::limits::open_files(host, need))
        }
        _ => Finding::pass(code, SOURCE, format!("{need} files may be open")),
    }
}

/// What the cgroups of this process leave, against what the machine takes.
fn cgroups(case: &Case, plan: &Plan) -> Vec<Finding> {
    let host = &case.facts.host;
    let threads = threads(plan.vcpus.len() as u64);
    let memory = &plan.memory;
    let needs = cgroup_needs(memory.page_size, memory.size, threads);
    let judge = |(resource, need): (CgroupResource, u64)| {
        let code = resource.code();
        match cgroup_limit(host, resource) {
            Some(limit) if limit.room < need => {
                Finding::failed(code, advice::limits::cgroup(host, resource, need, limit))
            }
            Some(limit) => {
                let seen = format!("the cgroup leaves {}", resource.amount(limit.room));
                Finding::pass(code, limit.file.clone(), seen)
            }
            None if case.facts.lacks.contains(&"/proc/self/status") => {
                let seen = "the cgroup of a process is not in the snapshot";
                Finding::unknown(code, "/proc/self/cgroup", seen)
            }
            None => Finding::pass(code, "/sys/fs/cgroup", "no cgroup limits it"),
        }
    };
    needs.into_iter().map(judge).collect()
}
