//! The command line.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::exit::Outcome;
use crate::sandbox::Mode;

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
    },
    /// Show what a machine would get on this host, or why it cannot run; changes nothing
    Plan {
        /// The machine's config file
        config: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn exit_codes() -> String {
    let mut text = "Exit codes:".to_owned();
    for outcome in Outcome::ALL {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {}  {}", outcome.code(), outcome.meaning());
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
