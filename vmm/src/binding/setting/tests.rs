//! The writes that each change needs, as the kernel wants them.

use super::*;

fn lines(setting: &Setting, now: Value, goal: Goal) -> Vec<String> {
    setting.acts(&now, &goal).iter().map(ToString::to_string).collect()
}

#[test]
fn each_setting_is_changed_by_the_writes_that_the_kernel_wants() {
    let nic: HostBdf = "0000:21:00.0".parse().expect("an address");
    let name = |name: &str| Value::Name(name.to_owned());
    let sysfs = "/sys/bus/pci/devices/0000:21:00.0";
    let unbind = format!("echo 0000:21:00.0 > {sysfs}/driver/unbind");
    let bind = |driver: &str| format!("echo 0000:21:00.0 > /sys/bus/pci/drivers/{driver}/bind");
    let count = |count: u32| format!("echo {count} > {sysfs}/sriov_numvfs");
    let table: Vec<(Setting, Value, Goal, Vec<String>)> = vec![
        (
            Setting::Driver(nic),
            name("igb"),
            Goal::Is(name("vfio-pci")),
            vec![unbind.clone(), bind("vfio-pci")],
        ),
        (Setting::Driver(nic), Value::Nothing, Goal::Is(name("igb")), vec![bind("igb")]),
        (Setting::Driver(nic), name("igb"), Goal::Is(name("igb")), vec![]),
        (Setting::Driver(nic), name("igb"), Goal::Is(Value::Nothing), vec![unbind.clone()]),
        (
            Setting::Driver(nic),
            name("vfio-pci"),
            Goal::Probe,
            vec![unbind, "echo 0000:21:00.0 > /sys/bus/pci/drivers_probe".to_owned()],
        ),
        (Setting::Driver(nic), name("igbvf"), Goal::Lost, vec![]),
        (
            Setting::Override(nic),
            name("vfio-pci"),
            Goal::Is(Value::Nothing),
            vec![format!("echo > {sysfs}/driver_override")],
        ),
        (
            Setting::Override(nic),
            Value::Nothing,
            Goal::Is(name("vfio-pci")),
            vec![format!("echo vfio-pci > {sysfs}/driver_override")],
        ),
        (Setting::VfCount(nic), Value::Count(0), Goal::Is(Value::Count(2)), vec![count(2)]),
        (Setting::VfCount(nic), Value::Count(2), Goal::Is(Value::Count(0)), vec![count(0)]),
        (
            Setting::VfCount(nic),
            Value::Count(2),
            Goal::Is(Value::Count(4)),
            vec![count(0), count(4)],
        ),
        (
            Setting::HugePages { node: Some(1), size: PageSize::Size1G },
            Value::Count(0),
            Goal::Is(Value::Count(2)),
            vec![
                "echo 2 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages"
                    .to_owned(),
            ],
        ),
    ];
    for (setting, now, goal, expected) in table {
        assert_eq!(lines(&setting, now, goal), expected, "{setting}");
    }
}
