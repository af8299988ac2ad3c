//! Whether vCPUs may keep their CPUs while they idle.

use crate::advice::Code;
use crate::plan::{Plan, PlanError};

/// Whoever shares a CPU with a vCPU that never gives it away would hardly run: berth's own threads, or
/// another machine.
pub fn check_dedicated(plan: &Plan) -> Result<(), PlanError> {
    let shares = |code| matches!(code, Code::CpuOfVmm | Code::CpuSharedByMachines);
    match plan.shortfalls.iter().find(|found| shares(found.code)) {
        Some(found) if plan.dedicated => {
            Err(PlanError::CpuShared { shared: found.seen.clone(), steps: found.remedy.clone() })
        }
        _ => Ok(()),
    }
}
