//! Guest memory: its pages, the addresses it may have, and what else the host does with memory.

use super::code::Code;
use super::{Case, Finding, Fix, Severity};
use crate::plan::NodePages;
use crate::units::PageSize;

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let pages: Vec<Finding> = match (case.config, case.plan()) {
        (Some(config), Some(_)) if config.memory.page_size == PageSize::Size4K => {
            vec![small_pages(case)]
        }
        (Some(config), Some(plan)) => {
            let parts = plan.memory.pages.iter();
            parts.filter_map(|part| pages(case, config.memory.page_size, part)).collect()
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
fn pages(case: &Case, size: PageSize, part: &NodePages) -> Option<Finding> {
    let code = Code::HugepagesShort;
    let need = part.pages;
    // A kernel without NUMA has all on its only node.
    let node = part.node.unwrap_or_default();
    let memory = &case.facts.host.memory;
    let folder = size.pool_folder();
    let source = format!("/sys/devices/system/node/node{node}/hugepages/{folder}");
    let Some(pool) = memory.nodes.get(&node).and_then(|node| node.pools.get(&size)) else {
        let finding =
            Finding::fail(code, source, format!("the kernel has no pool of {size} pages"));
        return Some(if case.facts.host.cpus.gigabyte_pages == Some(false) {
            finding.step("the CPUs have no 1 GiB pages (pdpe1gb): set memory.page_size to \"2M\"")
        } else {
            finding.step("set memory.page_size to \"2M\" or \"4K\"")
        });
    };
    let promised = memory.unreserved(size).unwrap_or_default();
    if pool.free >= need && promised >= need {
        let seen =
            format!("node {node} has {} free {size} pages, and {need} are needed", pool.free);
        return Some(Finding::pass(code, source, seen));
    }
    if pool.free >= need {
        let seen = format!("{need} {size} pages are needed, and all but {promised} are promised");
        return Some(
            Finding::fail(code, format!("/sys/kernel/mm/hugepages/{folder}/resv_hugepages"), seen)
                .step(format!("end a process that uses {size} pages, or reserve more")),
        );
    }
    let elsewhere: u64 = memory
        .nodes
        .iter()
        .filter(|(id, _)| **id != node)
        .filter_map(|(_, node)| node.pools.get(&size))
        .map(|pool| pool.free)
        .sum();
    let code = if elsewhere + pool.free >= need { Code::HugepagesElsewhere } else { code };
    let others = memory.nodes.iter().filter(|(id, _)| **id != node).filter_map(|(id, node)| {
        let free = node.pools.get(&size)?.free;
        (free > 0).then(|| format!("; node {id} has {free}"))
    });
    let seen = format!(
        "{need} {size} pages are needed on node {node}, which has {} free of {}{}",
        pool.free,
        pool.total,
        others.collect::<String>()
    );
    let pages = pool.total + need - pool.free;
    let finding = Finding::fail(code, source.clone(), seen)
        .step(format!("`echo {pages} > {source}/nr_hugepages`"))
        .fix(Fix::ReservePages { node: memory.numa.then_some(node), size, pages });
    Some(match size {
        // Memory fragments: 1 GiB of it in one piece is soon found only at boot.
        PageSize::Size1G => {
            let (parameter, old) = at_boot(case, node, pages);
            let old = old.as_deref();
            let steps = super::remedy::kernel_parameters(&case.facts.system, &parameter, old);
            finding.step("or, when memory is too fragmented for that, at boot:").steps(steps)
        }
        PageSize::Size2M | PageSize::Size4K => finding,
    })
}

/// The kernel's parameters for `pages` 1 GiB pages on `node` besides those that other nodes have,
/// and the ones to replace: of two `hugepages=` for one size the kernel takes the last (kernel,
/// Documentation/admin-guide/kernel-parameters.txt).
fn at_boot(case: &Case, node: u32, pages: u64) -> (String, Option<String>) {
    let memory = &case.facts.host.memory;
    if !memory.numa {
        return (format!("hugepagesz=1G hugepages={pages}"), reserved_at_boot(case));
    }
    let total =
        |node: &crate::host::Node| node.pools.get(&PageSize::Size1G).map_or(0, |pool| pool.total);
    let wanted = memory.nodes.iter().map(|(id, other)| {
        let pages = if *id == node { pages } else { total(other) };
        (*id, pages)
    });
    let old = reserved_at_boot(case);
    let wanted = wanted.filter(|(id, pages)| *pages > 0 && (old.is_some() || *id == node));
    let wanted: Vec<String> = wanted.map(|(id, pages)| format!("{id}:{pages}")).collect();
    (format!("hugepagesz=1G hugepages={}", wanted.join(",")), old)
}

/// `hugepagesz=1G hugepages=...`, as it is on the command line.
fn reserved_at_boot(case: &Case) -> Option<String> {
    let words = case.facts.host.command_line.words();
    let words: Vec<&str> = words.filter(|word| word.starts_with("hugepages")).collect();
    let pair = words.windows(2).find(|pair| {
        matches!(pair[0], "hugepagesz=1G" | "hugepagesz=1g") && pair[1].starts_with("hugepages=")
    });
    pair.map(|pair| pair.join(" "))
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
        mode => {
            let seen = format!(
                "memory.page_size is 4K, and the kernel makes no huge pages of it ({})",
                mode.unwrap_or("not to be seen")
            );
            Finding::warn(code, SOURCE, seen).step("set memory.page_size to \"2M\" or \"1G\"")
        }
    }
}

/// Reserved regions below the interrupt window are what breaks up guest memory.
fn holes(case: &Case) -> Option<Finding> {
    let code = Code::IovaHoles;
    let source = "/sys/kernel/iommu_groups/*/reserved_regions";
    case.groups().next()?;
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
        Some(true) => Finding::warn(code, SOURCE, "ksmd merges pages").step(format!(
            "`echo 0 > {SOURCE}`, and `systemctl disable --now ksm ksmtuned` where there are such"
        )),
        Some(false) => Finding::pass(code, SOURCE, "ksmd does not run"),
        None => Finding::pass(code, SOURCE, "the kernel has no KSM, or does not show it"),
    }
}

fn numa_balancing(case: &Case) -> Finding {
    const SOURCE: &str = "/proc/sys/kernel/numa_balancing";
    let code = Code::NumaBalancing;
    match case.facts.settings.numa_balancing {
        Some(true) => Finding::warn(code, SOURCE, "the kernel balances memory between nodes")
            .step("`sysctl kernel.numa_balancing=0`, and a file in /etc/sysctl.d to keep it"),
        Some(false) => Finding::pass(code, SOURCE, "the kernel leaves memory where it is"),
        None => {
            Finding::pass(code, SOURCE, "the kernel does not balance memory, or does not show it")
        }
    }
}
