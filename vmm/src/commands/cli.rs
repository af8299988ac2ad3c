//! The command line.

use std::fmt::Write;
use std::path::PathBuf;

use berth_devices::pci::HostBdf;
use clap::{Args, Parser, Subcommand};

use super::check::CheckArgs;
use berth::binding::BindOptions;
use berth::exit::Outcome;

use berth::sandbox::Mode;
use berth::units::VfPortArgument;

/// Runs a virtual machine around PCIe devices that it owns
#[derive(Debug, Parser)]
#[command(version, after_help = exit_codes())]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a machine to its end
    #[command(
        after_help = "At the console, Ctrl-A p presses the guest's power button, and Ctrl-A x ends it at once."
    )]
    Run {
        /// The machine's config file
        config: PathBuf,
        /// What happens on a system call that berth does not make
        #[arg(long, value_enum, default_value_t)]
        seccomp: Mode,
        /// Print what the sandbox has come to: the state of each thread and helper, as the kernel has it
        #[arg(long)]
        sandbox_report: bool,
    },
    /// Show what a machine would get on this host, or why it cannot run; changes nothing
    Plan {
        /// The machine's config file
        config: PathBuf,
        /// Plan for another host: a folder or archive with its sys and proc, as of `berth snapshot`
        #[arg(long, value_name = "PATH")]
        host: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look for what would keep a machine from running well, and say what to do about it
    #[command(
        after_help = "Exit codes:\n  0  ready; there may be warnings\n  3  not ready: something failed\n  6  not seen enough: nothing failed that was seen, \
                      and not all was seen that decides\n\
                      Of several hosts the worst has the exit code.\n\
                      In JSON each finding has a code (see --list) and a severity: pass, unknown \
                      (it could not be seen), warn or fail."
    )]
    Check(CheckArgs),
    /// List the functions that a guest could get, and whether they may be taken
    Devices {
        /// Look at another host: a folder or archive with its sys and proc, as of `berth snapshot`
        #[arg(long, value_name = "PATH")]
        host: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write what berth reads of this host to standard output, as a .tar.zst for --host
    ///
    /// Holds no network addresses, serial numbers or secrets; as root it holds more of what
    /// `berth check` looks at. Names of interfaces and mount points stay.
    Snapshot,
    /// Give PCI functions to vfio-pci, so that machines can have them
    Bind {
        #[command(flatten)]
        functions: Functions,
        /// Also at every boot, through modprobe.d and the initramfs
        #[arg(long)]
        persist: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Give PCI functions back to the drivers that had them
    Unbind {
        #[command(flatten)]
        functions: Functions,
        /// Also undo what `bind --persist` wrote for them
        #[arg(long)]
        persist: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Put back all that berth has changed: drivers, overrides, numbers of VFs, huge pages
    #[command(
        after_help = "What was before is in a journal in /var/lib/berth, or in the folder that BERTH_STATE_DIR names. \
                      What a running machine has stays until it ends."
    )]
    Restore {
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Show a physical function's virtual functions, or set their number and ports
    Sriov {
        /// The physical function
        #[arg(value_name = "PF")]
        device: HostBdf,
        /// How many virtual functions it is to have
        count: Option<u32>,
        /// The port of one: INDEX,mac=MAC,vlan=ID,trust=on|off,spoof-check=on|off
        #[arg(long, value_name = "PORT", requires = "count")]
        vf: Vec<VfPortArgument>,
        /// Give them to vfio-pci
        #[arg(long, requires = "count")]
        bind: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

impl Command {
    /// Whether a program reads what it prints.
    pub fn json(&self) -> bool {
        match self {
            Self::Run { .. } | Self::Snapshot => false,
            Self::Plan { json, .. } | Self::Devices { json, .. } => *json,
            Self::Check(args) => args.json,
            Self::Bind { change, .. }
            | Self::Unbind { change, .. }
            | Self::Restore { change }
            | Self::Sriov { change, .. } => change.json,
        }
    }
}

/// The functions that change hands.
#[derive(Debug, Args)]
pub struct Functions {
    /// Their addresses
    #[arg(required = true, value_name = "BDF")]
    pub devices: Vec<HostBdf>,
    /// All functions of their IOMMU groups too; bridges stay
    #[arg(long)]
    pub group: bool,
}

/// What commands that change drivers have in common.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Take also what is in use
    #[arg(long)]
    pub force: bool,
    /// Show what would be done, as commands; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl ChangeArgs {
    /// With the switches that only some of the commands have.
    pub fn options(&self, group: bool, persist: bool) -> BindOptions {
        BindOptions { group, force: self.force, dry_run: self.dry_run, persist }
    }
}

fn exit_codes() -> String {
    let mut text = "Exit codes:".to_owned();
    for outcome in Outcome::ALL {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {}  {}", outcome.code(), outcome.meaning_of_code());
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
