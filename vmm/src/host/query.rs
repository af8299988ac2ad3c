//! What is asked of a host, beyond what every plan needs to know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use berth_devices::pci::HostBdf;

use super::console_file::MachineFiles;
use super::pci::virtual_functions;
use super::root::Root;
use crate::units::ConsoleKind;

/// What to read of a host, beyond what every plan needs to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// A guest's kernel.
    pub kernel: Option<PathBuf>,
    /// A guest's initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The config that the machine is of.
    pub config: Option<PathBuf>,
    /// A file that is to be written.
    pub console: Option<(ConsoleKind, PathBuf)>,
    /// Functions, each with whether it is to be taken from the host: only then its uses are read.
    pub functions: BTreeMap<HostBdf, Taking>,
    /// Physical functions of which a virtual one is to be taken.
    pub free_vf_of: BTreeSet<HostBdf>,
    /// Environment variables that list functions.
    pub variables: BTreeMap<String, Taking>,
}

/// Whether a function may be taken from the host's driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Taking {
    /// It has to be bound to vfio-pci already.
    #[default]
    No,
    /// It may be, if nothing uses it.
    Yes,
}

impl Query {
    /// Asks for one function as it is.
    pub fn about(address: HostBdf) -> Self {
        let mut query = Self::default();
        query.add(address, Taking::No);
        query
    }

    /// What the machine is made from.
    pub fn machine_files(&self) -> MachineFiles {
        let Self { kernel, initrd, config, .. } = self;
        MachineFiles { kernel: kernel.clone(), initrd: initrd.clone(), config: config.clone() }
    }

    /// Asks for a function; of two wishes the one that needs more to be read wins.
    pub fn add(&mut self, address: HostBdf, taking: Taking) {
        let entry = self.functions.entry(address).or_default();
        *entry = taking.max(*entry);
    }
}

/// The functions that a query means on one host.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// By address.
    pub(super) functions: BTreeMap<HostBdf, Taking>,
    /// Virtual functions of those physical ones of which one is to be taken.
    pub(super) virtual_functions: BTreeMap<HostBdf, Vec<HostBdf>>,
    /// What the environment says.
    pub(super) environment: BTreeMap<String, Option<String>>,
}

impl Candidates {
    pub(super) fn find(root: &Root, query: &Query) -> Self {
        let mut all = query.clone();
        let mut virtual_functions_of = BTreeMap::new();
        for &physical in &query.free_vf_of {
            let functions = virtual_functions(root, physical);
            all.add(physical, Taking::No);
            for &function in &functions {
                all.add(function, Taking::Yes);
            }
            virtual_functions_of.insert(physical, functions);
        }
        let mut environment = BTreeMap::new();
        for (name, &taking) in &query.variables {
            // A snapshot holds nobody's environment.
            let text = root.is_live().then(|| std::env::var(name).ok()).flatten();
            let listed = text.as_deref().unwrap_or_default().split(',');
            for address in listed.filter_map(|part| part.trim().parse().ok()) {
                all.add(address, taking);
            }
            environment.insert(name.clone(), text);
        }
        Self { functions: all.functions, virtual_functions: virtual_functions_of, environment }
    }
}
