//! Compiles the seccomp filters, so that no start of a machine has to.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use seccompiler::TargetArch;

const SOURCE: &str = "../resources/seccomp/x86_64.json";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let json = fs::read_to_string(SOURCE).expect("the filters are in the repository");
    let programs = seccompiler::compile_from_json(json.as_bytes(), TargetArch::x86_64)
        .unwrap_or_else(|error| panic!("{SOURCE}: {error}"));
    let mut code = String::new();
    for (role, program) in programs {
        let (name, length) = (role.to_uppercase(), program.len());
        let _ = writeln!(code, "pub static {name}: [sock_filter; {length}] = [");
        for line in program {
            let (operation, yes, no, k) = (line.code, line.jt, line.jf, line.k);
            let _ = writeln!(
                code,
                "    sock_filter {{ code: {operation}, jt: {yes}, jf: {no}, k: {k} }},"
            );
        }
        code += "];\n";
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("filters.rs"), code).expect("cargo's folder can be written to");
}
