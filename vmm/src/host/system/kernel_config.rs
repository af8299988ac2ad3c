//! How the running kernel was built, as far as passthrough depends on it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use serde::Serialize;

use crate::host::root::Root;
use crate::host::tree::Entry;
use crate::units::Seen;

/// Options of the kernel's build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelConfig {
    /// Where it was read; `None` when no such file can be.
    pub source: Option<String>,
    /// Options that are set, with their values: `y`, `m` or others.
    pub options: BTreeMap<String, String>,
}

/// What decides here; a kernel has some ten thousand.
const OPTIONS: [&str; 10] = [
    "CONFIG_INTEL_IOMMU",
    "CONFIG_INTEL_IOMMU_DEFAULT_ON",
    "CONFIG_AMD_IOMMU",
    "CONFIG_IRQ_REMAP",
    "CONFIG_IOMMU_DEFAULT_PASSTHROUGH",
    "CONFIG_VFIO_PCI",
    "CONFIG_VFIO_IOMMU_TYPE1",
    "CONFIG_VFIO_DEVICE_CDEV",
    "CONFIG_IOMMUFD",
    "CONFIG_SYSFB_SIMPLEFB",
];

impl KernelConfig {
    pub(super) fn read(root: &Root, release: &str) -> Self {
        let plain = [
            format!("/boot/config-{release}"),
            format!("/lib/modules/{release}/config"),
            format!("/usr/lib/modules/{release}/config"),
        ];
        let found = plain.into_iter().find_map(|path| Some((root.glance(&path)?, path)));
        let found = found.or_else(|| Some((compressed(root)?, COMPRESSED.to_owned())));
        let Some((text, path)) = found.filter(|(text, _)| text.contains("CONFIG_")) else {
            return Self::default();
        };
        let options = text.lines().filter_map(|line| line.split_once('='));
        let options = options.filter(|(name, _)| OPTIONS.contains(name));
        let options: BTreeMap<String, String> =
            options.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        // A snapshot keeps what is asked for, as text.
        let kept: String =
            options.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let plain = format!("/boot/config-{release}");
        root.remember(Path::new(&plain), || Entry::File(format!("# CONFIG_\n{kept}").into_bytes()));
        Self { source: Some(path), options }
    }

    /// Whether an option is set, to `y` or `m`.
    pub fn has(&self, option: &str) -> Seen {
        match (&self.source, self.options.get(option)) {
            (_, Some(value)) => Seen::from(value != "n"),
            (Some(_), None) => Seen::No,
            (None, None) => Seen::Unknown,
        }
    }
}

const COMPRESSED: &str = "/proc/config.gz";

/// The kernel's own copy, where CONFIG_IKCONFIG_PROC has it.
fn compressed(root: &Root) -> Option<String> {
    /// Ten times that of a kernel with everything.
    const MOST: u64 = 4 << 20;
    let bytes = root.head(COMPRESSED, 1 << 20).ok().flatten()?;
    let mut text = String::new();
    GzDecoder::new(bytes.as_slice()).take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::host::fixture::Fixture;

    #[test]
    fn an_option_is_set_not_set_or_not_to_be_seen() {
        let nothing = KernelConfig::read(&Fixture::default().root(), "6.12.9");
        assert_eq!(nothing.has("CONFIG_INTEL_IOMMU"), Seen::Unknown);
        let text = "CONFIG_X=y\nCONFIG_AMD_IOMMU=y\n# CONFIG_INTEL_IOMMU is not set\n";
        let mut plain = Fixture::default();
        plain.file("/boot/config-6.12.9", text);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).expect("memory takes all");
        let mut packed = Fixture::default();
        packed.bytes(COMPRESSED, gzip.finish().expect("memory takes all"));
        for host in [plain, packed] {
            let config = KernelConfig::read(&host.root(), "6.12.9");
            assert_eq!(config.has("CONFIG_AMD_IOMMU"), Seen::Yes);
            assert_eq!(config.has("CONFIG_INTEL_IOMMU"), Seen::No);
        }
    }
}
