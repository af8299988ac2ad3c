//! Devices that the config leaves to the host, to the environment, or to berth's binding.

use serde_json::{Value, json};

use super::hosts::{assign, bdf, found, function, igb, server};
use super::{config, plan};
use crate::host::{Access, HostProfile, HostUse, Sriov, Unfit};
use crate::plan::Plan;

const PHYSICAL: &str = "0000:42:00.0";

/// A server whose card has two virtual functions, in groups of their own.
fn card() -> HostProfile {
    let mut host = server();
    assign(&mut host, vec![(PHYSICAL, igb(Some(1), 18))]);
    let functions = vec![bdf("42:10.0"), bdf("42:10.2")];
    found(&mut host, PHYSICAL).sriov = Some(Sriov { functions, ..Sriov::default() });
    host
}

fn chosen(devices: Value, host: &HostProfile) -> Vec<String> {
    let plan = plan(json!({ "devices": devices }), host);
    plan.pci.functions.iter().map(|function| function.host.to_string()).collect()
}

fn refusal(devices: Value, host: &HostProfile) -> String {
    Plan::new(&config(json!({ "devices": devices })), host).expect_err("refused").to_string()
}

fn network(interface: &str, default_route: bool) -> HostUse {
    let (interface, addresses) = (interface.to_owned(), Vec::new());
    HostUse::Network { interface, addresses, default_route, master: None }
}

fn any() -> Value {
    json!({ "address": { "free_vf_of": PHYSICAL } })
}

#[test]
fn a_free_vf_is_the_first_that_nobody_has() {
    let mut host = card();
    assert_eq!(chosen(json!([any()]), &host), ["0000:42:10.0"]);
    assert_eq!(chosen(json!([any(), any()]), &host), ["0000:42:10.0", "0000:42:10.2"]);
    let named = json!([any(), { "address": "42:10.0" }]);
    assert_eq!(chosen(named, &host), ["0000:42:10.2", "0000:42:10.0"]);

    let group = function(&mut host, "42:10.0").group.expect("it has one");
    host.group_files.insert(group, Access::Busy(None));
    assert_eq!(chosen(json!([any()]), &host), ["0000:42:10.2"]);
    found(&mut host, "42:10.2").uses = vec![network("eth1", false)];
    assert_eq!(refusal(json!([any()]), &host), "none of the 2 VFs of 0000:42:00.0 is free");
}

#[test]
fn a_vf_that_was_bound_for_guests_comes_before_one_of_the_hosts() {
    let mut host = card();
    function(&mut host, "42:10.0").driver = Some("igbvf".to_owned());
    let auto = json!([{ "address": { "free_vf_of": PHYSICAL }, "bind": "auto" }]);
    assert_eq!(chosen(auto.clone(), &host), ["0000:42:10.2"]);
    function(&mut host, "42:10.2").driver = Some("igbvf".to_owned());
    assert_eq!(chosen(auto, &host), ["0000:42:10.0"]);
}

#[test]
fn the_environment_names_devices_in_their_order() {
    let env = || json!({ "address": { "env": "PCIDEVICE_NIC" } });
    let with = |text: Option<&str>| {
        let mut host = card();
        host.environment.insert("PCIDEVICE_NIC".to_owned(), text.map(str::to_owned));
        host
    };
    let two = with(Some("0000:42:10.2,0000:42:10.0"));
    assert_eq!(chosen(json!([env(), env()]), &two), ["0000:42:10.2", "0000:42:10.0"]);
    for (host, devices, message) in [
        (
            with(None),
            json!([env()]),
            "`devices` takes addresses from $PCIDEVICE_NIC, which is not set",
        ),
        (
            with(Some("eth0")),
            json!([env()]),
            "`devices` takes addresses from $PCIDEVICE_NIC, and `eth0` in it is none",
        ),
        (
            with(Some("0000:42:10.2")),
            json!([env(), env()]),
            "`devices` takes more addresses from $PCIDEVICE_NIC than are in it",
        ),
        (
            with(Some("0000:42:10.2")),
            json!([env(), { "address": "42:10.2" }]),
            "`devices` names 0000:42:10.2 twice",
        ),
    ] {
        assert_eq!(refusal(devices, &host), message);
    }
}

#[test]
fn a_device_to_be_bound_is_planned_and_said() {
    let mut host = server();
    let group = {
        let nic = function(&mut host, "41:00.0");
        nic.driver = Some("igb".to_owned());
        nic.group.expect("it has one")
    };
    host.group_files.insert(group, Access::Missing);
    let auto = json!({ "devices": [{ "address": "41:00.0", "bind": "auto" }] });
    let notes = super::notes(&plan(auto.clone(), &host));
    assert!(
        notes.contains(&"berth takes 0000:41:00.0 from igb for the run".to_owned()),
        "{notes:?}"
    );

    (host.functions.vfio_pci, host.vfio) = (false, Access::Missing);
    let notes = super::notes(&plan(auto.clone(), &host));
    assert!(
        notes.contains(
            &"berth takes 0000:41:00.0 from igb for the run, and loads vfio-pci".to_owned()
        ),
        "{notes:?}"
    );

    found(&mut host, "41:00.0").uses = vec![network("eth0", true)];
    assert_eq!(
        refusal(auto["devices"].clone(), &host),
        "0000:41:00.0 is in use: it is eth0, which the default route uses"
    );
}

#[test]
fn only_virtual_functions_have_ports() {
    let devices = json!([{ "address": "41:00.0", "vlan": 7 }]);
    assert!(refusal(devices, &server()).starts_with("0000:41:00.0 is no virtual function"));
}

#[test]
fn a_vf_whose_physical_function_is_vfios_needs_a_token() {
    let mut host = card();
    let vf = json!([{ "address": "42:10.0" }]);
    assert_eq!(chosen(vf.clone(), &host), ["0000:42:10.0"]);
    let needed = Unfit::TokenNeeded { physical: bdf(PHYSICAL) };
    function(&mut host, "42:10.0").unfit.push(needed);
    let refused = refusal(vf, &host);
    assert!(refused.contains(PHYSICAL) && refused.contains("token"), "{refused}");
}
