//! Hosts that cannot serve the backend that the config names, or neither of the two.

use std::time::Duration;

use anyhow::Result;

use super::{Case, check_all, host};
use crate::harness::{self, GuestConfig};

const RUN: &str = "berth run CONFIG";
const AS_USER: &str = "su user -c 'berth run CONFIG'";
const KVM: [&str; 2] = ["chmod 666 /dev/kvm", "chmod 600 /dev/kvm"];

fn iommufd(good: GuestConfig) -> String {
    good.set("/iommu_backend", "iommufd").to_string()
}

/// A config that asks for iommufd.
const fn asking(
    name: &'static str,
    state: [&'static str; 2],
    run: &'static str,
    says: &'static [&'static str],
) -> Case {
    Case { config: iommufd, ..host(name, state, run, says) }
}

#[test]
fn kernel_without_iommufd() -> Result<()> {
    let lab = harness::host("nic");
    lab.bind_vfio()?;
    let says = &["/dev/iommu does not exist", "help: `modprobe iommufd`", "\"container\""];
    check_all(&lab, &[asking("Debian's kernel", ["", ""], RUN, says)])
}

#[test]
fn host_with_iommufd() -> Result<()> {
    let lab = harness::host("iommufd");
    lab.bind_vfio()?;
    check_all(
        &lab,
        &[
            asking(
                "iommufd is for others",
                KVM,
                AS_USER,
                &["/dev/iommu may not be opened by this process", "help: `chgrp kvm /dev/iommu`"],
            ),
            asking(
                "the device's file is for others",
                [
                    "chmod 666 /dev/kvm; chmod 666 /dev/iommu",
                    "chmod 600 /dev/kvm; chmod 660 /dev/iommu",
                ],
                AS_USER,
                &[
                    "cannot use NIC: /dev/vfio/devices/vfio",
                    "may not be opened by this process",
                    "help: `chown USER /dev/vfio/devices/vfio",
                ],
            ),
            host(
                "both are for others",
                KVM,
                AS_USER,
                &["cannot use NIC: /dev/vfio/GROUP may not be opened", "help: `chown USER"],
            ),
            asking(
                "there is no iommufd",
                ["mv /dev/iommu /dev/iommu.away", "mv /dev/iommu.away /dev/iommu"],
                RUN,
                &["/dev/iommu does not exist"],
            ),
        ],
    )
}

#[test]
fn a_device_that_another_machine_has_through_either_backend() -> Result<()> {
    let lab = harness::host("iommufd");
    lab.bind_vfio()?;
    for backend in ["container", "iommufd"] {
        let first = GuestConfig::new(&lab).set("/iommu_backend", backend).verbs("wait");
        let first = lab.run_guest(&first)?;
        first.wait_for("L2: waiting", Duration::from_secs(120))?;
        let says = &["cannot use NIC: /dev/vfio/", "is held by process", "(berth)", "help: end"];
        check_all(
            &lab,
            &[
                host("the device is taken", ["", ""], RUN, says),
                asking("the device is taken", ["", ""], RUN, says),
            ],
        )?;
        first.send("end\n")?;
        first.must_end(0, Duration::from_secs(60))?;
    }
    Ok(())
}
