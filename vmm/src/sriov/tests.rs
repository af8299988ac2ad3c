//! Numbers and ports of virtual functions, decided for hosts made by hand.

use super::*;
use crate::binding::testing::{bdf, host};
use crate::host::HostUse;

/// A physical function with virtual ones that the host's driver has.
fn card(count: u32) -> Functions {
    let mut all = vec![("21:00.0".to_owned(), Some("igb"))];
    let addresses: Vec<String> = (0..count).map(|index| format!("21:10.{}", index * 2)).collect();
    all.extend(addresses.iter().map(|address| (address.clone(), Some("igbvf"))));
    let all: Vec<(&str, Option<&str>)> =
        all.iter().map(|(address, driver)| (address.as_str(), *driver)).collect();
    let mut host = host(&all);
    let functions: Vec<HostBdf> = addresses.iter().map(|address| bdf(address)).collect();
    for (index, function) in (0..).zip(&functions) {
        let found = host.read.get_mut(function).expect("it is there");
        found.virtual_of = Some((bdf("21:00.0"), index));
    }
    let found = host.read.get_mut(&bdf("21:00.0")).expect("it is there");
    let interface = Some("eth0".to_owned());
    found.sriov = Some(Sriov { max: 7, functions, autoprobe: true, interface, ..Sriov::default() });
    host
}

fn request(count: u32, ports: &[&str]) -> SriovRequest {
    let ports = ports.iter().map(|port| port.parse().expect("a port")).collect();
    SriovRequest { count, ports, bind: false, force: false, dry_run: false }
}

fn decide(host: &Functions, request: &SriovRequest) -> Result<Vec<String>, String> {
    let physical = bdf("21:00.0");
    let count = host.read[&physical].sriov.as_ref().map_or(0, |sriov| sriov.functions.len());
    let ports = vec![VfPort { spoof_check: true, ..VfPort::default() }; count];
    let steps = renumber(host, physical, &ports, request);
    steps
        .map(|steps| {
            let line = |step: &Step| format!("{}: {} -> {}", step.setting, step.before, step.after);
            steps.iter().map(line).collect()
        })
        .map_err(|error| error.to_string())
}

#[test]
fn new_functions_are_kept_from_drivers_until_their_ports_are_set() {
    assert_eq!(
        decide(&card(0), &request(2, &["1,mac=52:54:00:00:00:11"])).expect("possible"),
        [
            "sriov_drivers_autoprobe of 0000:21:00.0: 1 -> 0",
            "number of VFs of 0000:21:00.0: 0 -> 2",
            "port of VF 1 of 0000:21:00.0: mac 00:00:00:00:00:00 vlan 0 trust off spoofchk off \
             -> mac 52:54:00:00:00:11 vlan 0 trust off spoofchk off",
        ]
    );
}

#[test]
fn what_goes_with_a_number_is_noted_for_the_way_back() {
    let steps = decide(&card(2), &request(1, &[])).expect("possible");
    assert_eq!(steps.len(), 8, "{steps:#?}");
    assert_eq!(steps[2], "driver of 0000:21:10.0: igbvf -> gone");
    assert_eq!(steps[7], "number of VFs of 0000:21:00.0: 2 -> 1");
}

#[test]
fn the_same_number_changes_ports_only() {
    assert_eq!(decide(&card(2), &request(2, &[])), Ok(vec![]));
    assert_eq!(decide(&card(2), &request(2, &["0,spoof-check=on"])), Ok(vec![]));
    let steps = decide(&card(2), &request(2, &["0,vlan=7"])).expect("possible");
    assert_eq!(steps.len(), 1, "{steps:#?}");
}

#[test]
fn impossible_requests_are_refused() {
    let mut used = card(1);
    let found = used.read.get_mut(&bdf("21:10.0")).expect("it is there");
    found.uses = vec![HostUse::OpenVfio { holder: None }];
    let mut mute = card(0);
    let found = mute.read.get_mut(&bdf("21:00.0")).expect("it is there");
    found.sriov.as_mut().expect("it has some").interface = None;
    for (host, request, message) in [
        (&card(0), request(8, &[]), "0000:21:00.0 has at most 7 virtual functions, not 8"),
        (
            &card(0),
            request(1, &["1,vlan=7"]),
            "there is no VF 1 of 0000:21:00.0: the last of 1 is 0",
        ),
        (
            &mute,
            request(1, &["0,vlan=7"]),
            "the ports of 0000:21:00.0 cannot be set: it has no network interface",
        ),
        (&used, request(2, &[]), "0000:21:10.0 is in use: it is open in another process"),
    ] {
        assert_eq!(decide(host, &request), Err(message.to_owned()));
    }
}

/// A drive has no network driver that could set MACs.
#[test]
fn ports_of_a_drive_are_no_matter_of_its_driver() {
    let mut drive = card(0);
    let found = drive.read.get_mut(&bdf("21:00.0")).expect("it is there");
    found.function.class = 0x01_0802;
    found.sriov.as_mut().expect("it has some").interface = None;
    let mac = request(1, &["0,mac=52:54:00:00:00:11"]);
    let error = renumber(&drive, bdf("21:00.0"), &[], &mac).expect_err("no port");
    assert!(error.to_string().ends_with("it is no network function"), "{error}");
    let mut nic = card(0);
    let found = nic.read.get_mut(&bdf("21:00.0")).expect("it is there");
    found.function.class = 0x02_0000;
    found.sriov.as_mut().expect("it has some").interface = None;
    let error = renumber(&nic, bdf("21:00.0"), &[], &mac).expect_err("no interface");
    assert!(error.to_string().ends_with("it has no network interface"), "{error}");
}

#[test]
fn a_card_whose_functions_have_no_memory_gets_none() {
    let mut host = card(0);
    let physical = host.read.get_mut(&bdf("21:00.0")).expect("it is there");
    physical.sriov.as_mut().expect("a card").has_room = Some(false);
    let refusal = decide(&host, &request(2, &[])).expect_err("no room");
    assert!(refusal.contains("their memory has no address"), "{refusal}");
    assert!(decide(&host, &request(0, &[])).is_ok(), "none needs none");
}

#[test]
fn a_card_in_switchdev_mode_takes_macs_only() {
    let mut host = card(2);
    let physical = host.read.get_mut(&bdf("21:00.0")).expect("it is there");
    physical.sriov.as_mut().expect("a card").is_switchdev = true;
    assert!(decide(&host, &request(2, &["1,mac=52:54:00:00:00:11"])).is_ok());
    for port in ["1,vlan=7", "0,trust=on", "1,mac=52:54:00:00:00:11,spoof-check=off"] {
        let refusal = decide(&host, &request(2, &[port])).expect_err("switchdev");
        assert!(refusal.contains("switchdev mode"), "{port}: {refusal}");
    }
}
