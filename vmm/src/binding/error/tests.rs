//! Every refusal of `berth bind` and its like, with its remedy, in one text.

use std::collections::BTreeSet;
use std::io;

use super::*;
use crate::binding::setting::{Goal, Value};
use crate::host::fixture::{Fixture, golden};
use crate::host::{Holder, HostProfile, Query, Unseen};
use crate::state::StateError;
use crate::units::{Failure, PageSize, variants};

variants!(BindingError:
    Host
    NoSuchDevice
    Bridge
    NoGroup
    NoVfioPci
    NotAtBoot
    InUse
    NotSeen
    HasVirtualFunctions
    NoSriov
    TooManyVirtualFunctions
    NoRoom
    NoSuchIndex
    NoInterface
    Switchdev
    NotVirtual
    Ports
    BelongsToRun
    Unreadable
    Refused
    Unchanged
    Gone
    NoGroupFile
    NotRestored
    Journal
    State
    Damaged
    Persist
    Guard
);

fn refusals() -> Vec<BindingError> {
    let device: HostBdf = "0000:41:00.0".parse().expect("an address");
    let physical = device;
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    let pages = || Setting::HugePages { node: Some(1), size: PageSize::Size1G };
    let holder = Some(Holder { pid: 4711, comm: "qemu".to_owned() });
    vec![
        BindingError::Host(HostError::Absent { path: "/sys".into() }),
        BindingError::NoSuchDevice { device },
        BindingError::Bridge { device },
        BindingError::NoGroup { device },
        BindingError::NoVfioPci(ModuleError::Refused("FATAL: Module vfio-pci not found".into())),
        BindingError::NotAtBoot { device, physical },
        BindingError::InUse { device, uses: vec![HostUse::OpenVfio { holder }] },
        BindingError::InUse {
            device,
            uses: vec![HostUse::Mounted { device: "nvme0n1p1".into(), at: "/".into() }],
        },
        BindingError::NotSeen { device, unseen: vec![Unseen::OpenFiles] },
        BindingError::HasVirtualFunctions { device, count: 4 },
        BindingError::NoSriov { device, is_virtual: true },
        BindingError::TooManyVirtualFunctions { device, count: 9, max: 7 },
        BindingError::NoRoom { device },
        BindingError::NoSuchIndex { device, index: 4, count: 4 },
        BindingError::NoInterface { device, is_network: true },
        BindingError::NoInterface { device, is_network: false },
        BindingError::Switchdev { device },
        BindingError::NotVirtual { device },
        BindingError::Ports { interface: "ens1".into(), source: denied() },
        BindingError::BelongsToRun { device, run: "router".into() },
        BindingError::Unreadable { setting: Setting::Driver(device), source: denied() },
        BindingError::Refused {
            setting: Setting::Driver(device),
            call: "echo x > bind".into(),
            source: denied(),
        },
        BindingError::Refused {
            setting: Setting::Override(device),
            call: "echo x > driver_override".into(),
            source: io::Error::from(io::ErrorKind::ReadOnlyFilesystem),
        },
        BindingError::Unchanged {
            setting: pages(),
            wanted: Goal::Is(Value::Count(8)),
            found: Value::Count(5),
        },
        BindingError::Gone { setting: Setting::VfCount(device) },
        BindingError::NoGroupFile { device, group: 14 },
        BindingError::NotRestored { count: 1, total: 3 },
        BindingError::Journal { path: "/var/lib/berth".into(), source: denied() },
        BindingError::State(StateError::Foreign { path: "/tmp/berth".into(), owner: 1000, own: 0 }),
        BindingError::State(StateError::Writable { path: "/srv/berth".into(), mode: 0o1777 }),
        BindingError::State(StateError::Busy {
            path: "/var/lib/berth/lock".into(),
            holder: Some("`berth-guard run router.json` (process 4711)".to_owned()),
            waited: std::time::Duration::from_secs(300),
        }),
        BindingError::Damaged { path: "journal".into(), line: 3, why: "no JSON".into() },
        BindingError::Persist { path: "/etc/modprobe.d/berth.conf".into(), source: denied() },
        BindingError::Guard(denied()),
    ]
}

#[test]
fn refusals_name_the_object_and_the_remedy() {
    let root = Fixture::server().root();
    let mut host = HostProfile::read(&root, &Query::default()).expect("a host");
    host.look_around(&root);
    host.iommu.units.clear();
    let (mut text, mut met) = (Vec::new(), BTreeSet::new());
    for error in refusals() {
        met.insert(variant(&error));
        let failure = Failure::new(error.code().name(), &error, error.help(&host));
        failure.write(&mut text).expect("memory takes all");
        text.push(b'\n');
    }
    golden("binding/golden/refusals.txt", &String::from_utf8(text).expect("text"));
    assert_eq!(met, BTreeSet::from_iter(VARIANTS.iter().copied()), "each refusal has a text");
}
