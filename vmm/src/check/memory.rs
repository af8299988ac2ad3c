//! Guest memory: its pages, the addresses it may have, and what else the host does with memory.

use super::{Case, Code, Finding, Fix, Severity};
use crate::advice;
use crate::plan::NodePages;
use crate::units::{PageSize, Seen};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let pages: Vec<Finding> = match (case.config, case.plan()) {
        (Some(config), Some(_)) if config.memory.page_size == PageSize::Size4K => {
            vec![small_pages(case)]
        }
        (Some(config), Some(plan)) => {
            let larger = case.shortfalls(
                Code::SmallPages,
                "berth plan",
                format!("memory is of {} pages", config.memory.page_size),
            );
            let parts = plan.memory.pages.iter();
            parts.map(|part| pages(case, config.memory.page_size, part)).chain(larger).collect()
        }
        _ => Vec::new(),
    };
    // Enough of them where they are needed is none elsewhere.
    let near = pages.iter().filter(|finding| finding.severity == Severity::Pass);
    let near = near.filter(|finding| finding.code == Code::HugepagesShort).cloned();
    let near = near.map(|finding| Finding { code: Code::HugepagesElsewhere, ..finding });
    let near: Vec<Finding> = near.collect();
    pages.into_iter().chain(near).chain(holes(case)).collect()
}

/// What one node is to give.
fn pages(case: &Case, size: PageSize, part: &NodePages) -> Finding {
    let code = Code::HugepagesShort;
    let need = part.pages;
    // A kernel without NUMA has all on its only node.
    let node = part.node.unwrap_or_default();
    let host = &case.facts.host;
    let memory = &host.memory;
    let source = size.pool(Some(node));
    let Some(pool) = memory.nodes.get(&node).and_then(|node| node.pools.get(&size)) else {
        if case.facts.lacks.contains(&"/sys/kernel/mm/hugepages") {
            return Finding::unknown(code, source, "pools of huge pages are not in the snapshot");
        }
        return Finding::fail(code, source, format!("the kernel has no pool of {size} pages"))
            .steps(advice::memory::no_pool(host, size));
    };
    let promised = memory.unreserved(size).unwrap_or_default();
    if pool.free >= need && promised >= need {
        let seen =
            format!("node {node} has {} free {size} pages, and {need} are needed", pool.free);
        return Finding::pass(code, source, seen);
    }
    if pool.free >= need {
        return Finding::failed(code, advice::memory::promised(size, need, promised));
    }
    let (code, advice) = advice::memory::short(host, size, node, need);
    let pages = pool.total + need - pool.free;
    let fix = Fix::ReservePages { node: memory.numa.then_some(node), size, pages };
    Finding::failed(code, advice).fix(fix)
}

fn small_pages(case: &Case) -> Finding {
    const SOURCE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let code = Code::SmallPages;
    match case.facts.settings.shmem_huge.as_deref() {
        Some(mode @ ("always" | "within_size" | "force")) => {
            let seen =
                format!("memory.page_size is 4K, and the kernel makes huge pages of it ({mode})");
            Finding::pass(code, SOURCE, seen)
        }
        None if !case.facts.live => Finding::unknown(
            code,
            SOURCE,
            "whether small pages become huge ones is not in the snapshot",
        ),
        mode => {
            let seen = format!(
                "memory.page_size is 4K, and the kernel makes no huge pages of it ({})",
                mode.unwrap_or("it has none for shared memory")
            );
            Finding::warn(code, SOURCE, seen).steps(larger(case))
        }
    }
}

/// What the plan says of larger pages, else the next larger ones.
fn larger(case: &Case) -> Vec<String> {
    let shortfalls = case.plan().map(|plan| plan.shortfalls.as_slice()).unwrap_or_default();
    let of_pages = shortfalls.iter().find(|finding| finding.code == Code::SmallPages);
    match of_pages {
        Some(finding) => finding.remedy.clone(),
        None => vec!["set memory.page_size to \"2M\"".to_owned()],
    }
}

/// Reserved regions below the interrupt window are what breaks up guest memory.
fn holes(case: &Case) -> Option<Finding> {
    let code = Code::IovaHoles;
    let source = "/sys/kernel/iommu_groups/*/reserved_regions";
    case.groups().next()?;
    if case.groups().any(|group| !group.is_seen()) {
        return Some(Finding::unknown(code, source, "what DMA cannot use was not seen"));
    }
    let interrupts = 0xfee0_0000..=0xfeef_ffff;
    let regions =
        case.groups().flat_map(|group| &group.reserved).filter(|region| region.excludes_ram());
    let others = regions.filter(|region| region.range != interrupts);
    let holes: Vec<String> = others
        .map(|region| {
            let (first, last) = (region.range.start(), region.range.end());
            format!("{first:#x}-{last:#x} ({})", region.kind)
        })
        .collect();
    if holes.is_empty() {
        return Some(Finding::pass(code, source, "only the interrupt window is left out"));
    }
    let seen = format!("left out for DMA: {}", holes.join(", "));
    // RAM goes around them; what counts is whether it had to.
    let end = case.plan().and_then(|plan| plan.memory.regions.last()).map_or(0, |r| r.guest.end);
    let hit = case.groups().flat_map(|group| &group.reserved).any(|region| {
        region.excludes_ram() && region.range != interrupts && *region.range.start() < end
    });
    Some(if hit {
        Finding::warn(code, source, seen)
            .step("berth places guest memory around them; `berth plan` shows how")
    } else {
        Finding::pass(code, source, format!("{seen}; guest memory stays below"))
    })
}

/// What the host does with memory beside the machine.
pub(super) fn host(case: &Case) -> Vec<Finding> {
    vec![balloon(case), ksm(case), numa_balancing(case)]
}

fn balloon(case: &Case) -> Finding {
    const SOURCE: &str = "/sys/bus/virtio/drivers/virtio_balloon, /sys/module/vmw_balloon";
    let code = Code::Balloon;
    match case.facts.settings.balloons.as_slice() {
        [] if !case.facts.has_drivers() => {
            Finding::unknown(code, SOURCE, "the host's drivers are not in the snapshot")
        }
        [] => Finding::pass(code, SOURCE, "no hypervisor takes this host's memory back"),
        drivers => {
            Finding::warn(code, SOURCE, format!("this host has a balloon ({})", drivers.join(", ")))
                .step("take the balloon out of this host's own virtual machine")
        }
    }
}

fn ksm(case: &Case) -> Finding {
    const SOURCE: &str = "/sys/kernel/mm/ksm/run";
    let code = Code::Ksm;
    match case.facts.settings.ksm {
        Seen::Yes => Finding::warn(code, SOURCE, "ksmd merges pages").step(format!(
            "`echo 0 > {SOURCE}`, and `systemctl disable --now ksm ksmtuned` where there are such"
        )),
        Seen::No => Finding::pass(code, SOURCE, "ksmd does not run"),
        Seen::Unknown => Finding::unknown(code, SOURCE, "whether ksmd runs cannot be seen"),
    }
}

fn numa_balancing(case: &Case) -> Finding {
    const SOURCE: &str = "/proc/sys/kernel/numa_balancing";
    let code = Code::NumaBalancing;
    match case.facts.settings.numa_balancing {
        Seen::Yes => Finding::warn(code, SOURCE, "the kernel balances memory between nodes")
            .step("`sysctl kernel.numa_balancing=0`, and a file in /etc/sysctl.d to keep it"),
        Seen::No => Finding::pass(code, SOURCE, "the kernel leaves memory where it is"),
        Seen::Unknown => {
            Finding::unknown(code, SOURCE, "whether the kernel balances memory cannot be seen")
        }
    }
}
