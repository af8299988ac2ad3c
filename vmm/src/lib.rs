//! berth runs one virtual machine around PCIe devices that it owns.
//!
//! A [`config::Config`] is what the user wishes, a [`host::HostProfile`] what exists. From both
//! comes a [`plan::Plan`], every decision, or the reason there is none. [`machine::split`] executes
//! it, and an [`exit::Exit`] says how that ended. [`check`] says what keeps a host from it,
//! [`advice`] what to do about that, [`binding`] gives functions to vfio-pci and back, [`sriov`]
//! makes virtual ones.
//!
//! The modules stand in an order, and each uses only those before it; `vmm/README.md` has the
//! order, and a test of this crate holds it.
//!
//! # Read a host or a snapshot
//!
//! ```
//! use std::path::Path;
//!
//! use berth::host::{HostProfile, Query, Root};
//!
//! let this_host = HostProfile::read(&Root::live(), &Query::default())?;
//! assert!(!this_host.cpus.online.is_empty());
//!
//! // What `berth snapshot` wrote on another host, or any archive of its /sys and /proc.
//! # let snapshot = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/hosts/epyc-nps1-ccx/host.tar.zst");
//! let other = HostProfile::read(&Root::open(Path::new(snapshot))?, &Query::default())?;
//! assert_ne!(other.cpus.online, this_host.cpus.online);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Make a plan
//!
//! ```
//! use std::path::Path;
//!
//! use berth::config::Config;
//! use berth::host::{HostProfile, Query, Root};
//! use berth::plan::Plan;
//!
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/hosts/epyc-nps1-ccx");
//! # let (config, snapshot) = (format!("{folder}/config.json"), format!("{folder}/host.tar.zst"));
//! let config = Config::load(Path::new(&config))?;
//! let host = HostProfile::read(&Root::open(Path::new(&snapshot))?, &Query::from(&config))?;
//! let plan = Plan::new(&config, &host)?;
//! for vcpu in &plan.vcpus {
//!     println!("vCPU {} runs on CPU {}", vcpu.index, vcpu.cpu);
//! }
//! # assert_eq!(plan.vcpus.len(), 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # List findings
//!
//! ```
//! use std::path::Path;
//!
//! use berth::check::Report;
//! use berth::config::Config;
//! use berth::host::{Facts, Query, Root};
//!
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/hosts/epyc-nps1-ccx");
//! # let (config, snapshot) = (format!("{folder}/config.json"), format!("{folder}/host.tar.zst"));
//! let config = Config::load(Path::new(&config))?;
//! let facts = Facts::read(&Root::open(Path::new(&snapshot))?, &Query::from(&config), &[])?;
//! let report = Report::new(&facts, Some(&config));
//! for finding in &report.findings {
//!     println!("{} {}", finding.code.name(), finding.seen);
//! }
//! # assert!(report.findings.len() > 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Bind a function, and give it back
//!
//! A [`binding::Target`] is this host, or a folder laid out like one, for rehearsals like this:
//!
//! ```
//! use berth::binding::{self, BindOptions, Target};
//!
//! # use std::{fs, os::unix::fs::symlink};
//! # let host = tempfile::tempdir()?;
//! # let sys = host.path().join("sys");
//! # let nic = sys.join("bus/pci/devices/0000:41:00.0");
//! # fs::create_dir_all(&nic)?;
//! # fs::create_dir_all(sys.join("bus/pci/drivers/vfio-pci"))?;
//! # fs::create_dir_all(sys.join("kernel/iommu_groups/14/devices/0000:41:00.0"))?;
//! # for (file, text) in [("vendor", "0x8086"), ("device", "0x10c9"), ("class", "0x020000"), ("driver_override", "(null)")] {
//! #     fs::write(nic.join(file), text)?;
//! # }
//! # symlink("../../../../kernel/iommu_groups/14", nic.join("iommu_group"))?;
//! # let state = tempfile::tempdir()?;
//! let target = Target::at(host.path(), state.path());
//! let rehearsal = BindOptions { dry_run: true, ..BindOptions::default() };
//! let report = binding::bind(&target, &["0000:41:00.0".parse()?], rehearsal)?;
//! for command in &report.commands {
//!     println!("{command}");
//! }
//! # assert!(report.commands.iter().any(|command| command.contains("driver_override")));
//!
//! let restored = binding::restore(&target, BindOptions::default())?;
//! restored.check()?; // An error names what could not be put back.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod advice;
pub mod binding;
pub mod check;
mod child;
pub mod config;
pub mod device_list;
pub mod error;
pub mod exit;
mod footprint;
pub mod host;
pub mod machine;
pub mod netlink;
pub mod placement_lock;
pub mod plan;
pub mod sandbox;
pub mod sriov;
pub mod state;
pub mod units;
