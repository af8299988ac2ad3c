//! Hierarchies: who is behind which port, on which root bus, at which addresses.

use std::ops::Range;

use berth_devices::pci::{BarKind, GuestBdf};
use serde_json::{Value, json};

use super::hosts::{assign, function, igb, member, server};
use super::{config, golden, plan};
use crate::host::{HostBar, HostProfile, LinuxVersion};
use crate::plan::{PciPlan, Plan, PlanError};

fn pci(host: &HostProfile, devices: &[&str]) -> PciPlan {
    let devices: Vec<Value> = devices.iter().map(|d| json!({ "address": d })).collect();
    plan(json!({ "devices": devices }), host).pci
}

fn guest(bus: u8, device: u8, function: u8) -> GuestBdf {
    GuestBdf::new(bus, device, function).expect("a device and a function")
}

/// The guest's addresses of the devices, in their order.
fn guests(host: &HostProfile, devices: &[&str]) -> Vec<String> {
    let functions = pci(host, devices).functions;
    functions.iter().map(|f| f.guest.to_string()).collect()
}

fn set_bars(host: &mut HostProfile, device: &str, bars: &[(BarKind, u64)]) {
    let bars = (0..).zip(bars).map(|(index, &(kind, size))| HostBar { index, kind, size });
    function(host, device).bars = bars.collect();
}

#[test]
fn functions_of_a_card_stay_together_behind_a_port() {
    let host = server();
    assert_eq!(
        guests(&host, &["41:00.1", "42:10.2", "41:00.0"]),
        ["0000:01:00.1", "0000:02:00.0", "0000:01:00.0"]
    );
    // Virtual functions are devices of their own.
    assert_eq!(guests(&host, &["42:10.0", "42:10.2"]), ["0000:01:00.0", "0000:02:00.0"]);
    let both = pci(&host, &["41:00.0", "41:00.1"]);
    assert_eq!(both.roots.len(), 1);
    assert_eq!((both.roots[0].buses.clone(), both.roots[0].ports.len()), (0..=1, 1));
    assert_eq!(both.roots[0].ports[0].guest, guest(0, 1, 0));
    assert!(both.is_multi_function(guest(1, 0, 1)) && !both.is_multi_function(guest(0, 1, 0)));
    assert!(!pci(&host, &["41:00.0"]).is_multi_function(guest(1, 0, 0)));
}

#[test]
fn the_lowest_function_becomes_function_0() {
    let mut host = server();
    for number in [2, 3] {
        member(&mut host, &format!("0000:41:00.{number}"), 20 + number, Some("vfio-pci"));
    }
    assert_eq!(guests(&host, &["41:00.3"]), ["0000:01:00.0"]);
    assert_eq!(
        guests(&host, &["41:00.3", "41:00.1", "41:00.2"]),
        ["0000:01:00.3", "0000:01:00.0", "0000:01:00.2"]
    );
}

#[test]
fn conventional_functions_are_on_the_root_bus() {
    let mut host = server();
    function(&mut host, "0000:41:00.0").link = None;
    assert_eq!(
        guests(&host, &["41:00.0", "42:10.0", "41:00.1"]),
        ["0000:00:01.0", "0000:01:00.0", "0000:00:01.1"]
    );
    let plan = pci(&host, &["41:00.0", "42:10.0"]);
    assert_eq!(plan.roots[0].ports[0].guest, guest(0, 2, 0));
    assert!(plan.functions[0].bars[3].address >= 4 << 30, "64-bit, prefetchable or not");
}

#[test]
fn a_pin_turns_at_every_bridge() {
    let mut host = server();
    function(&mut host, "0000:41:00.1").interrupt_pin = 2;
    let gsi = |plan: PciPlan| plan.functions.iter().map(|f| f.intx_gsi).collect::<Vec<_>>();
    // Behind the port of slot 2: as pins of slot 2. Virtual functions have none.
    let behind = pci(&host, &["42:10.0", "41:00.0", "41:00.1"]);
    assert_eq!(gsi(behind), [None, Some(18), Some(19)]);
    function(&mut host, "0000:41:00.0").link = None;
    assert_eq!(gsi(pci(&host, &["41:00.0", "41:00.1"])), [Some(17), Some(18)]);
}

#[test]
fn a_node_has_a_root_of_its_own() {
    let mut host = server();
    function(&mut host, "0000:41:00.0").node = Some(0);
    function(&mut host, "0000:41:00.1").node = Some(0);
    let devices = json!([
        { "address": "42:10.0" }, { "address": "41:00.0" }, { "address": "42:10.2" }
    ]);
    let plan = plan(json!({ "devices": devices }), &host);
    golden("two-nodes.txt", &plan.to_string());
    let roots: Vec<_> =
        plan.pci.roots.iter().map(|r| (r.buses.clone(), r.domain, r.node)).collect();
    assert_eq!(roots, [(0..=2, 0, Some(1)), (3..=4, 1, Some(0))]);
    // Only devices far from the memory: one root, in their domain.
    let far = json!({ "devices": [{ "address": "41:00.0" }], "placement": { "node": 1 } });
    let far = super::plan(far, &host);
    assert_eq!((far.pci.roots.len(), far.pci.roots[0].domain), (1, 1));
    assert_eq!(far.numa.domains, [Some(1), Some(0)]);
}

#[test]
fn sixteen_functions_share_the_io_ports_as_far_as_they_go() {
    let mut host = server();
    let mut devices = Vec::new();
    for bus in 0x80..0x90 {
        let address = format!("0000:{bus:02x}:00.0");
        assign(&mut host, vec![(&address, igb(Some(1), 100 + bus))]);
        devices.push(json!({ "address": address }));
    }
    let plan = plan(json!({ "devices": devices }), &host);
    let notes = ["0000:8f:00.0 does without I/O BARs: other devices' take all I/O ports"];
    assert_eq!(super::notes(&plan), notes);
    let with_io = |f: &&crate::plan::FunctionPlan| f.bars.iter().any(|b| b.kind == BarKind::Io);
    assert_eq!(plan.pci.functions.iter().filter(with_io).count(), 15);
    assert_eq!(plan.pci.roots[0].ports[15].windows.io, None);
}

#[test]
fn large_bars_that_are_not_prefetchable_need_the_root_bus() {
    let mut host = server();
    let (plain, prefetchable) = (false, true);
    let (memory64, memory32) =
        (BarKind::Memory64 { prefetchable: plain }, BarKind::Memory32 { prefetchable });
    set_bars(&mut host, "0000:41:00.0", &[(memory64, 1 << 30), (memory32, 1 << 20)]);
    set_bars(&mut host, "0000:42:10.0", &[(memory64, 256 << 20)]);
    function(&mut host, "0000:41:00.0").rom_size = 64 << 10;
    let devices = json!([{ "address": "41:00.0" }, { "address": "42:10.0" }]);
    let plan = plan(json!({ "devices": devices }), &host);
    assert_eq!(
        super::notes(&plan),
        [
            "the devices do without expansion ROMs: 32-bit BARs need the room",
            "0000:41:00.0 is on the root bus, behind no port: ports forward BARs such as its BAR 0 \
             of 1 GiB, 64-bit but not prefetchable, below 4 GiB only, where room is short",
        ]
    );
    let [large, other] = &plan.pci.functions[..] else { panic!("two functions") };
    assert_eq!((large.guest, large.bars[0].address), (guest(0, 1, 0), 4 << 30));
    assert_eq!((other.guest, other.bars[0].address), (guest(1, 0, 0), 0xc000_0000));
    // What can only be below 4 GiB is refused.
    let memory32 = BarKind::Memory32 { prefetchable: plain };
    set_bars(&mut host, "0000:41:00.0", &[(memory64, 1 << 30), (memory32, 1 << 30)]);
    let refused = Plan::new(&config(json!({ "devices": devices })), &host);
    assert!(matches!(refused, Err(PlanError::WindowFull { bar: 1, .. })), "{refused:?}");
}

#[test]
fn a_64_gib_bar_is_prefetchable_behind_its_port() {
    let mut host = server();
    let prefetchable = true;
    set_bars(&mut host, "0000:41:00.0", &[(BarKind::Memory64 { prefetchable }, 64 << 30)]);
    let plan = pci(&host, &["41:00.0", "42:10.0"]);
    let window = plan.roots[0].ports[0].windows.prefetchable.clone();
    assert_eq!(window, Some(64 << 30..128 << 30));
    let next = 128 << 30..(128 << 30) + (1 << 20);
    assert_eq!(plan.roots[0].ports[1].windows.prefetchable, Some(next));
}

#[test]
fn expansion_roms_have_an_address_below_4_gib() {
    let mut host = server();
    function(&mut host, "0000:41:00.0").rom_size = 512 << 10;
    let plan = pci(&host, &["41:00.0"]);
    let rom = plan.functions[0].rom.as_ref().expect("a ROM");
    let window: Range<u64> = plan.roots[0].ports[0].windows.memory.clone().expect("a window");
    assert!(window.contains(&rom.address) && rom.address.is_multiple_of(rom.size));
}

#[test]
fn a_bus_has_room_for_31_devices() {
    let mut host = server();
    let mut devices = Vec::new();
    for bus in 0x80u8..0xa0 {
        let address = format!("0000:{bus:02x}:00.0");
        member(&mut host, &address, u32::from(bus), Some("vfio-pci"));
        devices.push(json!({ "address": address }));
    }
    let config = config(json!({ "devices": devices }));
    assert_eq!(Plan::new(&config, &host), Err(PlanError::TooManyDevices { count: 32 }));
}

/// A card whose BAR 0 is 64 GiB beside a NIC.
fn with_large_bar() -> HostProfile {
    let mut host = server();
    set_bars(&mut host, "41:00.1", &[(BarKind::Memory64 { prefetchable: true }, 64 << 30)]);
    host
}

#[test]
fn a_bar_that_the_kernel_is_slow_to_map_stays_closed_to_peers() {
    let devices = json!([{ "address": "41:00.0" }, { "address": "41:00.1" }]);
    let decided = |host: &HostProfile, wish: &str| {
        let plan = plan(json!({ "devices": devices, "peer_to_peer": wish }), host);
        (plan.pci.largest_peer_bar, super::notes(&plan))
    };
    let mut host = with_large_bar();
    let (largest, notes) = decided(&host, "auto");
    assert_eq!(largest, 4 << 30);
    assert_eq!(
        notes,
        ["other devices do not reach BAR 0 of 0000:41:00.1, 64 GiB: Linux 6.12 is slow to map so \
          much, Linux 6.15 is not; `\"peer_to_peer\": \"on\"` maps it all the same"]
    );
    assert_eq!(decided(&host, "on"), (u64::MAX, vec![]));
    assert_eq!(decided(&host, "off"), (0, vec![]));
    let off = plan(json!({ "devices": devices, "peer_to_peer": "off" }), &host).to_string();
    assert!(off.contains("peer-to-peer  off, as the config says"), "{off}");
    host.linux = Some(LinuxVersion(6, 15));
    assert_eq!(decided(&host, "auto"), (u64::MAX, vec![]));
    // One device has no peers.
    let alone = plan(json!({ "devices": [{ "address": "41:00.1" }] }), &with_large_bar());
    assert_eq!((alone.pci.largest_peer_bar, alone.notes), (0, vec![]));
}

#[test]
fn a_bar_of_64_gib_is_naturally_aligned_above_ram() {
    let pci = pci(&with_large_bar(), &["41:00.1"]);
    assert_eq!(pci.functions[0].bars[0].address, 64 << 30);
    // A CPU that cannot reach it is told, with the width that there is.
    let mut host = with_large_bar();
    host.cpus.physical_bits = Some(36);
    let error = Plan::new(&config(json!({ "devices": [{ "address": "41:00.1" }] })), &host);
    let Err(PlanError::AddressSpace { what: "64-bit BARs", bits: 36, .. }) = error else {
        panic!("{error:?}");
    };
}

#[test]
fn sixteen_functions_have_a_place() {
    let mut host = server();
    let addresses: Vec<String> = (0..2u32)
        .flat_map(|card| (0..8u32).map(move |function| format!("0000:8{card}:00.{function}")))
        .collect();
    let functions = (30..).zip(&addresses).map(|(group, a)| (a.as_str(), igb(Some(1), group)));
    assign(&mut host, functions.collect());
    let wanted: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let pci = pci(&host, &wanted);
    assert_eq!(pci.functions.len(), 16);
    assert_eq!(pci.roots[0].ports.len(), 2);
    let mut ranges: Vec<Range<u64>> = pci
        .functions
        .iter()
        .flat_map(|f| f.bars.iter().filter(|bar| bar.kind != BarKind::Io))
        .map(|bar| bar.address..bar.address + bar.size)
        .collect();
    ranges.sort_unstable_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
}
