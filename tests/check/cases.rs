//! Faults that one host can be brought to and back from.

mod devices;
mod machine;
mod platform;
mod vfio;

use std::time::Duration;

use anyhow::Result;

use super::{Case, FAULT, STATE, check_all};
use crate::harness::{self, GuestConfig, Host};

/// A host whose NIC is bound to vfio-pci, with nothing else changed.
fn host() -> Result<harness::HostGuard> {
    let host = harness::host("faults");
    host.run(&format!("rm -rf {STATE} /etc/modprobe.d"))?;
    host.bind_vfio()?;
    Ok(host)
}

#[test]
fn faults_of_the_platform() -> Result<()> {
    check_all(&*host()?, platform::CASES)
}

#[test]
fn faults_of_vfio_and_binding() -> Result<()> {
    check_all(&*host()?, vfio::CASES)
}

#[test]
fn faults_of_devices() -> Result<()> {
    check_all(&*host()?, devices::CASES)
}

#[test]
fn faults_for_one_machine() -> Result<()> {
    check_all(&*host()?, machine::CASES)
}

#[test]
fn a_group_that_another_machine_has() -> Result<()> {
    let lab: &Host = &*host()?;
    let first = lab.run_guest(&GuestConfig::new(lab).verbs("wait"))?;
    first.wait_for("L2: up", Duration::from_secs(120))?;
    let held = Case {
        name: "another machine has it",
        code: "GROUP-HELD",
        severity: "fail",
        seen: &["/dev/vfio/GROUP is held by process", "(berth)"],
        source: "/dev/vfio/GROUP",
        remedy: &["end process"],
        ..FAULT
    };
    check_all(lab, &[held])?;
    let listed = lab.run(&format!("{} devices", lab.berth()?))?;
    assert!(
        listed.contains(&format!("is open in process {} (berth)", first.machine()?)),
        "{listed}"
    );
    Ok(())
}
