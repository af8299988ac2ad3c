//! Faults that one machine meets: its pages, its limits, its CPUs.

use serde_json::json;

use crate::check::{Case, FAULT};

pub const CASES: &[Case] = &[
    Case {
        name: "small pages",
        code: "SMALL-PAGES",
        seen: &["page_size is 4K"],
        source: "shmem_enabled",
        remedy: &["memory.page_size to \"1G\""],
        ..FAULT
    },
    Case {
        name: "no huge pages",
        host: [
            "",
            "echo 0 >/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
        ],
        config: |usual| usual.page_size("2M"),
        code: "HUGEPAGES-SHORT",
        severity: "fail",
        seen: &["128 2M pages are needed on node 1, which has 0 free of 0"],
        source: "/sys/devices/system/node/node1/hugepages/hugepages-2048kB",
        remedy: &[
            "echo 128 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
        ],
        cured: true,
        ..FAULT
    },
    Case {
        name: "huge pages on the other node",
        config: |usual| usual.huge_memory(1024),
        code: "HUGEPAGES-ELSEWHERE",
        severity: "fail",
        seen: &["1 1G pages are needed on node 1, which has 0 free of 0; node 0 has 1"],
        source: "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB",
        remedy: &[
            "echo 1 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages",
            "put `hugepagesz=1G hugepages=0:1,1:1` in place of `hugepagesz=1G hugepages=0:1`",
        ],
        ..FAULT
    },
    Case {
        name: "little memory may be locked",
        host: [
            "chmod 666 /dev/kvm; chown 1000 /dev/vfio/GROUP",
            "chmod 600 /dev/kvm; chown 0 /dev/vfio/GROUP",
        ],
        run: "ulimit -l 1024; su user -c 'berth check CONFIG --json'",
        code: "MEMLOCK-LOW",
        severity: "fail",
        seen: &["256 MiB are locked, and RLIMIT_MEMLOCK is 1 MiB"],
        source: "/proc/self/limits",
        remedy: &["`ulimit -l 262144`", "LimitMEMLOCK=268435456"],
        ..FAULT
    },
    Case {
        name: "few files may be open",
        run: "ulimit -n 48; berth check CONFIG --json",
        code: "FILES-LOW",
        severity: "fail",
        seen: &["RLIMIT_NOFILE is 48"],
        source: "/proc/self/limits",
        remedy: &["`ulimit -n ", "LimitNOFILE="],
        ..FAULT
    },
    Case {
        name: "an affinity without a CPU",
        run: "taskset 7 berth check CONFIG --json",
        config: |usual| usual.set("/vcpus", 1),
        code: "CPU-NOT-ALLOWED",
        seen: &["may use CPUs 0-2, not 3"],
        source: "/proc/self/status",
        remedy: &["cpuset.cpus"],
        ..FAULT
    },
    Case {
        name: "a cpuset without two CPUs",
        host: [
            "mount -t cgroup2 none /sys/fs/cgroup; echo +cpuset >/sys/fs/cgroup/cgroup.subtree_control
             mkdir /sys/fs/cgroup/b; echo 0-1 >/sys/fs/cgroup/b/cpuset.cpus",
            "rmdir /sys/fs/cgroup/b; echo -cpuset >/sys/fs/cgroup/cgroup.subtree_control
             umount /sys/fs/cgroup",
        ],
        run: "sh -c 'echo $$ >/sys/fs/cgroup/b/cgroup.procs; exec berth check CONFIG --json'",
        code: "CPU-NOT-ALLOWED",
        seen: &["may use CPUs 0-1, not 2-3"],
        source: "/proc/self/status",
        remedy: &["cpuset.cpus"],
        ..FAULT
    },
    Case {
        name: "vCPUs on the other node",
        config: |usual| usual.set("/placement", json!({ "cpus": [0, 1] })),
        code: "CPU-FAR",
        seen: &["CPUs 0-1 are not on node 1, where the memory is"],
        source: "/sys/devices/system/node",
        remedy: &["\"auto\""],
        ..FAULT
    },
    Case {
        name: "the host runs on a vCPU's core",
        host: ["", "echo 1 >/sys/devices/system/cpu/cpu3/online"],
        config: |usual| usual.set("/vcpus", 1).set("/placement", json!({ "cpus": [2] })),
        code: "CPU-SMT-SHARED",
        seen: &["CPUs 3, siblings of vCPUs'"],
        source: "thread_siblings_list",
        remedy: &["echo 0 > /sys/devices/system/cpu/cpu3/online"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "no CPU is isolated",
        code: "CPU-NOT-ISOLATED",
        seen: &["the vCPUs' cores, CPUs 2-3"],
        source: "/sys/devices/system/cpu/isolated",
        remedy: &["isolcpus=managed_irq,domain,2-3"],
        ..FAULT
    },
    Case {
        name: "new interrupts land on vCPUs",
        config: |usual| usual.set("/placement", json!({ "interrupt_cpus": "off" })),
        host: ["echo f >/proc/irq/default_smp_affinity", "echo f >/proc/irq/default_smp_affinity"],
        code: "IRQ-ON-VCPU",
        seen: &["CPUs 2-3 are vCPUs'"],
        source: "/proc/irq/default_smp_affinity",
        remedy: &["echo 00000003 >"],
        cured: true,
        ..FAULT
    },
    Case {
        name: "more vCPUs than CPUs",
        config: |usual| usual.set("/vcpus", 9),
        code: "PLAN-REFUSED",
        severity: "fail",
        seen: &["9 vCPUs need 9 CPUs"],
        source: "berth plan",
        remedy: &["lower vcpus"],
        ..FAULT
    },
];
