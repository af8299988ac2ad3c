//! `--persist`: functions go to vfio-pci at boot, before their own drivers can have them.
//!
//! By address, not by ID as `options vfio-pci ids=` would, which takes every card of a kind; and
//! only while the card that was meant is there, since an address is that of a slot. The file of modprobe.d sets `driver_override` whenever vfio-pci or a driver that would have the
//! functions is loaded, whichever comes first, and makes these drivers load vfio-pci before
//! themselves. So it holds in an initramfs that lacks one of them, and with a vfio-pci that is
//! part of the kernel. The file is generated from the list of functions in its comments, so that
//! adding twice changes nothing and removing the last one removes the file. In a file of the
//! host's own, berth's lines stand between markers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_devices::pci::HostBdf;

use super::BindingError;
use crate::host::Persisted;
use crate::host::persisted::IDENTITY_FILES;

const MODPROBE: &str = "etc/modprobe.d/berth.conf";
/// Loads vfio-pci even when no driver's softdep does.
const MODULES_LOAD: &str = "etc/modules-load.d/berth.conf";
/// Debian's initramfs-tools; its hooks copy modprobe.d themselves.
const INITRAMFS_MODULES: &str = "etc/initramfs-tools/modules";
/// dracut copies modprobe.d itself too.
const DRACUT_FOLDER: &str = "etc/dracut.conf.d";
const DRACUT: &str = "etc/dracut.conf.d/berth.conf";

const BEGIN: &str = "# berth begin";
/// The same where the line before had no end, which is gone again with the block.
const BEGIN_AFTER_UNENDED: &str = "# berth begin (the line before had no end)";
const END: &str = "# berth end";

/// Functions that go to vfio-pci at boot.
pub type Functions = BTreeMap<HostBdf, Persisted>;

/// Adds functions; the files that change are returned, and the step that `remake`s the initial RAM
/// disk with them.
pub fn add(
    root: &Path,
    remake: &str,
    new: Vec<Persisted>,
    dry_run: bool,
) -> Result<Vec<String>, BindingError> {
    let mut all = listed(root)?;
    for mut one in new {
        // What was found out once may not show any more, as when a module's files are gone.
        if let Some(earlier) = all.remove(&one.address)
            && (earlier.identity.is_none() || earlier.identity == one.identity)
        {
            one.modules.extend(earlier.modules);
        }
        all.insert(one.address, one);
    }
    write_all(root, remake, &all, dry_run)
}

/// Removes functions; the files that change are returned.
pub fn remove(
    root: &Path,
    remake: &str,
    gone: &BTreeSet<HostBdf>,
    dry_run: bool,
) -> Result<Vec<String>, BindingError> {
    let mut all = listed(root)?;
    all.retain(|address, _| !gone.contains(address));
    write_all(root, remake, &all, dry_run)
}

/// Functions that go to vfio-pci at every boot.
pub fn functions(root: &Path) -> Result<BTreeSet<HostBdf>, BindingError> {
    Ok(listed(root)?.into_keys().collect())
}

/// What `berth restore` leaves.
pub fn note(device: HostBdf) -> String {
    format!(
        "{device} goes to vfio-pci again when the host boots; \
         `berth unbind --persist {device}` ends that"
    )
}

fn listed(root: &Path) -> Result<Functions, BindingError> {
    let text = read(&root.join(MODPROBE))?.unwrap_or_default();
    let all = text.lines().filter_map(|line| line.parse::<Persisted>().ok());
    Ok(all.map(|one| (one.address, one)).collect())
}

fn write_all(
    root: &Path,
    remake: &str,
    all: &Functions,
    dry_run: bool,
) -> Result<Vec<String>, BindingError> {
    let wanted = |text: &str| (!all.is_empty()).then(|| text.to_owned());
    let mut files = vec![
        (MODPROBE, (!all.is_empty()).then(|| modprobe(all))),
        (MODULES_LOAD, wanted("# Written by `berth bind --persist`.\nvfio-pci\n")),
    ];
    let modules = read(&root.join(INITRAMFS_MODULES))?;
    if let Some(text) = modules {
        files.push((INITRAMFS_MODULES, Some(with_block(&text, wanted("vfio-pci\n").as_deref()))));
    }
    if root.join(DRACUT_FOLDER).is_dir() {
        let text = "# Written by `berth bind --persist`.\nforce_drivers+=\" vfio-pci \"\n";
        files.push((DRACUT, wanted(text)));
    }
    let mut changed = Vec::new();
    for (name, text) in files {
        let path = root.join(name);
        if read(&path)? == text {
            continue;
        }
        let verb = if text.is_some() { "wrote" } else { "removed" };
        changed.push(format!("{verb} /{name}"));
        if !dry_run {
            replace(&path, text.as_deref())?;
        }
    }
    if !changed.is_empty() {
        changed.push(format!("run {remake} for it to hold from the next boot"));
    }
    Ok(changed)
}

/// `install` replaces the loading of a module by a command, here one that ends by loading it. A
/// function without a driver is offered to them again, for a vfio-pci that is there already. The
/// path is the kernel's own for modprobe: a busybox of an initramfs may prefer a modprobe of its
/// own that knows no `--ignore-install`.
fn modprobe(all: &Functions) -> String {
    let mut text = "# Written by `berth bind --persist`; `berth unbind --persist` removes it.\n\
                    # These functions go to vfio-pci, before their own drivers can have them.\n"
        .to_owned();
    for one in all.values() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{one}");
    }
    // One whose card is not known is none that may be bound.
    let known = all.values().filter_map(|one| Some((one.address, one.identity.as_ref()?)));
    let known: Vec<String> =
        known.map(|(address, identity)| format!("{address}={identity}")).collect();
    let reserve = format!(
        "for c in {}; do f=${{c%=*}}; d=/sys/bus/pci/devices/$f; [ -e $d ] || continue; i=; \
         for n in {}; do read v < $d/$n; i=$i:${{v#0x}}; done; \
         [ $i != :${{c#*=}} ] || [ -e $d/driver ] || \
         {{ echo vfio-pci > $d/driver_override; echo $f > /sys/bus/pci/drivers_probe; }}; done",
        known.join(" "),
        IDENTITY_FILES.join(" "),
    );
    let rivals: BTreeSet<&str> =
        all.values().flat_map(|one| &one.modules).map(String::as_str).collect();
    for module in &rivals {
        let _ = writeln!(text, "softdep {module} pre: vfio-pci");
    }
    for module in ["vfio-pci"].iter().chain(&rivals) {
        let _ = writeln!(
            text,
            "install {module} {reserve}; /sbin/modprobe --ignore-install {module} $CMDLINE_OPTS"
        );
    }
    text
}

/// `text` with berth's block, or without one.
fn with_block(text: &str, block: Option<&str>) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        let mark = line.trim_end();
        if mark == BEGIN_AFTER_UNENDED {
            kept.truncate(kept.trim_end_matches('\n').len());
        }
        inside |= mark == BEGIN || mark == BEGIN_AFTER_UNENDED;
        if !inside {
            kept += line;
        }
        inside &= mark != END;
    }
    if let Some(block) = block {
        let ended = kept.is_empty() || kept.ends_with('\n');
        let (end, begin) = if ended { ("", BEGIN) } else { ("\n", BEGIN_AFTER_UNENDED) };
        kept += &format!("{end}{begin}\n{block}{END}\n");
    }
    kept
}

fn read(path: &Path) -> Result<Option<String>, BindingError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BindingError::Persist { path: path.to_owned(), source }),
    }
}

/// At one go: a boot in between must not find half a file.
fn replace(path: &Path, text: Option<&str>) -> Result<(), BindingError> {
    let act = || {
        let Some(text) = text else { return fs::remove_file(path) };
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        let mut new = path.as_os_str().to_owned();
        // modprobe and dracut read files by their suffix.
        new.push(".berth-new");
        let new = PathBuf::from(new);
        fs::write(&new, text)?;
        if let Ok(old) = fs::metadata(path) {
            fs::set_permissions(&new, old.permissions())?;
        }
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, path)
    };
    act().map_err(|source| BindingError::Persist { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMAKE: &str = "`update-initramfs -u`";

    fn bdf(text: &str) -> HostBdf {
        text.parse().expect("an address")
    }

    fn nic(address: &str) -> Vec<Persisted> {
        let line = format!("# berth function {} 8086:10c9:8086:a03c igb", bdf(address));
        vec![line.parse().expect("a line of the file")]
    }

    fn file(root: &Path, name: &str) -> Option<String> {
        read(&root.join(name)).expect("readable")
    }

    #[test]
    fn adding_twice_changes_nothing_and_removing_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir_all(root.join("etc/initramfs-tools")).expect("a folder");
        let theirs = "# their modules\next4";
        fs::write(root.join(INITRAMFS_MODULES), theirs).expect("a file");

        let changed = add(root, REMAKE, nic("21:00.0"), false).expect("room");
        assert_eq!(changed.len(), 4, "{changed:?}");
        assert_eq!(
            file(root, MODPROBE).expect("written"),
            "# Written by `berth bind --persist`; `berth unbind --persist` removes it.\n\
             # These functions go to vfio-pci, before their own drivers can have them.\n\
             # berth function 0000:21:00.0 8086:10c9:8086:a03c igb\n\
             softdep igb pre: vfio-pci\n\
             install vfio-pci for c in 0000:21:00.0=8086:10c9:8086:a03c; do f=${c%=*}; \
             d=/sys/bus/pci/devices/$f; [ -e $d ] || continue; i=; \
             for n in vendor device subsystem_vendor subsystem_device; do read v < $d/$n; \
             i=$i:${v#0x}; done; [ $i != :${c#*=} ] || [ -e $d/driver ] || \
             { echo vfio-pci > $d/driver_override; echo $f > /sys/bus/pci/drivers_probe; }; done; \
             /sbin/modprobe --ignore-install vfio-pci $CMDLINE_OPTS\n\
             install igb for c in 0000:21:00.0=8086:10c9:8086:a03c; do f=${c%=*}; \
             d=/sys/bus/pci/devices/$f; [ -e $d ] || continue; i=; \
             for n in vendor device subsystem_vendor subsystem_device; do read v < $d/$n; \
             i=$i:${v#0x}; done; [ $i != :${c#*=} ] || [ -e $d/driver ] || \
             { echo vfio-pci > $d/driver_override; echo $f > /sys/bus/pci/drivers_probe; }; done; \
             /sbin/modprobe --ignore-install igb $CMDLINE_OPTS\n"
        );
        assert_eq!(
            file(root, INITRAMFS_MODULES).expect("kept"),
            "# their modules\next4\n# berth begin (the line before had no end)\nvfio-pci\n\
             # berth end\n"
        );
        // Its modules are not known any more.
        let mut bound = nic("21:00.0");
        bound[0].modules.clear();
        assert_eq!(add(root, REMAKE, bound, false).expect("room"), [""; 0]);

        add(root, REMAKE, nic("41:00.0"), false).expect("room");
        remove(root, REMAKE, &BTreeSet::from([bdf("21:00.0")]), false).expect("room");
        let text = file(root, MODPROBE).expect("one is left");
        assert!(text.contains("0000:41:00.0") && !text.contains("0000:21:00.0"), "{text}");

        remove(root, REMAKE, &BTreeSet::from([bdf("41:00.0")]), false).expect("room");
        for name in [MODPROBE, MODULES_LOAD] {
            assert_eq!(file(root, name), None, "{name}");
        }
        assert_eq!(file(root, INITRAMFS_MODULES).expect("kept"), theirs);
        let nothing = BTreeSet::from([bdf("41:00.0")]);
        assert_eq!(remove(root, REMAKE, &nothing, false).expect("room"), [""; 0]);
    }

    #[test]
    fn a_dry_run_writes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let changed = add(folder.path(), REMAKE, nic("21:00.0"), true).expect("nothing to fail");
        assert_eq!(
            changed,
            [
                "wrote /etc/modprobe.d/berth.conf",
                "wrote /etc/modules-load.d/berth.conf",
                "run `update-initramfs -u` for it to hold from the next boot",
            ]
        );
        assert!(!folder.path().join("etc").exists());
    }
    /// The generated line, as a shell runs it, on a folder in the place of sysfs.
    #[test]
    fn only_the_card_that_was_meant_is_reserved() {
        let sysfs = tempfile::tempdir().expect("a folder");
        let put = |address: &str, device: &str| {
            let folder = sysfs.path().join("devices").join(address);
            fs::create_dir_all(&folder).expect("a folder");
            let ids = ["0x8086", device, "0x8086", "0xa03c"];
            for (name, text) in IDENTITY_FILES.iter().zip(ids) {
                fs::write(folder.join(name), format!("{text}\n")).expect("a file");
            }
        };
        put("0000:21:00.0", "0x10c9");
        // Another card has come to this slot, nothing to the third; of the last no card is known.
        put("0000:22:00.0", "0xa80a");
        put("0000:24:00.0", "0x10c9");
        let mut all: Functions = ["21:00.0", "22:00.0", "23:00.0"]
            .iter()
            .flat_map(|address| nic(address))
            .map(|one| (one.address, one))
            .collect();
        let old: Persisted = "# berth function 0000:24:00.0 igb".parse().expect("an old line");
        all.insert(old.address, old);
        let text = modprobe(&all);
        let line = text.lines().find_map(|line| line.strip_prefix("install vfio-pci "));
        let script =
            line.expect("a line").replace("/sys/bus/pci", &sysfs.path().display().to_string());
        let script = script.replace("/sbin/modprobe", "true");
        let run =
            std::process::Command::new("sh").arg("-c").arg(&script).output().expect("a shell");
        assert!(run.status.success() && run.stderr.is_empty(), "{run:?}");
        let bound = |address: &str| {
            fs::read_to_string(sysfs.path().join("devices").join(address).join("driver_override"))
                .ok()
        };
        assert_eq!(bound("0000:21:00.0").as_deref(), Some("vfio-pci\n"));
        for other in ["0000:22:00.0", "0000:23:00.0", "0000:24:00.0"] {
            assert_eq!(bound(other), None, "{other}");
        }
        let probed = fs::read_to_string(sysfs.path().join("drivers_probe")).expect("probed");
        assert_eq!(probed, "0000:21:00.0\n");
    }
}
