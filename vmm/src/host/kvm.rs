//! KVM's own answer to whether it can run a guest.

use std::path::Path;

use kvm_ioctls::Kvm;
use serde::Serialize;

use super::Access;
use super::root::Root;
use super::tree::Entry;

/// Where a snapshot has what KVM answered.
const KVM: &str = "/dev/kvm";
/// What a snapshot says there, where KVM made a virtual machine.
const WORKS: &str = "makes virtual machines";
/// The same, where there is no KVM.
const MISSING: &str = "missing";

/// What KVM says when it is asked for a virtual machine. It outranks what the CPUs' flags let one
/// guess: KVM may run without vmx and svm (paravirtual hosts), and may refuse with either.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmAnswer {
    /// It was not asked.
    #[default]
    Unknown,
    /// It made one.
    Works,
    /// It made none, with the system's reason.
    Refused(String),
}

impl KvmAnswer {
    /// Asks this host's KVM, as far as `access` lets this process, or looks at what it answered
    /// when a snapshot was taken. The machine is gone when this returns.
    pub(super) fn ask(root: &Root, access: &Access) -> Self {
        if !root.is_live() {
            return match root.glance(KVM).as_deref() {
                None | Some("" | MISSING) => Self::Unknown,
                Some(WORKS) => Self::Works,
                Some(reason) => Self::Refused(reason.to_owned()),
            };
        }
        // A recorded root opens no device files to see whether they open; this one is asked.
        let access = if root.is_recorded() { &Access::open(Path::new(KVM)) } else { access };
        let (answer, text) = match access {
            Access::Granted => match Kvm::new().and_then(|kvm| kvm.create_vm()) {
                Ok(_) => (Self::Works, WORKS.to_owned()),
                Err(error) => {
                    let reason = std::io::Error::from(error).to_string();
                    (Self::Refused(reason.clone()), reason)
                }
            },
            Access::Missing => (Self::Unknown, MISSING.to_owned()),
            // Of others than this process that says nothing.
            Access::Denied | Access::Busy(_) | Access::Failed(_) | Access::Unknown => {
                return Self::Unknown;
            }
        };
        root.remember(Path::new(KVM), || Entry::File((text + "\n").into_bytes()));
        answer
    }
}

/// Whether a snapshot says that its host had no /dev/kvm.
pub(super) fn was_missing(root: &Root) -> bool {
    !root.is_live() && root.glance(KVM).as_deref() == Some(MISSING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    #[test]
    fn a_snapshot_has_the_answer() {
        for (text, answer, missing) in [
            (WORKS, KvmAnswer::Works, false),
            (MISSING, KvmAnswer::Unknown, true),
            ("Device or resource busy (os error 16)", refused(), false),
        ] {
            let mut host = Fixture::server();
            host.file(KVM, text);
            assert_eq!(KvmAnswer::ask(&host.root(), &Access::Unknown), answer);
            assert_eq!(was_missing(&host.root()), missing);
        }
        let root = Fixture::server().root();
        assert_eq!(KvmAnswer::ask(&root, &Access::Unknown), KvmAnswer::Unknown);
    }

    fn refused() -> KvmAnswer {
        KvmAnswer::Refused("Device or resource busy (os error 16)".to_owned())
    }

    /// Whatever this host has: what was answered is what a snapshot of it tells.
    #[test]
    fn an_answer_is_recorded() {
        let root = Root::live().recorded();
        let live = KvmAnswer::ask(&root, &Access::Unknown);
        let snapshot = Root::of(root.into_record());
        assert_eq!(KvmAnswer::ask(&snapshot, &Access::Unknown), live);
    }

    #[test]
    fn nobody_is_asked_who_may_not_be() {
        assert_eq!(KvmAnswer::ask(&Root::live(), &Access::Denied), KvmAnswer::Unknown);
    }
}
