//! What kind of machine a captured host is.

use super::root::Root;

/// The architecture of a host, as the kernel or /proc/cpuinfo names it; `None` when neither can be
/// seen. A berth that runs is one for x86-64.
pub(super) fn read(root: &Root) -> Option<String> {
    if root.is_live() {
        return Some(X86_64.to_owned());
    }
    // Since 6.1 (Documentation/admin-guide/sysctl/kernel.rst).
    if let Some(name) = root.glance("/proc/sys/kernel/arch").filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let head = root.head("/proc/cpuinfo", 4096).ok().flatten()?;
    of_cpuinfo(&String::from_utf8_lossy(&head)).map(str::to_owned)
}

impl Root {
    /// What the host is, when that is known to be no x86-64.
    pub fn foreign(&self) -> Option<String> {
        read(self).filter(|name| name != X86_64)
    }
}

/// What berth runs on.
pub const X86_64: &str = "x86_64";

/// By what each architecture's kernel writes there and no other's does.
fn of_cpuinfo(text: &str) -> Option<&'static str> {
    let value = |key: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
    };
    let is_long = |flags: &str| flags.split(' ').any(|flag| flag == "lm");
    if let Some(vendor) = value("vendor_id") {
        return match (vendor, value("flags")) {
            ("IBM/S390", _) => Some("s390x"),
            // Snapshots may hold the vendor alone.
            (_, Some(flags)) if flags.contains("fpu") && flags.split(' ').count() > 20 => {
                Some(if is_long(flags) { X86_64 } else { "i686" })
            }
            _ => Some(X86_64),
        };
    }
    if value("CPU implementer").is_some() {
        return Some("aarch64");
    }
    if value("isa").is_some() && value("hart").is_some() {
        return Some("riscv64");
    }
    if value("cpu").is_some_and(|cpu| cpu.starts_with("POWER")) || value("revision").is_some() {
        return Some("ppc64");
    }
    if value("arch").is_some_and(|arch| arch.starts_with("IA-64")) {
        return Some("ia64");
    }
    if value("system type").is_some() || value("cpu model").is_some_and(|cpu| cpu.contains("MIPS"))
    {
        return Some("mips");
    }
    value("CPU Family").filter(|family| family.contains("Loongson")).map(|_| "loongarch64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_tell_their_architecture() {
        for (text, expected) in [
            ("processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx", Some(X86_64)),
            ("processor\t: 0\nBogoMIPS\t: 50\nCPU implementer\t: 0x41", Some("aarch64")),
            ("processor\t: 0\ncpu\t\t: POWER9, altivec supported", Some("ppc64")),
            ("processor\t: 0\nhart\t\t: 1\nisa\t\t: rv64imafdc", Some("riscv64")),
            ("vendor_id       : IBM/S390\n# processors    : 4", Some("s390x")),
            ("arch       : IA-64\nfamily     : Itanium 2", Some("ia64")),
            ("", None),
        ] {
            assert_eq!(of_cpuinfo(text), expected, "{text}");
        }
    }
}
