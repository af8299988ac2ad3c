//! Who may have which function, on hosts made by hand.

use super::*;
use crate::host::{Depth, Holder, IommuGroup, PciFunction, Sriov};

pub(crate) fn bdf(text: &str) -> HostBdf {
    text.parse().expect("an address")
}

/// An endpoint in a group of its own, which has the number of its bus.
pub(crate) fn candidate(address: HostBdf, driver: Option<&str>) -> HostFunction {
    let function = PciFunction {
        vendor: 0x8086,
        device: 0x10c9,
        class: 0x02_0000,
        driver: driver.map(str::to_owned),
        driver_override: None,
        node: None,
        group: Some(address.bus().into()),
        iommu_unit: None,
        device_file: None,
        is_virtual: false,
        link: None,
        interrupt_pin: 0,
        bars: Vec::new(),
        rom_size: 0,
        unfit: Vec::new(),
        msix_vectors: None,
        reset_methods: Vec::new(),
    };
    HostFunction { depth: Depth::Take, ..HostFunction::of(function) }
}

/// A host with these functions, given with their drivers.
pub(crate) fn host(functions: &[(&str, Option<&str>)]) -> Functions {
    let mut host = Functions { vfio_pci: true, ..Functions::default() };
    for (address, driver) in functions {
        let address = bdf(address);
        let empty = || IommuGroup { members: Vec::new(), reserved: Vec::new() };
        let group = host.groups.entry(address.bus().into()).or_insert_with(empty);
        group.members.push(address);
        host.read.insert(address, candidate(address, *driver));
    }
    host
}

fn change(host: &mut Functions, address: &str, change: impl Fn(&mut HostFunction)) {
    change(host.read.get_mut(&bdf(address)).expect("it is there"));
}

fn text(steps: &[Step]) -> Vec<String> {
    let changes = steps.iter().filter(|step| step.changes());
    changes.map(|step| format!("{}: {} -> {}", step.setting, step.before, step.after)).collect()
}

fn try_bind(host: &Functions, asked: &[&str], options: BindOptions) -> Result<Vec<String>, String> {
    let asked: Vec<HostBdf> = asked.iter().map(|address| bdf(address)).collect();
    let steps = members(host, &asked, options).and_then(|all| bind(host, &all, options));
    steps.map(|steps| text(&steps)).map_err(|error| error.to_string())
}

const FORCE: BindOptions =
    BindOptions { force: true, group: false, dry_run: false, persist: false };

#[test]
fn binding_sets_the_override_and_then_the_driver() {
    let host = host(&[("21:00.0", Some("igb")), ("22:00.0", None)]);
    assert_eq!(
        try_bind(&host, &["21:00.0", "22:00.0"], BindOptions::default()).expect("bound"),
        [
            "driver_override of 0000:21:00.0: none -> vfio-pci",
            "driver of 0000:21:00.0: igb -> vfio-pci",
            "driver_override of 0000:22:00.0: none -> vfio-pci",
            "driver of 0000:22:00.0: none -> vfio-pci",
        ]
    );
}

#[test]
fn what_a_vfio_driver_has_stays_even_when_it_is_held() {
    let mut host = host(&[("21:00.0", Some("mlx5_vfio_pci"))]);
    change(&mut host, "21:00.0", |found| {
        found.uses = vec![HostUse::OpenVfio { holder: None }];
    });
    assert_eq!(try_bind(&host, &["21:00.0"], BindOptions::default()), Ok(vec![]));
}

#[test]
fn a_group_is_taken_without_its_bridges() {
    let mut host =
        host(&[("21:00.0", Some("igb")), ("21:00.1", Some("igb")), ("21:1f.0", Some("pcieport"))]);
    change(&mut host, "21:1f.0", |found| found.function.class = 0x06_0400);
    let steps =
        try_bind(&host, &["21:00.0"], BindOptions { group: true, ..BindOptions::default() })
            .expect("bound");
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert!(steps[3].starts_with("driver of 0000:21:00.1"), "{steps:?}");
    let alone = BTreeSet::from([bdf("21:00.0")]);
    assert_eq!(
        notes(&host, &alone),
        ["IOMMU group 33 also has 0000:21:00.1 (igb): --group takes all of it"]
    );
}

#[test]
fn refusals_name_the_function_and_the_reason() {
    let nic = &[("21:00.0", Some("igb"))];
    let route = || {
        let interface = "eth0".to_owned();
        let addresses = vec!["192.0.2.7/24".to_owned()];
        vec![HostUse::Network { interface, addresses, default_route: true, master: None }]
    };
    type Change = fn(&mut Functions);
    let table: [(Change, &str); 4] = [
        (
            |host| change(host, "21:00.0", |found| found.function.class = 0x06_0400),
            "0000:21:00.0 is a bridge, and only endpoints can be passed through",
        ),
        (
            |host| change(host, "21:00.0", |found| found.function.group = None),
            "0000:21:00.0 is in no IOMMU group, and vfio-pci only takes functions of one",
        ),
        (
            |host| {
                change(host, "21:00.0", |found| {
                    let functions = vec![bdf("21:10.0"), bdf("21:10.2")];
                    found.sriov = Some(Sriov { max: 7, functions, ..Sriov::default() });
                });
            },
            "0000:21:00.0 has 2 virtual functions, which go with its driver",
        ),
        (|host| host.read.clear(), "there is no PCI function 0000:21:00.0 on this host"),
    ];
    for (change, message) in table {
        let mut host = host(nic);
        change(&mut host);
        // Not even --force does what cannot work.
        assert_eq!(try_bind(&host, &["21:00.0"], FORCE), Err(message.to_owned()));
    }
    let mut host = host(nic);
    change(&mut host, "21:00.0", |found| found.uses = route());
    assert_eq!(
        try_bind(&host, &["21:00.0"], BindOptions::default()),
        Err("0000:21:00.0 is in use: it is eth0 with 192.0.2.7/24, which the default route uses"
            .to_owned())
    );
    assert_eq!(try_bind(&host, &["21:00.0"], FORCE).map(|steps| steps.len()), Ok(2));
}

#[test]
fn unbinding_goes_back_to_what_the_journal_knows() {
    let mut host = host(&[("21:00.0", Some("vfio-pci"))]);
    change(&mut host, "21:00.0", |found| {
        found.function.driver_override = Some("vfio-pci".to_owned());
    });
    let devices = BTreeSet::from([bdf("21:00.0")]);
    let igb = |setting: &Setting| match setting {
        Setting::Driver(_) => Some(Value::Name("igb".to_owned())),
        _ => Some(Value::Nothing),
    };
    let steps = unbind(&host, &devices, BindOptions::default(), igb).expect("given back");
    assert_eq!(
        text(&steps),
        [
            "driver_override of 0000:21:00.0: vfio-pci -> none",
            "driver of 0000:21:00.0: vfio-pci -> igb",
        ]
    );
    let steps = unbind(&host, &devices, BindOptions::default(), |_| None).expect("given back");
    assert_eq!(text(&steps)[1], "driver of 0000:21:00.0: vfio-pci -> the kernel's options");

    change(&mut host, "21:00.0", |found| {
        found.uses =
            vec![HostUse::OpenVfio { holder: Some(Holder { pid: 7, comm: "qemu".to_owned() }) }];
    });
    let error = unbind(&host, &devices, BindOptions::default(), igb).expect_err("it is held");
    assert_eq!(error.to_string(), "0000:21:00.0 is in use: it is open in process 7 (qemu)");
    assert_eq!(
        overridden_back(&host, &devices),
        ["--force takes 0000:21:00.0 from VFIO, although it is open in process 7 (qemu)"]
    );

    change(&mut host, "21:00.0", |found| found.function.driver = Some("igb".to_owned()));
    let steps =
        unbind(&host, &devices, BindOptions::default(), |_| None).expect("it is where it was");
    assert_eq!(steps, []);
}
