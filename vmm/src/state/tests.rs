//! A state folder that others cannot use against its user.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").mode() & 0o777
}

/// A folder with a lock and a run, as open as a umask of 022 makes them.
fn open_to_readers() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("runs")).expect("a folder");
    for file in ["lock", "runs/router-1"] {
        fs::write(folder.path().join(file), "").expect("a file");
        close(&folder.path().join(file), 0o644).expect("ours");
    }
    for inner in ["runs", ""] {
        close(&folder.path().join(inner), 0o755).expect("ours");
    }
    folder
}

#[test]
fn a_new_folder_and_its_files_are_closed_whatever_the_umask() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("state/berth");
    prepare(&folder).expect("it is made");
    // As a umask of 0777 would leave it.
    close(&folder, 0).expect("ours");
    prepare(&folder).expect("it is mended");
    let lock = Lock::take(&folder.join("lock")).expect("nobody else has it");
    drop(lock);
    assert_eq!((mode(&folder), mode(&folder.join("lock"))), (0o700, 0o600));
}

#[test]
fn what_others_may_read_is_closed_to_them() {
    let folder = open_to_readers();
    prepare(folder.path()).expect("it is repaired");
    let modes = ["", "lock", "runs", "runs/router-1"].map(|name| mode(&folder.path().join(name)));
    assert_eq!(modes, [0o700, 0o600, 0o700, 0o600]);
}

#[test]
fn what_others_may_write_to_is_refused() {
    for wide in [0o720, 0o702, 0o1777] {
        let folder = tempfile::tempdir().expect("a folder");
        close(folder.path(), wide).expect("ours");
        let error = prepare(folder.path()).expect_err("its files may be anybody's");
        assert!(matches!(error, StateError::Writable { .. }), "{error}");
        assert_eq!(mode(folder.path()), wide & 0o777, "nothing has changed");
    }
}

#[test]
fn somebody_elses_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    // Only root gives files away; for others /root is root's, which everybody trusts.
    if std::os::unix::fs::chown(folder.path(), Some(4711), None).is_err() {
        return;
    }
    let error = prepare(folder.path()).expect_err("it is user 4711's");
    assert!(matches!(error, StateError::Foreign { owner: 4711, .. }), "{error}");
}

#[test]
fn a_link_is_not_followed() {
    let folder = open_to_readers();
    let link = folder.path().join("link");
    symlink(folder.path(), &link).expect("a link");
    assert!(prepare(&link).is_err());
    assert_eq!(mode(folder.path()), 0o755, "what it leads to is left alone");
    let file = folder.path().join("runs/lock");
    symlink("../lock", &file).expect("a link");
    assert!(Lock::take(&file).is_err());
}

#[test]
fn a_wait_has_a_limit_and_says_for_whom() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lock");
    let first = Lock::take(&path).expect("nobody else has it");
    let start = Instant::now();
    let limit = Duration::from_millis(100);
    let Err(error) = Lock::take_within(&path, limit) else { panic!("two have it") };
    assert!(start.elapsed() >= limit);
    let own = format!("(process {})", std::process::id());
    assert!(error.to_string().contains(&own), "{error}");
    drop(first);
    drop(Lock::take_within(&path, limit).expect("it is free again"));
    // Somebody who has left no note, as with flock(1).
    let other = File::open(&path).expect("the lock");
    other.lock().expect("nobody else has it");
    let Err(error) = Lock::take_within(&path, limit) else { panic!("two have it") };
    assert!(error.to_string().contains("not known"), "{error}");
}
