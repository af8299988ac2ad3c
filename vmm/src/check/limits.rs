//! Resource limits, against what the machine's plan needs.

use super::code::Code;
use super::{Case, Finding};
use crate::host::Capability;
use crate::plan::Bytes;

const SOURCE: &str = "/proc/self/limits";

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let Some(plan) = case.plan() else {
        return Vec::new();
    };
    if case.facts.lacks.contains(&SOURCE) {
        let unknown = |code| Finding::unknown(code, SOURCE, "limits are not in the snapshot");
        return vec![unknown(Code::MemlockLow), unknown(Code::FilesLow)];
    }
    let limits = &plan.limits;
    vec![memlock(case, limits.memlock), files(case, limits.open_files)]
}

fn memlock(case: &Case, need: u64) -> Finding {
    let code = Code::MemlockLow;
    let process = &case.facts.host.process;
    if process.has(Capability::IpcLock) {
        let seen = format!("{} are locked, and CAP_IPC_LOCK lifts the limit", Bytes(need));
        return Finding::pass(code, "/proc/self/status", seen);
    }
    match process.memlock {
        Some(limit) if limit < need => {
            let seen =
                format!("{} are locked, and RLIMIT_MEMLOCK is {}", Bytes(need), Bytes(limit));
            Finding::fail(code, SOURCE, seen)
                .step(format!("`ulimit -l {}`, from a shell that may", need.div_ceil(1024)))
                .step(format!("or `LimitMEMLOCK={need}` in berth's systemd unit"))
                .step(format!(
                    "or `USER - memlock {}` in /etc/security/limits.conf",
                    need.div_ceil(1024)
                ))
        }
        _ => Finding::pass(code, SOURCE, format!("{} may be locked", Bytes(need))),
    }
}

fn files(case: &Case, need: u64) -> Finding {
    let code = Code::FilesLow;
    match case.facts.host.process.open_files {
        Some(limit) if limit < need => {
            let seen = format!("up to {need} files are open, and RLIMIT_NOFILE is {limit}");
            Finding::fail(code, SOURCE, seen).step(format!(
                "`ulimit -n {need}`, or `LimitNOFILE={need}` in berth's systemd unit"
            ))
        }
        _ => Finding::pass(code, SOURCE, format!("{need} files may be open")),
    }
}
