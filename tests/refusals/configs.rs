//! Configs that describe no machine, or none that this host can run.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Case, check_all, config};
use crate::harness;

fn devices(addresses: &[&str]) -> Value {
    addresses.iter().map(|address| json!({ "address": address })).collect()
}

const TEXT: &[Case] = &[
    Case {
        run: "berth run /nowhere/vm.json",
        ..config(
            "no config file",
            |good| good.to_string(),
            2,
            &["/nowhere/vm.json", "No such file", "help: "],
        )
    },
    Case {
        run: "berth run /tmp",
        ..config(
            "the config is a directory",
            |good| good.to_string(),
            2,
            &["/tmp", "Is a directory", "help: "],
        )
    },
    config(
        "truncated JSON",
        |good| good.to_string()[..40].to_owned(),
        2,
        &["CONFIG:", "EOF", "help: "],
    ),
    config("not JSON", |_| "vcpus = 2".into(), 2, &["CONFIG:1:1: ", "expected", "help: "]),
    config("an empty file", |_| String::new(), 2, &["CONFIG:", "EOF", "help: "]),
    config(
        "wrong type",
        |good| good.set("/vcpus", "two").to_string(),
        2,
        &["CONFIG:", "vcpus: ", "\"two\"", "expected a number of vCPUs"],
    ),
    config(
        "unknown field",
        |good| good.set("/vcpu", 2).to_string(),
        2,
        &["CONFIG:", "unknown field `vcpu`", "expected one of"],
    ),
    config(
        "missing field",
        |_| r#"{"name": "vm", "vcpus": 2}"#.into(),
        2,
        &["CONFIG:", "missing field", "help: "],
    ),
    config(
        "negative",
        |good| good.set("/memory/size_mib", -512).to_string(),
        2,
        &["memory.size_mib: ", "-512", "expected a size in MiB"],
    ),
    config(
        "no vCPUs",
        |good| good.set("/vcpus", 0).to_string(),
        2,
        &["vcpus: ", "`0`", "expected a number of vCPUs from 1 to 255"],
    ),
    config(
        "no memory",
        |good| good.set("/memory/size_mib", 0).to_string(),
        2,
        &["memory.size_mib: ", "`0`", "expected a size in MiB from 64"],
    ),
    config(
        "not a multiple of the page size",
        |good| good.huge_memory(1500).to_string(),
        2,
        &["memory: ", "size_mib 1500 is not a multiple", "expected 1024 or 2048, or a smaller"],
    ),
    config(
        "bad PCI address",
        |good| good.set("/devices/0/address", "21:00").to_string(),
        2,
        &["devices[0].address: ", "21:00", "expected"],
    ),
    config(
        "the same device twice",
        |good| good.set("/devices", devices(&["NIC", "NIC"])).to_string(),
        2,
        &["devices", "NIC", "name it once"],
    ),
    config(
        "unknown page size",
        |good| good.page_size("1M").to_string(),
        2,
        &["memory.page_size: ", "1M", "expected"],
    ),
    config(
        "bad name",
        |good| good.set("/name", "a/b").to_string(),
        2,
        &["name: ", "a/b", "expected"],
    ),
    config(
        "bad console",
        |good| good.set("/console", "pty").to_string(),
        2,
        &["console: ", "\"pty\"", "expected `stdio`, `off`"],
    ),
];

/// Configs that are sound, for another host.
const HOST: &[Case] = &[
    config(
        "missing kernel",
        |good| good.set("/kernel", "/lab/none").to_string(),
        3,
        &["kernel /lab/none does not exist", "help: "],
    ),
    config(
        "the kernel is a directory",
        |good| good.set("/kernel", "/lab").to_string(),
        3,
        &["kernel /lab is a directory", "help: "],
    ),
    config(
        "the kernel is text",
        |good| good.set("/kernel", "/init").to_string(),
        3,
        &["kernel /init is ", "help: berth boots a 64-bit x86 bzImage"],
    ),
    Case {
        host: ["gzip -c /init >/tmp/init.gz", "rm /tmp/init.gz"],
        ..config(
            "the kernel is compressed",
            |good| good.set("/kernel", "/tmp/init.gz").to_string(),
            3,
            &["kernel /tmp/init.gz is gzip-compressed data", "decompress it first"],
        )
    },
    config(
        "missing initrd",
        |good| good.set("/initrd", "/lab/none").to_string(),
        3,
        &["initrd /lab/none does not exist", "help: "],
    ),
    config(
        "command line too long",
        |good| good.parameter(&"x".repeat(2048)).to_string(),
        3,
        &["cmdline is ", "the kernel reads 2047", "help: shorten cmdline"],
    ),
    config(
        "memory smaller than the initrd and kernel",
        |good| good.kernel("6.12").set("/memory/size_mib", 64).to_string(),
        3,
        &["kernel and initrd need", "the guest has 64 MiB", "help: raise memory.size_mib"],
    ),
    config(
        "too few huge pages",
        |good| good.huge_memory(3072).to_string(),
        3,
        &[
            "needs 3 free 1G pages on node 1, which has 2 of 2",
            "help: `echo 3 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages`",
        ],
    ),
    config(
        "huge pages on another node",
        |good| good.huge_memory(2048).set("/placement", json!({"node": 0})).to_string(),
        3,
        &[
            "needs 2 free 1G pages on node 0, which has 1 of 1; node 1 has 2 free",
            "help: `echo 2 > ",
        ],
    ),
    config(
        "no huge pages of 2 MiB",
        |good| good.page_size("2M").to_string(),
        3,
        &["needs 128 free 2M pages on node 1, which has 0 of 0", "help: `echo 128 > "],
    ),
    config(
        "more memory than there is",
        |good| good.set("/memory/size_mib", 8000).to_string(),
        3,
        &["the guest needs 8000 MiB, and node 1 has ", "help: lower memory.size_mib"],
    ),
    config(
        "device absent",
        |good| good.set("/devices", devices(&["0000:21:05.0"])).to_string(),
        3,
        &["there is no PCI function 0000:21:05.0", "help: the nearest are NIC"],
    ),
    config(
        "the device is a bridge",
        |good| good.set("/devices", devices(&["0000:20:00.0"])).to_string(),
        3,
        &["0000:20:00.0 is a bridge", "help: "],
    ),
    config(
        "more vCPUs than the node has CPUs",
        |good| good.set("/vcpus", 3).to_string(),
        3,
        &[
            "3 vCPUs need 3 CPUs, and node 1 has 2",
            "help: lower vcpus to 2",
            "or name any of CPUs 0-3",
        ],
    ),
    config(
        "no such node",
        |good| good.set("/placement", json!({"node": 7})).to_string(),
        3,
        &["no NUMA node 7", "help: set placement.node to a node with memory: 0-1"],
    ),
    config(
        "a CPU that is not there",
        |good| good.set("/placement", json!({"cpus": [2, 9]})).to_string(),
        3,
        &["placement.cpus names CPU 9, and CPUs 0-3 are online", "help: "],
    ),
    config(
        "too few CPUs named",
        |good| good.set("/placement", json!({"cpus": [2]})).to_string(),
        3,
        &["placement.cpus names 1 CPUs for 2 vCPUs", "help: "],
    ),
    config(
        "the console file cannot be made",
        |good| good.set("/console", json!({"file": "/nowhere/log"})).to_string(),
        3,
        &["console file /nowhere/log", "help: "],
    ),
    config(
        "the console file is a directory",
        |good| good.set("/console", json!({"file": "/tmp"})).to_string(),
        3,
        &["console file /tmp", "is a directory", "help: "],
    ),
];

#[test]
fn configs_that_describe_no_machine() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    check_all(&host, TEXT)
}

#[test]
fn configs_that_this_host_cannot_run() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    check_all(&host, HOST)
}
