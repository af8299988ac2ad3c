//! How functions are reset, and what follows when they fail or are wanted back.

use berth_devices::vfio::ResetMethod::{self, Bus, Flr, Hot, Pm};
use serde_json::{Value, json};

use super::hosts::{assign, bdf, found, function, igb, server};
use super::plan;
use crate::config::{OnError, OnRemoval};
use crate::host::HostProfile;
use crate::plan::Plan;

/// A card of two functions on a bus of its own, of which the first was alone when the kernel
/// looked for its resets.
fn card(methods: [&[ResetMethod]; 2]) -> HostProfile {
    let mut host = server();
    let [first, second] = methods.map(|methods| methods.to_vec());
    let first = crate::host::PciFunction { reset_methods: first, ..igb(Some(1), 20) };
    let second = crate::host::PciFunction { reset_methods: second, ..igb(Some(1), 21) };
    assign(&mut host, vec![("0000:43:00.0", first), ("0000:43:00.1", second)]);
    host
}

fn with(host: &HostProfile, devices: &[&str]) -> Plan {
    let devices: Vec<Value> = devices.iter().map(|d| json!({ "address": d })).collect();
    plan(json!({ "devices": devices }), host)
}

fn resets(plan: &Plan) -> Vec<(ResetMethod, ResetMethod)> {
    plan.pci.functions.iter().map(|f| (f.reset, f.reset_alone)).collect()
}

const BOTH: [&str; 2] = ["43:00.0", "43:00.1"];

/// A function that is alone on its bus is reset by the kernel's own bus reset: the same as a hot
/// reset, and the kernel has tried it.
#[test]
fn a_function_without_siblings_needs_no_hot_reset() {
    let mut host = server();
    let lone = |methods: &[ResetMethod]| crate::host::PciFunction {
        reset_methods: methods.to_vec(),
        ..igb(Some(1), 20)
    };
    assign(&mut host, vec![("0000:43:00.0", lone(&[Bus]))]);
    assert_eq!(resets(&with(&host, &["43:00.0"])), [(Bus, Bus)]);
    *function(&mut host, "43:00.0") = lone(&[Pm, Bus]);
    assert_eq!(resets(&with(&host, &["43:00.0"])), [(Hot, Pm)]);
}

#[test]
fn functions_that_can_are_reset_by_themselves() {
    let plan = with(&card([&[Flr, Pm, Bus], &[Flr, Pm]]), &BOTH);
    assert_eq!(resets(&plan), [(Flr, Flr); 2]);
    assert!(plan.to_string().contains(", FLR\n") && plan.notes.is_empty());
}

#[test]
fn a_card_is_reset_as_a_whole_when_one_of_its_functions_cannot_be_alone() {
    let plan = with(&card([&[Pm, Bus], &[Pm]]), &BOTH);
    assert_eq!(resets(&plan), [(Hot, Pm); 2]);
    assert!(plan.to_string().contains(", hot reset\n") && plan.notes.is_empty());
    let plan = with(&card([&[Flr, Pm, Bus], &[]]), &BOTH);
    assert_eq!(resets(&plan), [(Hot, Flr), (Hot, ResetMethod::None)]);
}

#[test]
fn a_part_of_a_card_leaves_the_others_alone() {
    let plan = with(&card([&[Pm, Bus], &[Pm]]), &BOTH[1..]);
    assert_eq!(resets(&plan), [(Pm, Pm)]);
    assert_eq!(
        super::notes(&plan),
        [
            "0000:43:00.1 has no better reset than a PM reset, over which some devices keep state; a hot reset would hit 0000:43:00.0, \
          not assigned to this guest"
        ]
    );
    let plan = with(&card([&[Bus], &[]]), &BOTH[1..]);
    assert_eq!(resets(&plan), [(ResetMethod::None, ResetMethod::None)]);
    assert!(plan.to_string().contains(", no reset\n"));
    assert_eq!(
        super::notes(&plan),
        ["0000:43:00.1 has no reset: the guest finds it as its last user left it; a hot reset \
          would hit 0000:43:00.0, not assigned to this guest"]
    );
}

#[test]
fn idle_members_of_the_guests_group_may_be_reset_too() {
    let mut host = card([&[Pm, Bus], &[Pm]]);
    function(&mut host, "0000:43:00.0").group = Some(21);
    assert_eq!(resets(&with(&host, &BOTH[1..])), [(Hot, Pm)]);
    // One that no VFIO driver holds the kernel does not reset with them.
    function(&mut host, "0000:43:00.0").driver = None;
    assert_eq!(resets(&with(&host, &BOTH[1..])), [(Pm, Pm)]);
}

#[test]
fn a_function_alone_on_its_bus_has_what_the_kernel_found() {
    let mut host = card([&[Pm, Bus], &[Pm]]);
    host.functions.addresses.retain(|address| *address != bdf("43:00.1"));
    assert_eq!(resets(&with(&host, &BOTH[..1])), [(Hot, Pm)]);
    function(&mut host, "0000:43:00.0").reset_methods = vec![Pm];
    assert_eq!(resets(&with(&host, &BOTH[..1])), [(Pm, Pm)]);
    // Virtual functions have a reset of their own, and no bus to be reset on.
    function(&mut host, "0000:42:10.0").reset_methods = Vec::new();
    let plan = with(&host, &["42:10.0"]);
    assert_eq!(resets(&plan), [(ResetMethod::None, ResetMethod::None)]);
    assert_eq!(
        super::notes(&plan),
        ["0000:42:10.0 has no reset: the guest finds it as its last user left it"]
    );
}

/// A conventional bus behind a bridge, with functions of one group. The first was alone when the
/// kernel looked for its resets.
fn conventional_bus(methods: [&[ResetMethod]; 3]) -> HostProfile {
    let mut host = server();
    for (device, methods) in (1..).zip(methods) {
        let address = format!("0000:44:{device:02x}.0");
        let function = crate::host::PciFunction {
            reset_methods: methods.to_vec(),
            link: None,
            ..igb(Some(1), 20)
        };
        assign(&mut host, vec![(&address, function)]);
        found(&mut host, &address).path = vec![bdf("40:01.0"), bdf("43:00.0")];
    }
    let all = (1..=3).map(|device| bdf(&format!("44:{device:02x}.0")));
    host.functions.groups.entry(20).or_default().members = all.collect();
    host
}

const CONVENTIONAL: [&str; 3] = ["44:01.0", "44:02.0", "44:03.0"];

#[test]
fn the_first_function_of_a_bus_is_not_promised_the_bus_reset_that_the_kernel_lists() {
    let mut host = conventional_bus([&[Bus], &[], &[]]);
    function(&mut host, "0000:44:02.0").driver = None;
    let plan = with(&host, &CONVENTIONAL[..1]);
    assert_eq!(resets(&plan), [(ResetMethod::None, ResetMethod::None)]);
    assert_eq!(
        super::notes(&plan),
        ["0000:44:01.0 has no reset: the guest finds it as its last user left it; a hot reset \
          would hit 0000:44:02.0, not assigned to this guest"]
    );
    // Of a PCI Express card alike.
    let plan = with(&card([&[Bus], &[]]), &BOTH[..1]);
    assert_eq!(resets(&plan), [(ResetMethod::None, ResetMethod::None)]);
    assert_eq!(resets(&with(&card([&[Pm, Bus], &[Pm]]), &BOTH[..1])), [(Pm, Pm)]);
}

#[test]
fn a_conventional_bus_that_is_wholly_the_guests_is_reset_hot() {
    let none = ResetMethod::None;
    let host = conventional_bus([&[Bus], &[], &[]]);
    let plan = with(&host, &CONVENTIONAL);
    assert_eq!(resets(&plan), [(Hot, none); 3]);
    assert!(plan.notes.is_empty());
    // The others are of the same group, and idle in VFIO's hands.
    assert_eq!(resets(&with(&host, &CONVENTIONAL[1..2])), [(Hot, none)]);
    // One that can reset itself is hit with the others.
    let host = conventional_bus([&[ResetMethod::AfFlr, Bus], &[], &[Pm]]);
    let af = ResetMethod::AfFlr;
    assert_eq!(resets(&with(&host, &CONVENTIONAL)), [(Hot, af), (Hot, none), (Hot, Pm)]);
    let host = conventional_bus([&[ResetMethod::AfFlr, Bus], &[af], &[af]]);
    assert_eq!(resets(&with(&host, &CONVENTIONAL)), [(af, af); 3]);
}

#[test]
fn a_bridge_on_the_bus_and_a_root_bus_allow_no_hot_reset() {
    let mut host = conventional_bus([&[Bus], &[], &[]]);
    function(&mut host, "0000:44:03.0").class = 0x06_0400;
    let plan = with(&host, &CONVENTIONAL[..2]);
    assert_eq!(resets(&plan), [(ResetMethod::None, ResetMethod::None); 2]);
    assert!(super::notes(&plan)[0].contains("would hit 0000:44:03.0"), "{:?}", plan.notes);

    let mut host = conventional_bus([&[Pm], &[], &[]]);
    for address in CONVENTIONAL {
        found(&mut host, &format!("0000:{address}")).path.clear();
    }
    let plan = with(&host, &CONVENTIONAL);
    let none = ResetMethod::None;
    assert_eq!(resets(&plan), [(Pm, Pm), (none, none), (none, none)]);
    assert!(super::notes(&plan).iter().all(|note| !note.contains("hot reset")), "{:?}", plan.notes);
}

/// A guest causes a hot reset by a port, and hits what is behind others by it.
#[test]
fn a_hot_reset_is_for_a_port_that_has_the_whole_bus() {
    let mut host = card([&[Pm, Bus], &[Pm]]);
    let plan = with(&host, &BOTH);
    let behind_one = |plan: &Plan| {
        plan.pci.functions.iter().map(|f| plan.pci.is_bus_behind_one_port(f)).collect::<Vec<_>>()
    };
    assert_eq!(behind_one(&plan), [true, true]);
    // Functions beyond the eighth have another device number (ARI), and another port in the guest.
    let far = crate::host::PciFunction { reset_methods: vec![Pm], ..igb(Some(1), 22) };
    assign(&mut host, vec![("0000:43:01.0", far)]);
    let plan = with(&host, &["43:00.0", "43:00.1", "43:01.0"]);
    assert_eq!(resets(&plan), [(Hot, Pm); 3]);
    assert_eq!(behind_one(&plan), [false; 3]);
}

#[test]
fn lists_and_checks_name_the_way_that_a_plan_would_take() {
    let host = conventional_bus([&[Bus], &[], &[]]);
    for address in CONVENTIONAL {
        assert_eq!(host.functions.resets_with_group(bdf(address)).ways, [Hot], "{address}");
    }
    let host = card([&[Pm, Bus], &[Pm]]);
    let first = host.functions.resets_with_group(bdf("43:00.0"));
    assert_eq!((first.ways, first.others), (vec![Pm], vec![bdf("43:00.1")]));
}

#[test]
fn policies_are_the_configs() {
    let devices = json!([
        { "address": "41:00.0", "on_error": "reset", "on_removal": "unplug" },
        { "address": "42:10.0" },
        { "address": "41:00.1", "on_error": "log" }
    ]);
    let plan = plan(json!({ "devices": devices, "unplug_timeout_s": 90 }), &server());
    let policies: Vec<_> = plan.pci.functions.iter().map(|f| (f.on_error, f.on_removal)).collect();
    assert_eq!(
        policies,
        [
            (OnError::Reset, OnRemoval::Unplug),
            (OnError::Stop, OnRemoval::Stop),
            (OnError::Log, OnRemoval::Stop)
        ]
    );
    // Only where it is asked for: a guest's kernel has a driver for such slots.
    let hot_plug: Vec<_> = plan.pci.roots[0].ports.iter().map(|port| port.hot_plug).collect();
    assert_eq!(hot_plug, [true, false]);
    let text = plan.to_string();
    for part in [
        "  unplug    ends the machine after 90 s without an answer\n",
        "of 512 bytes, hot-plug slot\n",
        "      on error: reset, on removal: unplug\n",
        "      on error: log\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn nothing_is_unplugged_from_a_root_bus() {
    let mut host = server();
    function(&mut host, "0000:41:00.0").link = None;
    let devices = json!([{ "address": "41:00.0", "on_removal": "unplug" }]);
    let plan = plan(json!({ "devices": devices }), &host);
    assert_eq!(plan.pci.functions[0].on_removal, OnRemoval::Stop);
    assert_eq!(
        super::notes(&plan),
        ["0000:41:00.0 is behind no port, where nothing can be unplugged: when the host wants it \
          back, the machine ends"]
    );
}
