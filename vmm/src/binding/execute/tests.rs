//! Changes on a kernel that obeys the driver core's rules, ended after every single step.

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use super::super::fake::{BURNT, FakeDisk, FakeKernel, physical, virtual_function};
use super::super::setting::Act;
use super::*;
use crate::units::PageSize;
use crate::units::VfPort;

fn name(text: &str) -> Value {
    Value::Name(text.to_owned())
}

fn bind(function: HostBdf, from: &str, virtual_of: Option<HostBdf>) -> Vec<Step> {
    let only = Step::to(Setting::Override(function), Value::Nothing, name("vfio-pci"));
    let driver = Step::to(Setting::Driver(function), name(from), name("vfio-pci"));
    vec![only.of(virtual_of), driver.of(virtual_of)]
}

/// From four virtual functions of the host to two with ports, and pages.
fn renumber() -> Vec<Step> {
    let port = |index| Setting::VfPort { physical: physical(), index };
    let old = VfPort { spoof_check: true, ..VfPort::default() };
    let mut steps = Vec::new();
    for index in 0..4 {
        let function = virtual_function(index);
        let lost = |setting, before| Step::new(setting, before, Goal::Lost).of(Some(physical()));
        steps.push(lost(port(index), Value::Port(old.clone())));
        steps.push(lost(Setting::Override(function), Value::Nothing));
        steps.push(lost(Setting::Driver(function), name("igbvf")));
    }
    let autoprobe = Setting::VfAutoprobe(physical());
    steps.push(Step::to(autoprobe.clone(), Value::Count(1), Value::Count(0)));
    steps.push(Step::to(Setting::VfCount(physical()), Value::Count(4), Value::Count(2)));
    for index in 0..2 {
        let new =
            VfPort { vlan: 7, mac: "52:54:00:00:00:01".parse().expect("a MAC"), ..old.clone() };
        steps.push(Step::to(port(index), Value::Port(old.clone()), Value::Port(new)));
        steps.extend(bind(virtual_function(index), "igbvf", Some(physical())));
    }
    steps.push(Step::to(autoprobe, Value::Count(0), Value::Count(1)));
    let pages = Setting::HugePages { node: Some(1), size: PageSize::Size1G };
    steps.push(Step::to(pages, Value::Count(0), Value::Count(2)));
    steps
}

/// The journal in `folder`, on a disk whose order with `kernel` is watched.
fn open(kernel: &FakeKernel, folder: &Path) -> Journal {
    Journal::open_on(Box::new(FakeDisk::beside(kernel, folder)), folder).expect("a journal")
}

fn all(kernel: &FakeKernel, journal: &mut Journal) -> Vec<Restored> {
    restore(kernel, journal, &BTreeMap::new(), |_| true).expect("the journal can be written")
}

#[test]
fn binding_writes_what_the_kernel_wants_and_the_way_back_is_the_reverse() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = FakeKernel::new();
    let before = kernel.state();
    let mut journal = open(&kernel, folder.path());
    run(&kernel, &mut journal, &bind(physical(), "igb", None), None).expect("bound");
    run(&kernel, &mut journal, &bind(physical(), "igb", None), None).expect("bound already");
    let sysfs = "/sys/bus/pci/devices/0000:21:00.0";
    assert_eq!(
        kernel.log(),
        [
            format!("echo vfio-pci > {sysfs}/driver_override"),
            format!("echo 0000:21:00.0 > {sysfs}/driver/unbind"),
            "echo 0000:21:00.0 > /sys/bus/pci/drivers/vfio-pci/bind".to_owned(),
        ]
    );
    all(&kernel, &mut journal);
    assert_eq!(
        kernel.log()[3..],
        [
            format!("echo > {sysfs}/driver_override"),
            format!("echo 0000:21:00.0 > {sysfs}/driver/unbind"),
            "echo 0000:21:00.0 > /sys/bus/pci/drivers/igb/bind".to_owned(),
        ]
    );
    assert_eq!(kernel.state(), before);
    assert!(journal.entries().is_empty());
}

#[test]
fn a_step_that_fails_undoes_those_before_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = FakeKernel::new();
    let before = kernel.state();
    let mut journal = open(&kernel, folder.path());
    let mut steps = bind(physical(), "igb", None);
    steps.push(Step::to(Setting::VfCount(physical()), Value::Count(0), Value::Count(1)));
    let error = run(&kernel, &mut journal, &steps, None).expect_err("vfio-pci makes none");
    assert!(matches!(error, BindingError::Refused { .. }), "{error}");
    assert_eq!(kernel.state(), before);
    assert!(journal.entries().is_empty());
}

/// The kernel takes a number of huge pages and makes as many as it has memory for.
#[test]
fn a_call_that_succeeds_and_changes_too_little_is_undone() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut kernel = FakeKernel::new();
    kernel.most_pages = 1;
    let before = kernel.state();
    let mut journal = open(&kernel, folder.path());
    let pages = Setting::HugePages { node: None, size: PageSize::Size1G };
    let mut steps = bind(physical(), "igb", None);
    steps.push(Step::to(pages, Value::Count(0), Value::Count(2)));
    let error = run(&kernel, &mut journal, &steps, None).expect_err("one page is too few");
    assert!(matches!(error, BindingError::Unchanged { found: Value::Count(1), .. }), "{error}");
    assert_eq!(kernel.state(), before);
    assert!(journal.entries().is_empty());
}

/// A driver reads its MAC once.
#[test]
fn virtual_functions_that_come_back_have_their_ports_before_their_drivers() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = FakeKernel::new().with_virtual_functions(4);
    for index in 0..4 {
        let port = VfPort { vlan: 9, spoof_check: true, ..VfPort::default() };
        let before = VfPort::default();
        let act = Act::SetPort { physical: physical(), index, before, port };
        kernel.perform(&act).expect("there is such a function");
        // Whoever set them loaded the drivers again.
        let (function, sysfs) = (virtual_function(index).to_string(), "/sys/bus/pci");
        kernel
            .write(&format!("{sysfs}/devices/{function}/driver/unbind"), &function)
            .expect("bound");
        kernel.write(&format!("{sysfs}/drivers/igbvf/bind"), &function).expect("free");
    }
    let mut journal = open(&kernel, folder.path());
    let steps = renumber().into_iter().map(|step| match (&step.setting, &step.after) {
        (Setting::VfPort { index, .. }, Goal::Lost) => {
            let port = VfPort { vlan: 9, spoof_check: true, ..VfPort::default() };
            let setting = Setting::VfPort { physical: physical(), index: *index };
            Step::new(setting, Value::Port(port), Goal::Lost).of(Some(physical()))
        }
        _ => step,
    });
    run(&kernel, &mut journal, &steps.collect::<Vec<_>>(), None).expect("all steps are possible");
    assert_eq!(kernel.surprised(), []);
    all(&kernel, &mut journal);
    assert_eq!(kernel.surprised(), []);
}

#[test]
fn what_is_held_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = FakeKernel::new();
    let mut journal = open(&kernel, folder.path());
    run(&kernel, &mut journal, &bind(physical(), "igb", None), Some("run")).expect("bound");
    let bound = kernel.state();
    let held = BTreeMap::from([(physical(), "a machine has it".to_owned())]);
    let kept = restore(&kernel, &mut journal, &held, |_| true).expect("room");
    assert!(kept.iter().all(|one| one.outcome == Outcome::Kept));
    assert_eq!(kernel.state(), bound);
    assert_eq!(journal.entries().len(), 2);
}

#[test]
fn a_change_that_lasts_takes_over_one_for_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = FakeKernel::new();
    let mut journal = open(&kernel, folder.path());
    let steps = bind(physical(), "igb", None);
    run(&kernel, &mut journal, &steps, Some("run")).expect("bound");
    run(&kernel, &mut journal, &steps, None).expect("bound already");
    assert!(journal.entries().iter().all(|entry| entry.owner.is_none()));
    run(&kernel, &mut journal, &steps, Some("another")).expect("bound already");
    assert!(journal.entries().iter().all(|entry| entry.owner.is_none()));
    all(&kernel, &mut journal);
    assert_eq!(kernel.state(), FakeKernel::new().state());
}

#[test]
fn a_run_on_top_of_a_change_that_lasts_goes_back_to_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = FakeKernel::new();
    let before = kernel.state();
    let mut journal = open(&kernel, folder.path());
    let driver = Setting::Driver(physical());
    let idle = [Step::to(driver, name("igb"), Value::Nothing)];
    run(&kernel, &mut journal, &idle, None).expect("idle");
    let lasting = kernel.state();
    run(&kernel, &mut journal, &bind(physical(), "igb", None), Some("run")).expect("bound");
    let bound = kernel.state();

    let nobody = BTreeMap::new();
    let kept = restore(&kernel, &mut journal, &nobody, |entry| entry.owner.is_none());
    assert!(kept.expect("room").iter().all(|one| one.outcome == Outcome::Kept));
    assert_eq!(kernel.state(), bound, "a machine that runs keeps what it has");

    drop(journal);
    let mut journal = open(&kernel, folder.path());
    restore(&kernel, &mut journal, &nobody, |entry| entry.owner.is_some()).expect("room");
    assert_eq!(kernel.state(), lasting);
    all(&kernel, &mut journal);
    assert_eq!(kernel.state(), before);
}

#[test]
fn virtual_functions_that_berth_made_are_forgotten_with_their_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = FakeKernel::new();
    let before = kernel.state();
    let mut journal = open(&kernel, folder.path());
    let count = Setting::VfCount(physical());
    let make = [Step::to(count.clone(), Value::Count(0), Value::Count(2))];
    run(&kernel, &mut journal, &make, None).expect("made");
    let steps = bind(virtual_function(0), "igbvf", Some(physical()));
    run(&kernel, &mut journal, &steps, None).expect("bound");
    assert_eq!(journal.entries().len(), 3);
    let unmake = [Step::to(count, Value::Count(2), Value::Count(0))];
    run(&kernel, &mut journal, &unmake, None).expect("unmade");
    assert_eq!(kernel.state(), before);
    assert!(journal.entries().is_empty());
}

#[test]
fn a_number_that_cannot_be_put_back_yet_keeps_what_comes_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = FakeKernel::new().with_virtual_functions(4);
    let before = kernel.state();
    let mut journal = open(&kernel, folder.path());
    run(&kernel, &mut journal, &renumber(), None).expect("all steps are possible");
    let sysfs = "/sys/bus/pci";
    let nic = physical().to_string();
    kernel.write(&format!("{sysfs}/devices/{nic}/driver/unbind"), &nic).expect("bound");
    let restored = all(&kernel, &mut journal);
    let failed = restored.iter().filter(|one| one.outcome == Outcome::Failed).count();
    assert_eq!(failed, 13, "the number, and port, override and driver of four: {restored:#?}");
    kernel.write(&format!("{sysfs}/drivers/igb/bind"), &nic).expect("free");
    all(&kernel, &mut journal);
    assert_eq!(kernel.state(), before);
    assert!(journal.entries().is_empty());
}

/// Every line of the journal and every call to the kernel is a place to die, before and after it;
/// a line may also be cut in half. However it ends, one `restore` leads back, and so does one
/// that dies itself and is followed by another.
#[test]
fn whatever_the_moment_of_death_there_is_a_way_back() {
    // A burnt fuse is no news.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<String>().is_none_or(|text| text != BURNT) {
            hook(info);
        }
    }));
    let mut deaths = 0;
    for steps in [renumber(), bind(physical(), "igb", None)] {
        let make = || match steps.len() {
            2 => FakeKernel::new(),
            _ => FakeKernel::new().with_virtual_functions(4),
        };
        for moment in 0.. {
            let folder = tempfile::tempdir().expect("a folder");
            let kernel = make();
            let before = kernel.state();
            if !dies(&kernel, folder.path(), moment, |kernel, journal| {
                run(kernel, journal, &steps, None).expect("all steps are possible");
            }) {
                assert_ne!(kernel.state(), before, "the steps change something");
                break;
            }
            deaths += 1;
            // Every third moment is enough for the second death: the two are independent.
            if moment % 3 == 0 {
                dies(&kernel, folder.path(), moment, |kernel, journal| {
                    all(kernel, journal);
                });
            }
            let mut journal = open(&kernel, folder.path());
            let restored = all(&kernel, &mut journal);
            assert_eq!(
                kernel.state(),
                before,
                "death {moment}: {restored:#?}\n{:#?}",
                kernel.log()
            );
            assert!(journal.entries().is_empty(), "{:?}", journal.entries());
        }
    }
    assert!(deaths > 60, "{deaths}");
}

/// Whether the fuse ended `body`.
fn dies(
    kernel: &FakeKernel,
    folder: &Path,
    moment: u32,
    body: impl Fn(&FakeKernel, &mut Journal),
) -> bool {
    let mut journal = open(kernel, folder);
    kernel.fuse.light(Some(moment));
    let end = panic::catch_unwind(AssertUnwindSafe(|| body(kernel, &mut journal)));
    let died = match end {
        Ok(()) => false,
        Err(payload) if payload.downcast_ref::<String>().is_some_and(|text| text == BURNT) => true,
        // A rule was broken, which is no death.
        Err(payload) => panic::resume_unwind(payload),
    };
    kernel.fuse.light(None);
    died
}
