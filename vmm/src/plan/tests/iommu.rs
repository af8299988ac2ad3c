//! Which backend is taken and why, and where RAM and BARs go on hosts whose IOMMU is particular.

use serde_json::json;

use berth_devices::pci::BarKind;
use berth_devices::vfio::IommuBackend;

use super::hosts::{function, server};
use super::{config, golden, plan};
use crate::host::iommu::ReservedRegion;
use crate::host::memory::Pool;
use crate::host::{Access, CpuVendor, Holder, HostProfile};
use crate::plan::{Fill, FillReason, IommuPlan, Plan, PlanError};
use crate::units::PageSize;

/// The server with a kernel that has iommufd too.
fn modern() -> HostProfile {
    let mut host = server();
    host.iommufd = Access::Granted;
    for (number, found) in host.functions.read.iter_mut().enumerate() {
        found.1.function.device_file = Some(format!("vfio{number}"));
        host.device_files.insert(*found.0, Access::Granted);
    }
    host
}

fn both_nics(backend: &str) -> serde_json::Value {
    let devices = json!([{ "address": "0000:41:00.0" }, { "address": "0000:41:00.1" }]);
    json!({ "devices": devices, "iommu_backend": backend })
}

fn iommu(fields: serde_json::Value, host: &HostProfile) -> IommuPlan {
    plan(fields, host).iommu.expect("a machine with devices")
}

#[test]
fn of_both_the_container_is_taken_unless_told_otherwise() {
    let chosen = iommu(both_nics("auto"), &modern());
    assert_eq!(chosen.backend, IommuBackend::Container);
    assert!(chosen.reason.contains("maps BARs too"), "{}", chosen.reason);
    let files = plan(both_nics("auto"), &modern());
    assert_eq!(files.vfio_files(), ["/dev/vfio/vfio", "/dev/vfio/14", "/dev/vfio/15"]);
    assert_eq!(chosen.peer_to_peer, Some(true));

    let told = iommu(both_nics("container"), &modern());
    assert_eq!((told.backend, &*told.reason), (IommuBackend::Container, "as the config says"));
    let told = iommu(both_nics("iommufd"), &modern());
    assert_eq!((told.backend, &*told.reason), (IommuBackend::Iommufd, "as the config says"));
    assert_eq!(told.peer_to_peer, Some(false));
}

/// iommufd counts what a user has pinned in all processes.
#[test]
fn memory_of_a_user_that_others_may_be_is_filled_before_the_guest() {
    let fill = |backend: &str, sandbox: serde_json::Value| {
        let mut fields = both_nics(backend);
        fields["sandbox"] = sandbox;
        plan(fields, &modern()).memory.fill
    };
    let shared = Fill::Before { why: FillReason::SharedUser };
    assert_eq!(fill("iommufd", json!({ "uid": 1000 })), shared);
    assert_eq!(fill("iommufd", json!({})), Fill::Behind);
    assert_eq!(fill("container", json!({ "uid": 1000 })), Fill::Behind);
}

#[test]
fn what_the_host_has_is_taken() {
    let only = iommu(json!({}), &server());
    let reason = "/dev/iommu does not exist";
    assert_eq!((only.backend, &*only.reason), (IommuBackend::Container, reason));
    assert_eq!(only.peer_to_peer, None);

    let mut host = modern();
    host.vfio = Access::Missing;
    host.group_files.values_mut().for_each(|access| *access = Access::Missing);
    golden("iommufd.txt", &plan(both_nics("auto"), &host).to_string());

    let mut host = modern();
    host.group_files.insert(14, Access::Denied);
    let other = iommu(json!({}), &host);
    assert_eq!(other.backend, IommuBackend::Iommufd);
    assert_eq!(
        other.reason,
        "cannot use 0000:41:00.0: /dev/vfio/14 may not be opened by this process"
    );

    let mut host = modern();
    function(&mut host, "0000:41:00.0").device_file = None;
    let other = iommu(json!({}), &host);
    assert_eq!(other.backend, IommuBackend::Container);
    assert!(other.reason.contains("has no file in /dev/vfio/devices"), "{}", other.reason);
}

#[test]
fn a_machine_without_devices_needs_neither() {
    let mut host = server();
    host.vfio = Access::Missing;
    let fields = json!({ "devices": [], "iommu_backend": "iommufd" });
    assert_eq!(plan(fields, &host).iommu, None);
}

#[test]
fn the_more_telling_of_two_reasons_is_given() {
    let refused = |host: &HostProfile| Plan::new(&config(json!({})), host).expect_err("neither");
    let mut host = modern();
    host.vfio = Access::Missing;
    host.iommufd = Access::Denied;
    assert_eq!(refused(&host), PlanError::Iommufd { access: Access::Denied });
    host.iommufd = Access::Missing;
    assert_eq!(refused(&host), PlanError::Vfio { access: Access::Missing });

    let held = Access::Busy(Some(Holder { pid: 7, comm: "qemu".to_owned() }));
    let mut host = modern();
    host.group_files.insert(14, held.clone());
    let device = "0000:41:00.0".parse().expect("an address");
    host.device_files.insert(device, held.clone());
    assert_eq!(refused(&host), PlanError::Group { device, group: 14, access: held });
}

#[test]
fn each_backend_has_its_own_leave_to_do_without_remapping() {
    let mut host = modern();
    host.iommu.interrupt_remapping = Some(false);
    host.iommu.unsafe_interrupts_iommufd = true;
    assert!(Plan::new(&config(json!({})), &host).is_err());
    assert_eq!(plan(json!({ "iommu_backend": "iommufd" }), &host).notes.len(), 1);
}

/// A host with 4 TiB in 1 GiB pages on node 1 and AMD's IOMMU, which keeps the last 12 GiB below
/// 1 TiB for HyperTransport.
fn amd() -> HostProfile {
    let mut host = server();
    host.cpus.vendor = CpuVendor::Amd;
    host.cpus.physical_bits = Some(48);
    host.iommu.units = vec!["ivhd0".to_owned()];
    host.iommu.address_bits = None;
    let node = host.memory.nodes.get_mut(&1).expect("node 1");
    (node.total, node.available) = (4 << 40, 1 << 40);
    node.pools.insert(PageSize::Size1G, Pool { total: 4096, free: 4096, surplus: 0 });
    for group in host.functions.groups.values_mut() {
        let range = 0xfd_0000_0000..=0xff_ffff_ffff;
        group.reserved.push(ReservedRegion { range, kind: "reserved".to_owned() });
    }
    host
}

#[test]
fn ram_and_bars_go_around_the_hole_of_amd_iommus() {
    let fields = json!({ "memory": { "size_mib": 1536 << 10 } });
    golden("amd-1.5-tib.txt", &plan(fields, &amd()).to_string());

    // Of 1009 GiB the last ends where the hole begins; the BARs then lie behind it.
    let fields = json!({ "memory": { "size_mib": 1011 << 10 } });
    let full = plan(fields, &amd());
    let ends: Vec<u64> = full.memory.regions.iter().map(|region| region.guest.end).collect();
    assert_eq!(ends, [3 << 30, 1012 << 30]);
    let mut host = amd();
    for bar in &mut function(&mut host, "0000:41:00.0").bars {
        bar.kind = BarKind::Memory64 { prefetchable: true };
    }
    let fields = json!({ "memory": { "size_mib": 1011 << 10 } });
    let root = &plan(fields, &host).pci.roots[0];
    assert_eq!(root.window64.as_ref().expect("a window").start, 1 << 40);
}

#[test]
fn a_narrow_iommu_refuses_ram_beyond_it() {
    let mut host = amd();
    host.functions.groups.values_mut().for_each(|group| group.reserved.truncate(1));
    host.iommu.address_bits = Some(39);
    // 3 GiB below the hole, 508 GiB above: exactly all there is.
    let fits = plan(json!({ "memory": { "size_mib": 511 << 10 } }), &host);
    assert_eq!(fits.memory.regions.last().expect("RAM").guest.end, 1 << 39);
    let refused = Plan::new(&config(json!({ "memory": { "size_mib": 512 << 10 } })), &host);
    let refused = refused.expect_err("too much").to_string();
    assert!(refused.contains("the IOMMU's addresses have 39 bits"), "{refused}");
    // Without devices nothing goes through the IOMMU.
    plan(json!({ "devices": [], "memory": { "size_mib": 512 << 10 } }), &host);
}

#[test]
fn bars_that_no_peer_reaches_are_named() {
    let mut host = amd();
    host.functions.groups.values_mut().for_each(|group| group.reserved.truncate(1));
    host.iommu.address_bits = Some(39);
    for bar in &mut function(&mut host, "0000:41:00.0").bars {
        bar.kind = BarKind::Memory64 { prefetchable: true };
    }
    let mut fields = both_nics("container");
    fields["memory"] = json!({ "size_mib": 511 << 10 });
    let notes = super::notes(&plan(fields.clone(), &host));
    let expected = (0..4).map(|bar| {
        format!(
            "no other device reaches BAR {bar} of 0000:41:00.0: the IOMMU's addresses have 39 bits"
        )
    });
    assert_eq!(notes, expected.collect::<Vec<_>>());
    // With room below the limit they lie there, and an iommufd takes no BARs at all.
    fields["memory"] = json!({ "size_mib": 4096 });
    assert_eq!(super::notes(&plan(fields.clone(), &host)), Vec::<String>::new());
    let group = host.functions.groups.get_mut(&15).expect("the second NIC's group");
    group
        .reserved
        .push(ReservedRegion { range: 0xc000_0000..=0xc000_ffff, kind: "direct".to_owned() });
    let notes = super::notes(&plan(fields, &host));
    assert!(
        notes.iter().any(|note| note.contains("the IOMMU reserves 0x0000c0000000")),
        "{notes:?}"
    );
}

/// A host whose vfio-pci is not loaded shows neither way to VFIO until a device is bound.
#[test]
fn what_binding_shows_is_held_against_the_plan() {
    let mut host = modern();
    host.functions.vfio_pci = false;
    (host.vfio, host.iommufd) = (Access::Missing, Access::Missing);
    for nic in ["41:00.0", "41:00.1"] {
        let nic = function(&mut host, nic);
        (nic.driver, nic.device_file) = (Some("igb".to_owned()), None);
    }
    host.group_files.values_mut().for_each(|access| *access = Access::Missing);
    host.device_files.clear();
    let devices = json!([
        { "address": "0000:41:00.0", "bind": "auto" }, { "address": "0000:41:00.1", "bind": "auto" }
    ]);
    let config = config(json!({ "devices": devices }));
    let planned = Plan::new(&config, &host).expect("a plan");
    assert!(planned.pci.functions.iter().all(|function| function.take));

    // The container came: the plan stays what it was.
    let mut plan = planned.clone();
    plan.see_bound(&config, &server()).expect("its files open");
    assert_eq!(plan, planned);

    // This kernel has no container.
    let mut bound = modern();
    bound.vfio = Access::Missing;
    let mut plan = planned.clone();
    plan.see_bound(&config, &bound).expect("its files open");
    let iommu = plan.iommu.clone().expect("devices");
    assert_eq!((iommu.backend, iommu.peer_to_peer), (IommuBackend::Iommufd, Some(false)));
    assert_eq!(plan.pci.largest_peer_bar, 0);
    let files = plan.vfio_files();
    assert!(files[1].starts_with("/dev/vfio/devices/vfio") && files[1] != files[2], "{files:?}");

    // Somebody else opened the group.
    let mut held = server();
    held.group_files.insert(15, Access::Busy(None));
    let error = planned.clone().see_bound(&config, &held).expect_err("refused");
    assert!(matches!(error, PlanError::Group { group: 15, .. }), "{error}");
}
