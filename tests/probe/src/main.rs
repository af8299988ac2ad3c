//! A program for the lab's guests and hosts: devices without a driver, self-tests, hostility, and
//! on hosts the harness's other end.
//!
//! It is linked statically and runs as root. What it finds goes to standard output, a line each;
//! what is wrong ends it with status 1.

mod agent;
mod edu;
mod escape;
mod faults;
mod hostile;
mod job;
mod memory;
mod pci;
mod ports;
mod random;
mod self_test;

use std::path::Path;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: probe edu FUNCTION | msi EDU LENDER COUNT | peer EDU ADDRESS
       | self-test INTERFACE | config FUNCTION OFFSET BYTES [VALUE] | port ADDRESS [VALUE]
       | hostile SECONDS SEED registers|reads FUNCTION...
       | escape THREAD filtered|bare VICTIM SECRET TARGET GROUP SOCKET BERTH
       | faults list COMMAND... | faults fail CALL ERROR COMMAND...
       | agent PORT... | wait-for-output FOLDER";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["edu", function] => edu::work(function),
        ["msi", function, lender, count] => edu::interrupt(function, lender, number(count)?),
        ["peer", function, address] => edu::reach(function, number(address)?),
        ["self-test", interface] => self_test::run(interface),
        ["config", function, offset, bytes] => {
            let mut data = vec![0; number(bytes)? as usize];
            pci::Function::open(function)?.read(number(offset)?, &mut data)?;
            data.reverse();
            println!("0x{}", data.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            Ok(())
        }
        ["config", function, offset, bytes, value] => {
            let data = number(value)?.to_le_bytes();
            let data = data.get(..number(bytes)? as usize).context(USAGE)?;
            pci::Function::open(function)?.write(number(offset)?, data)
        }
        ["port", port] => {
            ports::allow()?;
            println!("{:#010x}", ports::read(number(port)? as u16));
            Ok(())
        }
        ["port", port, value] => {
            ports::allow()?;
            ports::write(number(port)? as u16, number(value)? as u32);
            Ok(())
        }
        ["hostile", seconds, seed, mode, ..] => {
            let registers = match mode {
                "registers" => true,
                "reads" => false,
                _ => bail!(USAGE),
            };
            hostile::run(number(seconds)?, number(seed)?, registers, &words[4..])
        }
        ["escape", thread, mode, ref scene @ ..] => escape::run(number(thread)?, mode, scene),
        ["faults", "list", ref command @ ..] => faults::run(None, command),
        ["faults", "fail", call, error, ref command @ ..] => {
            faults::run(Some((number(call)?, number(error)? as i32)), command)
        }
        ["agent", ref ports @ ..] => agent::serve(ports),
        ["wait-for-output", folder] => {
            // 1 is for what goes wrong.
            let came = job::wait_for_output(Path::new(folder))?;
            std::process::exit(if came { 0 } else { 3 })
        }
        _ => bail!(USAGE),
    }
}

/// Decimal, or hexadecimal after `0x`.
fn number(word: &str) -> Result<u64> {
    let parsed = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    parsed.with_context(|| format!("{word:?} is no number\n{USAGE}"))
}
