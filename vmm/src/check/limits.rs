//! Resource limits, against what the machine's plan needs.

use super::{Case, Code, Finding};
use crate::advice;
use crate::host::Capability;
use crate::units::Bytes;

const SOURCE: &str = "/proc/self/limits";

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let Some(plan) = case.plan() else {
        return Vec::new();
    };
    if case.facts.lacks.contains(&SOURCE) {
        let unknown = |code| Finding::unknown(code, SOURCE, "limits are not in the capture");
        return vec![unknown(Code::MemlockLow), unknown(Code::FilesLow)];
    }
    let limits = &plan.limits;
    vec![memlock(case, limits.memlock), files(case, limits.open_files)]
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
