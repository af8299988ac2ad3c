//! Other network namespaces: interfaces there that stand on one of ours, or that are a function's.
//!
//! sysfs and procfs show those of one namespace only. A macvlan, an ipvlan or a VLAN that was moved
//! away leaves no trace beside the interface that it stands on (`netdev_adjacent_sysfs_add` in the
//! kernel's net/core/dev.c), so that each namespace is asked itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::thread;

use berth_devices::pci::HostBdf;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::addresses::{self, Link};
use super::super::root::Root;
use super::functions_of;
use crate::netlink::{Request, attributes, number};

/// The namespace of this process.
const OURS: &str = "/proc/self/ns/net";

/// Most namespaces that are asked; each takes a tenth of a millisecond.
const MOST: usize = 2048;

/// An interface in another network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InterfaceElsewhere {
    /// What it is called there.
    pub(super) name: String,
    /// The interface of ours that it stands on.
    pub(super) lower: Option<String>,
    /// The functions that it is part of, with the controllers before them.
    pub(super) functions: Vec<HostBdf>,
    /// Whose namespace it is: `process 7 (nginx)`, or the file that keeps it.
    pub(super) namespace: String,
}

/// Network namespaces as they are found, each with a file that leads into it.
#[derive(Debug)]
pub(super) struct Namespaces {
    ours: Option<PathBuf>,
    others: BTreeMap<PathBuf, (PathBuf, String)>,
}

impl Namespaces {
    /// Those that files keep, as `ip netns` makes them; processes have more.
    pub(super) fn kept() -> Self {
        let mut found = Self { ours: fs::read_link(OURS).ok(), others: BTreeMap::new() };
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for (namespace, file) in text.lines().filter_map(kept) {
            found.add(namespace, file.clone(), || file.display().to_string());
        }
        found
    }

    /// Adds the one called `namespace`, which `file` leads into.
    pub(super) fn add(&mut self, namespace: PathBuf, file: PathBuf, name: impl Fn() -> String) {
        if self.ours.as_ref() != Some(&namespace) {
            self.others.entry(namespace).or_insert_with(|| (file, name()));
        }
    }

    /// What is in them of this host's functions, and whether all of them could be asked.
    pub(super) fn interfaces(self, root: &Root) -> (Vec<InterfaceElsewhere>, bool) {
        if self.others.is_empty() {
            return (Vec::new(), true);
        }
        let Ok((ours, own)) = File::open(OURS).and_then(|ours| Ok((ours, addresses::links()?)))
        else {
            return (Vec::new(), false);
        };
        let own: BTreeMap<u32, String> =
            own.into_iter().map(|link| (link.index, link.name)).collect();
        let mut is_complete = self.others.len() <= MOST;
        let others: Vec<(PathBuf, String)> = self.others.into_values().take(MOST).collect();
        // Only the thread that enters a namespace is in it, and this one ends there.
        let asked = thread::scope(|scope| {
            let ask = || others.iter().map(|(file, _)| ask(file, &ours)).collect::<Vec<_>>();
            // Where threads are limited, or a filter allows none, nothing is seen.
            let thread = thread::Builder::new().spawn_scoped(scope, ask);
            thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_default()
        });
        is_complete &= asked.len() == others.len();
        let mut all = Vec::new();
        for ((_, namespace), answer) in others.iter().zip(asked) {
            let (links, id): (Vec<Link>, _) = match answer {
                Ok(answer) => answer,
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => {
                    is_complete = false;
                    continue;
                }
            };
            all.extend(
                links.into_iter().filter_map(|link| of_ours(root, link, id, &own, namespace)),
            );
        }
        (all, is_complete)
    }
}

/// A namespace that is mounted, such as `/run/netns/red`, by a line of mountinfo.
fn kept(line: &str) -> Option<(PathBuf, PathBuf)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (namespace, at) = (words.get(3)?, words.get(4)?);
    namespace.starts_with("net:[").then(|| (PathBuf::from(namespace), PathBuf::from(at)))
}

/// The interfaces of the namespace that `file` leads into, and what it calls ours, if it does.
fn ask(file: &Path, ours: &File) -> io::Result<(Vec<Link>, Option<i32>)> {
    /// Attributes of the answer and of the question (include/uapi/linux/net_namespace.h).
    const NETNSA_NSID: u16 = 1;
    const NETNSA_FD: u16 = 3;
    /// Bytes of `struct rtgenmsg` up to the first attribute.
    const FAMILY: usize = 4;

    let namespace = File::open(file)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    // The kernel gives our namespace a number there when an interface needs it: it comes first.
    let links = addresses::links()?;
    let request = Request::new(libc::RTM_GETNSID, 0, &[0; FAMILY]);
    let answer = request.with(NETNSA_FD, &ours.as_raw_fd().to_ne_bytes()).ask()?;
    let mut bodies = answer.iter().filter_map(|message| message.body.get(FAMILY..));
    let id = bodies.find_map(|body| attributes(body).find(|(kind, _)| *kind == NETNSA_NSID));
    // Without a number it is -1.
    let id = id.map(|(_, value)| number(value).cast_signed()).filter(|id| *id >= 0);
    Ok((links, id))
}

/// The interface, if it stands on one of ours or is part of a function.
fn of_ours(
    root: &Root,
    link: Link,
    our_id: Option<i32>,
    own: &BTreeMap<u32, String>,
    namespace: &str,
) -> Option<InterfaceElsewhere> {
    let is_ours = link.lower_namespace.is_some() && link.lower_namespace == our_id;
    let lower = link.lower.filter(|_| is_ours).and_then(|index| own.get(&index)).cloned();
    let functions = link.parent.and_then(|(bus, device)| {
        let path = root.link(format!("/sys/bus/{bus}/devices/{device}"))?;
        Some(functions_of(root, &path))
    });
    let functions = functions.unwrap_or_default();
    let (name, namespace) = (link.name, namespace.to_owned());
    (lower.is_some() || !functions.is_empty()).then_some(InterfaceElsewhere {
        name,
        lower,
        functions,
        namespace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{Fixture, NIC};

    #[test]
    fn namespaces_that_files_keep_are_mounts() {
        let of = |line| kept(line);
        let red = "301 25 0:4 net:[4026532219] /run/netns/red rw shared:9 - nsfs nsfs rw";
        let expected = ("net:[4026532219]".into(), "/run/netns/red".into());
        assert_eq!(of(red), Some(expected));
        assert_eq!(of("302 25 0:4 mnt:[4026532220] /run/ns/x rw - nsfs nsfs rw"), None);
        assert_eq!(of("25 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn an_interface_there_is_of_this_host_by_what_it_stands_on_or_is() {
        let root = Fixture::server().root();
        let own = BTreeMap::from([(2, "eno1".to_owned())]);
        let link = |lower, lower_namespace, parent: Option<&str>| Link {
            index: 9,
            name: "mv0".to_owned(),
            lower,
            lower_namespace,
            parent: parent.map(|device| ("pci".to_owned(), device.to_owned())),
        };
        let of = |link| of_ours(&root, link, Some(4), &own, "process 7 (sh)");
        let on = of(link(Some(2), Some(4), None)).expect("it stands on ours");
        assert_eq!(on.lower.as_deref(), Some("eno1"));
        let part = of(link(None, None, Some(NIC.address))).expect("it is a function's");
        assert!(part.functions.contains(&NIC.address.parse().expect("an address")), "{part:?}");
        // An interface of the same number in the namespace itself, or in a third one.
        assert_eq!(of(link(Some(2), None, None)), None);
        assert_eq!(of(link(Some(2), Some(5), None)), None);
        // One that is gone.
        assert_eq!(of(link(Some(3), Some(4), None)), None);
        // Nobody there knows ours.
        let unknown = link(Some(2), None, None);
        assert_eq!(of_ours(&root, unknown, None, &own, "process 7 (sh)"), None);
    }

    #[test]
    fn one_that_cannot_be_entered_is_not_seen() {
        let mut namespaces = Namespaces::kept();
        namespaces.others.clear();
        namespaces.add("net:[1]".into(), "/dev/null".into(), String::new);
        let (found, is_complete) = namespaces.interfaces(&Root::live());
        assert_eq!((found, is_complete), (Vec::new(), false));
    }
}
