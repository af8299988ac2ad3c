//! `--persist`: functions go to vfio-pci at boot, before their own drivers can have them.
//!
//! By address, not by ID as `options vfio-pci ids=` would, which takes every card of a kind: the
//! file of modprobe.d makes the functions' own drivers load vfio-pci first, and loading vfio-pci
//! set their `driver_override`. The file is generated from the list of functions in its
//! comments, so that adding twice changes nothing and removing the last one removes the file. In
//! a file of the host's own, berth's lines stand between markers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_devices::pci::Bdf;

use super::BindingError;

const MODPROBE: &str = "etc/modprobe.d/berth.conf";
/// Loads vfio-pci even when no driver's softdep does.
const MODULES_LOAD: &str = "etc/modules-load.d/berth.conf";
/// Debian's initramfs-tools; its hooks copy modprobe.d themselves.
const INITRAMFS_MODULES: &str = "etc/initramfs-tools/modules";
/// dracut copies modprobe.d itself too.
const DRACUT_FOLDER: &str = "etc/dracut.conf.d";
const DRACUT: &str = "etc/dracut.conf.d/berth.conf";

const BEGIN: &str = "# berth begin";
const END: &str = "# berth end";
const FUNCTION: &str = "# berth function ";

/// Functions with their own drivers.
pub type Functions = BTreeMap<Bdf, Option<String>>;

/// Adds functions; the files that change are returned.
pub fn add(root: &Path, new: Functions, dry_run: bool) -> Result<Vec<String>, BindingError> {
    let mut all = listed(root)?;
    for (address, driver) in new {
        // The driver of a function that is bound already was noted when it was not.
        let known = all.entry(address).or_default();
        *known = driver.or_else(|| known.take());
    }
    write_all(root, &all, dry_run)
}

/// Removes functions; the files that change are returned.
pub fn remove(
    root: &Path,
    gone: &BTreeSet<Bdf>,
    dry_run: bool,
) -> Result<Vec<String>, BindingError> {
    let mut all = listed(root)?;
    all.retain(|address, _| !gone.contains(address));
    write_all(root, &all, dry_run)
}

fn listed(root: &Path) -> Result<Functions, BindingError> {
    let text = read(&root.join(MODPROBE))?.unwrap_or_default();
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<(Bdf, Option<String>)> {
    let mut words = line.strip_prefix(FUNCTION)?.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next().map(str::to_owned)))
}

fn write_all(root: &Path, all: &Functions, dry_run: bool) -> Result<Vec<String>, BindingError> {
    let wanted = |text: &str| (!all.is_empty()).then(|| text.to_owned());
    let mut files = vec![
        (MODPROBE, (!all.is_empty()).then(|| modprobe(all))),
        (MODULES_LOAD, wanted("# Written by `berth bind --persist`.\nvfio-pci\n")),
    ];
    let modules = read(&root.join(INITRAMFS_MODULES))?;
    let initramfs_tools = modules.is_some();
    if let Some(text) = modules {
        files.push((INITRAMFS_MODULES, Some(with_block(&text, wanted("vfio-pci\n").as_deref()))));
    }
    let dracut = root.join(DRACUT_FOLDER).is_dir();
    if dracut {
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
        if initramfs_tools {
            changed.push("run `update-initramfs -u` for it to hold from the next boot".to_owned());
        } else if dracut {
            changed.push("run `dracut --force` for it to hold from the next boot".to_owned());
        }
    }
    Ok(changed)
}

/// `install` replaces the loading of vfio-pci by a command, here one that ends by loading it.
fn modprobe(all: &Functions) -> String {
    let mut text = "# Written by `berth bind --persist`; `berth unbind --persist` removes it.\n\
                    # These functions go to vfio-pci when it is loaded, before their own drivers.\n"
        .to_owned();
    for (address, driver) in all {
        let driver = driver.as_ref().map_or_else(String::new, |driver| format!(" {driver}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{FUNCTION}{address}{driver}");
    }
    let drivers: BTreeSet<&String> = all.values().flatten().collect();
    for driver in drivers {
        let _ = writeln!(text, "softdep {driver} pre: vfio-pci");
    }
    let addresses: Vec<String> = all.keys().map(Bdf::to_string).collect();
    let _ = writeln!(
        text,
        "install vfio-pci for f in {}; do f=/sys/bus/pci/devices/$f/driver_override; \
         [ ! -e $f ] || echo vfio-pci > $f; done; \
         modprobe --ignore-install vfio-pci $CMDLINE_OPTS",
        addresses.join(" ")
    );
    text
}

/// `text` with berth's block, or without one.
fn with_block(text: &str, block: Option<&str>) -> String {
    let mut inside = false;
    let mut kept: String = text
        .split_inclusive('\n')
        .filter(|line| {
            let begins = line.trim_end() == BEGIN;
            let skip = inside || begins;
            inside = (inside || begins) && line.trim_end() != END;
            !skip
        })
        .collect();
    if let Some(block) = block {
        if !kept.is_empty() && !kept.ends_with('\n') {
            kept.push('\n');
        }
        kept += &format!("{BEGIN}\n{block}{END}\n");
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

    fn bdf(text: &str) -> Bdf {
        text.parse().expect("an address")
    }

    fn nic(address: &str) -> Functions {
        Functions::from([(bdf(address), Some("igb".to_owned()))])
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

        let changed = add(root, nic("21:00.0"), false).expect("room");
        assert_eq!(changed.len(), 4, "{changed:?}");
        assert_eq!(
            file(root, MODPROBE).expect("written"),
            "# Written by `berth bind --persist`; `berth unbind --persist` removes it.\n\
             # These functions go to vfio-pci when it is loaded, before their own drivers.\n\
             # berth function 0000:21:00.0 igb\n\
             softdep igb pre: vfio-pci\n\
             install vfio-pci for f in 0000:21:00.0; do \
             f=/sys/bus/pci/devices/$f/driver_override; [ ! -e $f ] || echo vfio-pci > $f; done; \
             modprobe --ignore-install vfio-pci $CMDLINE_OPTS\n"
        );
        assert_eq!(
            file(root, INITRAMFS_MODULES).expect("kept"),
            "# their modules\next4\n# berth begin\nvfio-pci\n# berth end\n"
        );
        // Bound by now, so that its own driver is not known any more.
        let bound = Functions::from([(bdf("21:00.0"), None)]);
        assert_eq!(add(root, bound, false).expect("room"), [""; 0]);

        add(root, nic("41:00.0"), false).expect("room");
        remove(root, &BTreeSet::from([bdf("21:00.0")]), false).expect("room");
        let text = file(root, MODPROBE).expect("one is left");
        assert!(text.contains("0000:41:00.0") && !text.contains("0000:21:00.0"), "{text}");

        remove(root, &BTreeSet::from([bdf("41:00.0")]), false).expect("room");
        for name in [MODPROBE, MODULES_LOAD] {
            assert_eq!(file(root, name), None, "{name}");
        }
        assert_eq!(file(root, INITRAMFS_MODULES).expect("kept"), format!("{theirs}\n"));
        let nothing = BTreeSet::from([bdf("41:00.0")]);
        assert_eq!(remove(root, &nothing, false).expect("room"), [""; 0]);
    }

    #[test]
    fn a_dry_run_writes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let changed = add(folder.path(), nic("21:00.0"), true).expect("nothing to fail");
        assert_eq!(
            changed,
            ["wrote /etc/modprobe.d/berth.conf", "wrote /etc/modules-load.d/berth.conf"]
        );
        assert!(!folder.path().join("etc").exists());
    }
}
