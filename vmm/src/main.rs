//! The `berth` command. What it does is in the library of the same name; `commands` says which
//! call each of its commands makes.

mod commands;

use berth::exit::Outcome;

fn main() -> Outcome {
    commands::main()
}
