//! Faults of the host for one machine: its pages, its limits, its CPUs and their interrupts.

use super::*;
use crate::config::CpuChoice;
use crate::host::IdSet;

const POOL: &str = "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB";

#[test]
fn pages_are_short_or_elsewhere() {
    let elsewhere = fault(Code::HugepagesElsewhere, |host| {
        host.file(&format!("{POOL}/free_hugepages"), "1");
    });
    let seen = "2 1G pages are needed on node 1, which has 1 free of 8; node 0 has 8";
    fails(&elsewhere, seen, POOL, &format!("echo 9 > {POOL}/nr_hugepages"));
    assert!(
        elsewhere.remedy.iter().any(|step| step.contains("hugepages=0:8,1:9")),
        "{elsewhere:?}"
    );
    let fix = Fix::ReservePages { node: Some(1), size: PageSize::Size1G, pages: 9 };
    assert_eq!(elsewhere.fix, Some(fix));

    let reserved = fault(Code::HugepagesElsewhere, |host| {
        host.file(&format!("{POOL}/free_hugepages"), "1");
        host.file("/proc/cmdline", "hugepagesz=2M hugepages=64 hugepagesz=1G hugepages=16 quiet");
    });
    let step = "put `hugepagesz=1G hugepages=0:8,1:9` in place of `hugepagesz=1G hugepages=16`";
    fails(&reserved, "node 1", POOL, step);

    let short = fault(Code::HugepagesShort, |host| {
        host.file(&format!("{POOL}/free_hugepages"), "0");
        host.file(&format!("{POOL}/free_hugepages").replace("node1", "node0"), "0");
    });
    fails(&short, "0 free of 8", POOL, "echo 10 >");
    let promised = fault(Code::HugepagesShort, |host| {
        host.file("/sys/kernel/mm/hugepages/hugepages-1048576kB/resv_hugepages", "15");
    });
    fails(&promised, "all but 1 are promised", "resv_hugepages", "end a process");
}

#[test]
fn small_pages_are_slow() {
    let facts = facts(|_| ());
    let finding = of_machine(Code::SmallPages, &facts, &config("4K", 512));
    warns(&finding, "4K", "shmem_enabled", "page_size");
}

#[test]
fn guest_memory_goes_around_holes() {
    let finding = fault(Code::IovaHoles, |host| {
        let regions = "0x40000000 0x4000ffff reserved\n0xfee00000 0xfeefffff msi";
        host.file("/sys/kernel/iommu_groups/14/reserved_regions", regions);
    });
    warns(&finding, "0x40000000-0x4000ffff (reserved)", "reserved_regions", "berth plan");
    let facts = facts(|host| {
        let far = "0xfd00000000 0xffffffffff reserved";
        host.file("/sys/kernel/iommu_groups/14/reserved_regions", far);
    });
    let report = Report::new(&facts, Some(&config("1G", 2048)));
    let holes = report.findings.iter().find(|finding| finding.code == Code::IovaHoles);
    let holes = holes.expect("a finding");
    assert_eq!(holes.severity, Severity::Pass);
    assert!(holes.seen.ends_with("guest memory stays below"), "{holes:?}");
}

#[test]
fn limits_are_those_of_the_machine() {
    let limits = |memlock: &str, files: &str| {
        format!("Max locked memory  1  {memlock}  bytes\nMax open files  1  {files}  files")
    };
    let memlock = fault(Code::MemlockLow, |host| {
        host.file("/proc/self/limits", &limits("8388608", "1024"));
    });
    fails(
        &memlock,
        "2 GiB are locked, and RLIMIT_MEMLOCK is 8 MiB",
        "limits",
        "LimitMEMLOCK=2147483648",
    );
    // As it is, however small.
    let memlock = fault(Code::MemlockLow, |host| {
        host.file("/proc/self/limits", &limits("16384", "1024"));
    });
    fails(&memlock, "RLIMIT_MEMLOCK is 16 KiB", "limits", "ulimit -l");
    let files = fault(Code::FilesLow, |host| {
        host.file("/proc/self/limits", &limits("unlimited", "64"));
    });
    fails(&files, "RLIMIT_NOFILE is 64", "limits", "ulimit -n");
    let unseen = fault(Code::FilesLow, |host| {
        host.remove("/proc/self/limits");
    });
    assert_eq!(unseen.severity, Severity::Unknown);
}

#[test]
fn cpus_that_others_use() {
    let shared = facts(|host| {
        host.file("/sys/devices/system/cpu/isolated", "4,5");
    });
    let mut config = config("1G", 2048);
    config.placement.cpus = CpuChoice::Named(vec![4, 5]);
    let finding = of_machine(Code::CpuSmtShared, &shared, &config);
    warns(&finding, "CPUs 12-13, siblings", "thread_siblings_list", "cpu12/online");

    let open = fault(Code::CpuNotIsolated, |host| {
        host.file("/sys/devices/system/cpu/isolated", "");
    });
    warns(
        &open,
        "the host may run others on the vCPUs' cores, CPUs 4,12",
        "isolated",
        "isolcpus=managed_irq,domain,4,12",
    );
    let others = fault(Code::CpuNotIsolated, |host| {
        host.file("/sys/devices/system/cpu/isolated", "5-7,12-15");
    });
    warns(&others, "cores, CPUs 4", "isolated", "placement.cpus: 5-7,12-15");

    let far = facts(|_| ());
    config.placement.cpus = CpuChoice::Named(vec![0, 12]);
    let finding = of_machine(Code::CpuFar, &far, &config);
    warns(&finding, "CPUs 0 are not on node 1", "cpulist", "auto");

    let cpuset = fault(Code::CpuNotAllowed, |host| {
        host.file("/proc/self/status", "Cpus_allowed_list:\t2-15\nMems_allowed_list:\t0-1");
    });
    warns(&cpuset, "not 0-1", "/proc/self/status", "cpuset.cpus");
}

#[test]
fn interrupts_on_vcpus() {
    let new = fault(Code::IrqOnVcpu, |host| {
        host.file("/proc/irq/default_smp_affinity", "ffff");
    });
    warns(&new, "CPUs 4,12 are vCPUs'", "default_smp_affinity", "echo 0000efef >");
    let landed = fault(Code::IrqOnVcpu, |host| {
        host.of(NIC.address, "msi_irqs/77", "msix")
            .file("/proc/irq/77/effective_affinity_list", "12");
    });
    warns(&landed, "interrupt 77 lands on CPU 12", "/proc/irq/77", "smp_affinity_list");

    // Root's berth keeps them away by itself.
    let steered = facts(|host| {
        host.file("/proc/irq/default_smp_affinity", "ffff").file(
            "/proc/self/status",
            "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-15\nMems_allowed_list:\t0-1",
        );
    });
    let report = Report::new(&steered, Some(&config("1G", 2048)));
    let finding = report.findings.iter().find(|finding| finding.code == Code::IrqOnVcpu);
    let finding = finding.expect("a finding");
    assert_eq!(finding.severity, Severity::Pass, "{finding:?}");
    assert!(
        finding.seen.starts_with("berth steers the devices' interrupts to CPUs "),
        "{finding:?}"
    );

    let balance = fault(Code::Irqbalance, |host| {
        host.remove("/etc/default/irqbalance").file("/sys/devices/system/cpu/isolated", "");
    });
    warns(&balance, "may use CPUs 4,12", "irqbalance", "IRQBALANCE_BANNED_CPULIST=4,12");
    assert!(balance.remedy[0].contains("/etc/default/irqbalance"), "{balance:?}");
}

#[test]
fn vectors_run_out() {
    let mut facts = facts(|_| ());
    let nic = NIC.address.parse().expect("an address");
    let of_nic = |facts: &mut Facts, vectors| {
        let listed = facts.host.functions.read.get_mut(&nic).expect("the NIC");
        listed.function.msix_vectors = vectors;
    };
    of_nic(&mut facts, Some(2048));
    facts.host.cpus.online = IdSet::from_iter([0, 4, 5, 12]);
    let finding = of_facts(Code::VectorsMany, &facts);
    warns(&finding, "up to 2048 vectors, and the CPUs have some 800", "config", "fewer queues");
    of_nic(&mut facts, None);
    assert_eq!(of_facts(Code::VectorsMany, &facts).severity, Severity::Unknown);
}

#[test]
fn what_only_the_plan_refuses() {
    let facts = facts(|_| ());
    let mut config = config("1G", 2048);
    config.placement.cpus = CpuChoice::Named(vec![4, 99]);
    let finding = of_machine(Code::PlanRefused, &facts, &config);
    fails(&finding, "CPU 99", "berth plan", "cpu99/online");
}
