//! The host's interrupts of an assigned device stay off the vCPUs' CPUs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::{self, GuestConfig, Host};
use crate::placement::cpus;
use crate::postconditions;

const LIMIT: Duration = Duration::from_secs(240);

/// An interrupt of the host.
#[derive(Debug)]
struct Landing {
    /// CPUs that it lands on.
    cpus: BTreeSet<u32>,
    /// How often it did, by CPU.
    counts: Vec<u64>,
}

/// The host's interrupts of the NIC's vectors.
fn landings(host: &Host) -> Result<BTreeMap<u32, Landing>> {
    let lines = host.run(&format!(
        "for irq in $(ls {}/msi_irqs 2>/dev/null); do
             [ -e /proc/irq/$irq/effective_affinity_list ] || continue
             echo $irq $(cat /proc/irq/$irq/effective_affinity_list) \
                  $(grep \"^ *$irq:\" /proc/interrupts | sed 's/^[^:]*://; s/[A-Za-z].*//')
         done",
        host.nic_sysfs()
    ))?;
    let landing = |line: &str| -> Result<_> {
        let mut words = line.split_whitespace();
        let number = words.next().context("a number")?.parse()?;
        let list = cpus(words.next().with_context(|| format!("CPUs: {line}"))?);
        let counts = words.map(str::parse).collect::<Result<_, _>>()?;
        Ok((number, Landing { cpus: list, counts }))
    };
    lines.lines().map(landing).collect()
}

/// Waits until every interrupt of the NIC, of which there are some, lands on `wanted`.
fn wait_until_steered(host: &Host, wanted: &BTreeSet<u32>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let landings = landings(host)?;
        if !landings.is_empty() && landings.values().all(|landing| landing.cpus.is_subset(wanted)) {
            println!("interrupts of the NIC, their CPUs and counts: {landings:?}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not on {wanted:?}: {landings:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// How many processes steer interrupts; what has ended and waits for its parent is none.
fn steering(host: &Host) -> Result<String> {
    host.run("ps -o stat,comm | grep -v '^Z' | grep -c 'berth-irq' || true")
}

/// Waits until nobody steers any more. The kernel closes a killed machine's devices first.
fn wait_until_alone(host: &Host) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while steering(host)? != "0" {
        ensure!(Instant::now() < deadline, "berth-irq outlives its machine");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

#[test]
fn interrupts_stay_off_the_vcpus() -> Result<()> {
    let host = harness::host("nic");
    host.bind_vfio()?;
    let config = GuestConfig::new(&host).set("/vcpus", 1).verbs("net,commands");
    let path = format!("{}/plan.json", host.scratch());
    host.write(&path, &config.to_string())?;
    let plan = host.run(&format!("{} plan --json {path}", host.berth()?))?;
    let plan: Value = serde_json::from_str(&plan)?;
    let numbers = |value: &Value| -> BTreeSet<u32> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(Value::as_u64).map(|cpu| cpu as u32).collect()
    };
    let planned = numbers(&plan["pci"]["functions"][0]["interrupt_cpus"]);
    let vcpu = plan["vcpus"][0]["cpu"].as_u64().context("a CPU")? as usize;
    ensure!(!planned.is_empty() && !planned.contains(&(vcpu as u32)), "{plan}");
    // Where they would land without help.
    let default = host.read("/proc/irq/default_smp_affinity")?;
    host.run(&format!("printf '%x' $((1 << {vcpu})) >/proc/irq/default_smp_affinity"))?;

    let berth = host.run_guest(&config)?;
    berth.wait_for("L2: takes commands", LIMIT)?;
    wait_until_steered(&host, &planned)?;
    let before = landings(&host)?;
    let pings = berth.in_guest("pings 20", LIMIT)?;
    assert_eq!(pings, "L2: ping 20/20");
    let after = landings(&host)?;
    let total = |counts: &[u64]| counts.iter().sum::<u64>();
    let mut raised = 0;
    for (number, Landing { cpus, counts }) in &after {
        assert!(cpus.is_subset(&planned), "{number} on {cpus:?}");
        let earlier = &before[number].counts;
        assert_eq!(counts[vcpu], earlier[vcpu], "interrupt {number} on the vCPU's CPU");
        raised += total(counts) - total(earlier);
    }
    println!("{raised} interrupts on {planned:?} meanwhile");
    assert!(raised > 0, "no traffic was seen");

    // A driver that comes again gets new interrupts.
    berth.in_guest("modprobe -r igb; modprobe igb; net", LIMIT)?;
    wait_until_steered(&host, &planned)?;
    assert_eq!(steering(&host)?, "1");
    berth.send("end\n")?;
    berth.must_end(0, LIMIT)?;
    host.run(&format!("echo {default} >/proc/irq/default_smp_affinity"))?;
    wait_until_alone(&host)?;
    postconditions::nic_is_free(&host)?;

    let killed = host.run_guest(&config)?;
    killed.wait_for("L2: takes commands", LIMIT)?;
    host.run(&format!("kill -KILL {}", killed.pid()))?;
    wait_until_alone(&host)
}
