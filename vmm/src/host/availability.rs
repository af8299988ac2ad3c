//! Whether a function may be taken from the host, and what stands against it.
//!
//! This is the only place that decides it. Commands word the verdict, and choose what to do about
//! it: `--force` overrides what the host does with a function, and nothing else.

use std::fmt;

use berth_devices::pci::HostBdf;

use super::depth::Depth;
use super::functions::{Functions, HostFunction};
use super::host_use::{HostUse, Unseen};

/// Whether a function may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// There is no such function.
    Absent,
    /// It is part of the host's own fabric.
    Bridge,
    /// The host or another process uses it.
    InUse(Vec<HostUse>),
    /// It has so many virtual functions, which would go with its driver.
    HasVirtualFunctions(usize),
    /// No IOMMU is in front of it.
    NoIommu,
    /// The host uses these others of its group.
    GroupInUse(Vec<(HostBdf, HostUse)>),
    /// What would tell could not be seen.
    Unknown(Vec<Unseen>),
    /// It is bound to a VFIO driver, and nobody has it.
    Ready,
    /// The host does not use it: it may be bound.
    Free,
}

impl Functions {
    /// The verdict on the function at `address`. The obstacle that is hardest to overcome is the
    /// one that is told.
    pub fn availability(&self, address: HostBdf) -> Availability {
        let Some(found) = self.get(address) else { return Availability::Absent };
        let function = &found.function;
        if function.is_bridge() {
            return Availability::Bridge;
        }
        let uses = self.uses_of(address);
        if !uses.is_empty() {
            return Availability::InUse(uses);
        }
        match found.functions_to_lose() {
            0 => {}
            count => return Availability::HasVirtualFunctions(count),
        }
        if function.group.is_none() {
            return Availability::NoIommu;
        }
        let others = self.neighbours(address);
        let others = others.flat_map(|(other, _)| {
            self.uses_of(other).into_iter().map(move |usage| (other, usage))
        });
        let others: Vec<(HostBdf, HostUse)> = others.collect();
        if !others.is_empty() {
            return Availability::GroupInUse(others);
        }
        if function.is_bound_to_vfio() && found.depth > Depth::Guest {
            return Availability::Ready;
        }
        match found.unseen.as_slice() {
            _ if found.depth == Depth::Guest => Availability::Unknown(vec![Unseen::Everything]),
            [] => Availability::Free,
            unseen => Availability::Unknown(unseen.to_vec()),
        }
    }

    /// What the function at `address` is used for: by itself, and by what goes with it.
    pub fn uses_of(&self, address: HostBdf) -> Vec<HostUse> {
        let own = self.get(address).into_iter().flat_map(|found| &found.uses).cloned();
        own.chain(self.given(address)).chain(self.domain_of(address)).collect()
    }

    /// A function that `address` is the controller of. Intel's Volume Management Device makes a
    /// PCI domain of what is behind it, numbered from 10000h (drivers/pci/controller/vmd.c).
    fn domain_of(&self, address: HostBdf) -> Option<HostUse> {
        const FIRST: u32 = 0x1_0000;

        let found = self.get(address)?;
        if found.function.driver.as_deref() != Some("vmd") {
            return None;
        }
        let is_behind = |(other, behind): &(&HostBdf, &HostFunction)| {
            let group = behind.function.group.is_some_and(|g| Some(g) == found.function.group);
            other.domain() >= FIRST
                && !behind.function.is_bridge()
                && (behind.path.contains(&address) || group)
        };
        let (&function, _) = self.read.iter().find(is_behind)?;
        Some(HostUse::HasDomain { function })
    }

    /// Virtual functions of `address` that a guest has.
    fn given(&self, address: HostBdf) -> impl Iterator<Item = HostUse> {
        let is_given = |uses: &[HostUse]| uses.iter().any(HostUse::is_vfio);
        let given = self.virtual_functions(address);
        let given = given.filter(move |(_, found)| is_given(&found.uses));
        given.map(|(function, _)| HostUse::GuestHasVf { function })
    }
}

/// What stands against taking it, as the rest of a sentence that begins with its address.
impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("does not exist"),
            Self::Bridge => f.write_str("is a bridge"),
            Self::InUse(uses) => {
                let uses: Vec<String> = uses.iter().map(ToString::to_string).collect();
                f.write_str(&uses.join(", and "))
            }
            Self::HasVirtualFunctions(count) => {
                write!(f, "has {count} virtual functions, which go when it changes hands")
            }
            Self::NoIommu => f.write_str("is behind no IOMMU that is on"),
            Self::GroupInUse(others) => {
                let others = others.iter();
                let others = others.map(|(other, usage)| format!("{other}, which {usage}"));
                let others: Vec<String> = others.collect();
                write!(f, "shares its group with {}", others.join(", and with "))
            }
            Self::Unknown(unseen) => {
                let unseen: Vec<String> = unseen.iter().map(ToString::to_string).collect();
                write!(f, "may be in use: it cannot be seen {}", unseen.join(", nor "))
            }
            Self::Ready => f.write_str("is ready"),
            Self::Free => f.write_str("is free"),
        }
    }
}
