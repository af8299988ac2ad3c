//! The console's own devices: its keyboards, and serial ports that it writes to.

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::HostBdf;

use super::super::root::Root;
use super::functions_of;

/// Keyboards by the functions that they hang on, such as a USB controller.
///
/// The kernel's console listens to each. A keyboard is what has all of the keys 1 to 31, from
/// Escape to S, as for udev (`test_key` in its input_id.c); power buttons and headsets have not.
pub(super) fn keyboards(root: &Root) -> BTreeMap<HostBdf, String> {
    const INPUT: &str = "/sys/class/input";
    const ALL: u64 = 0xffff_fffe;

    let mut keyboards = BTreeMap::new();
    for name in root.names(INPUT).unwrap_or_default() {
        let folder = format!("{INPUT}/{name}");
        let Some(target) = root.link(&folder).filter(|_| name.starts_with("input")) else {
            continue;
        };
        let functions = functions_of(root, &target);
        if functions.is_empty() {
            continue;
        }
        // The last word has the lowest keys.
        let keys = root.glance(format!("{folder}/capabilities/key")).unwrap_or_default();
        let lowest = keys.split_whitespace().last();
        let lowest = lowest.and_then(|word| u64::from_str_radix(word, 16).ok()).unwrap_or(0);
        if lowest & ALL == ALL {
            let name = root.glance(format!("{folder}/name")).unwrap_or(name);
            keyboards.extend(functions.into_iter().map(|function| (function, name.clone())));
        }
    }
    keyboards
}

/// Serial ports that the kernel's console has.
pub(super) fn ports(root: &Root) -> BTreeSet<String> {
    // "ttyS4   -W- (EC   a)    4:68"
    let text = root.glance("/proc/consoles").unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with("tty") && *name != "tty0").map(str::to_owned).collect()
}
