//! The CPUs of a device's interrupts, in procfs.

use std::fs;
use std::io;
use std::path::Path;

use berth_devices::pci::HostBdf;

use crate::host::IdSet;

/// Sends all message signalled interrupts that `device` has now to `cpus`.
///
/// Its pin is left alone: that interrupt is the host's, and may be other devices' too.
///
/// # Errors
/// The first that the kernel refuses; what has gone meanwhile is none.
pub(super) fn steer(root: &Path, device: HostBdf, cpus: &[u32]) -> io::Result<()> {
    let wanted: IdSet = cpus.iter().copied().collect();
    let folder = root.join(format!("sys/bus/pci/devices/{device}/msi_irqs"));
    let vectors = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        vectors => vectors?,
    };
    for vector in vectors {
        let number = vector?.file_name();
        // One that nobody has requested yet has no such file.
        let file = root.join("proc/irq").join(number).join("smp_affinity_list");
        let Ok(now) = fs::read_to_string(&file) else { continue };
        if now.parse::<IdSet>().is_ok_and(|now| now == wanted) {
            continue;
        }
        match fs::write(&file, wanted.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let file = file.display();
                return Err(io::Error::new(error.kind(), format!("{file}: {error}")));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "proc/irq/41/smp_affinity_list";

    /// A host with a device whose interrupt 41 is requested and 42 is not.
    fn host() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        put("sys/bus/pci/devices/0000:41:00.0/msi_irqs/41", "msix\n");
        put("sys/bus/pci/devices/0000:41:00.0/msi_irqs/42", "msix\n");
        put(LIST, "0-15\n");
        root
    }

    fn steered(root: &Path, device: &str) -> io::Result<()> {
        steer(root, device.parse().expect("an address"), &[7, 15])
    }

    #[test]
    fn requested_vectors_go_where_the_plan_says() {
        let root = host();
        steered(root.path(), "41:00.0").expect("steered");
        let list = || fs::read_to_string(root.path().join(LIST)).expect("a file");
        assert_eq!(list(), "7,15");
        assert!(!root.path().join("proc/irq/42").exists());
        // What is right is not written again.
        let file = root.path().join(LIST);
        let written = || fs::metadata(&file).expect("a file").modified().expect("a time");
        let before = written();
        steered(root.path(), "41:00.0").expect("steered");
        assert_eq!(written(), before);
    }

    #[test]
    fn a_device_without_vectors_is_left_alone() {
        let root = host();
        steered(root.path(), "42:00.0").expect("nothing to do");
        assert_eq!(fs::read_to_string(root.path().join(LIST)).expect("a file"), "0-15\n");
    }

    #[test]
    fn a_refusal_names_the_file() {
        let root = host();
        let file = root.path().join(LIST);
        fs::remove_file(&file).expect("a file");
        // Nobody can write there, root neither.
        std::os::unix::fs::symlink("/proc/version", &file).expect("a link");
        let error = steered(root.path(), "41:00.0").expect_err("refused");
        assert!(error.to_string().contains(LIST), "{error}");
    }
}
