//! A berth configuration for a lab guest (L2).

use std::fmt;

use anyhow::Result;
use serde_json::{Value, json};

use super::Host;

/// A configuration that starts from what most tests want: the lab's own kernel, two vCPUs, 256 MiB
/// of ordinary pages, the host's NIC assigned, the console on berth's standard output.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    json: Value,
    kernel_folder: String,
}

impl GuestConfig {
    /// The usual configuration.
    pub fn new(host: &Host) -> Self {
        let json = json!({
            "name": "lab",
            "vcpus": 2,
            "memory": { "size_mib": 256, "page_size": "4K" },
            "devices": [{ "address": host.nic() }],
            "console": "stdio",
        });
        let kernel_folder = host.artefact("");
        // The lab's own has drivers for the lab's devices only.
        let kernel = if host.is_lab() { "lab" } else { "6.12" };
        Self { json, kernel_folder }.kernel(kernel).verbs("poweroff")
    }

    /// A kernel of the lab with its initramfs: `lab` boots quickest, `6.12` and `6.1` are Debian's.
    pub fn kernel(self, series: &str) -> Self {
        let folder = self.kernel_folder.clone();
        self.set("/kernel", format!("{folder}vmlinux-{series}"))
            .set("/initrd", format!("{folder}l2-{series}.cpio"))
    }

    /// Debian's kernel as a bzImage, which unpacks itself, instead of as an ELF file.
    pub fn compressed_kernel(self) -> Self {
        let path = self.text("/kernel").replace("vmlinux", "vmlinuz");
        self.set("/kernel", path)
    }

    /// What the guest does, in the words of `resources/lab/l2-init.sh`: `net,ping:3,poweroff`.
    pub fn verbs(self, verbs: &str) -> Self {
        self.set("/cmdline", format!("console=ttyS0 quiet panic=-1 berth.do={verbs}"))
    }

    /// A word more on the kernel's command line.
    pub fn parameter(self, word: &str) -> Self {
        let cmdline = format!("{} {word}", self.text("/cmdline"));
        self.set("/cmdline", cmdline)
    }

    /// 1 GiB pages under that much memory.
    pub fn huge_memory(self, size_mib: u64) -> Self {
        self.set("/memory", json!({ "size_mib": size_mib, "page_size": "1G" }))
    }

    /// These devices, by their addresses on the host.
    pub fn devices(self, addresses: &[&str]) -> Self {
        let device = |address: &&str| json!({ "address": address });
        self.set("/devices", addresses.iter().map(device).collect::<Value>())
    }

    /// The same initramfs with `probe` in its `/bin`.
    pub fn with_probe(self, host: &Host) -> Result<Self> {
        let archive = host.with_probe(&self.text("/initrd"))?;
        Ok(self.set("/initrd", archive))
    }

    /// No assigned device.
    pub fn without_devices(self) -> Self {
        self.set("/devices", json!([]))
    }

    /// Pages of another size.
    pub fn page_size(self, size: &str) -> Self {
        self.set("/memory/page_size", size)
    }

    fn text(&self, pointer: &str) -> String {
        let text = self.json.pointer(pointer).and_then(Value::as_str);
        text.expect("a text in every configuration").to_owned()
    }

    /// Sets a member by its JSON pointer; its parent must exist.
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, name) = pointer.rsplit_once('/').expect("a JSON pointer has a slash");
        let parent = self.json.pointer_mut(parent).expect("the parent of a member exists");
        parent[name] = value.into();
        self
    }
}

impl fmt::Display for GuestConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#}", self.json)
    }
}
