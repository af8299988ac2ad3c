//! Drives: mounts here and elsewhere, swap, volumes, file systems of several drives, open files.

use anyhow::Result;

use super::{Case, answers, script, with_host};
use crate::devices::NVME;
use crate::harness;

const DRIVE: &[&str] = &["DRIVE"];

const CASES: &[Case] = &[
    Case {
        functions: DRIVE,
        begin: "mke2fs /dev/DISK; mkdir -p $work/here; mount /dev/DISK $work/here",
        says: "holds DISK, mounted on /tmp/in-use/here",
        end: "umount $work/here",
    },
    Case {
        functions: DRIVE,
        begin: "mkdir -p $work/there
                hold unshare -m sh -c \"mount /dev/DISK $work/there && touch $ready; exec sleep 900\"",
        says: "holds DISK, mounted on /tmp/in-use/there in the mount namespace of process HOLDER (sleep)",
        end: "release",
    },
    Case {
        functions: DRIVE,
        begin: "hold sh -c \"exec 9</dev/DISK; touch $ready; exec sleep 900\"",
        says: "is open as /dev/DISK in process HOLDER (sleep)",
        end: "release",
    },
    Case {
        functions: DRIVE,
        begin: "mkswap /dev/DISK; swapon /dev/DISK",
        says: "holds DISK, used as swap",
        end: "swapoff /dev/DISK",
    },
    Case {
        functions: DRIVE,
        begin: "losetup /dev/loop0 /dev/DISK",
        says: "holds DISK, part of loop0",
        end: "losetup -d /dev/loop0",
    },
    Case {
        functions: DRIVE,
        begin: "echo 0 65536 linear /dev/DISK 0 | volumes dmsetup --noudevsync --noudevrules create part",
        says: "holds DISK, part of dm-0",
        end: "volumes dmsetup --noudevsync --noudevrules remove part",
    },
    // What is mounted is a volume on a volume.
    Case {
        functions: DRIVE,
        begin: "echo 0 65536 linear /dev/DISK 0 | volumes dmsetup --noudevsync --noudevrules create lower
                echo 0 32768 linear /dev/dm-0 0 | volumes dmsetup --noudevsync --noudevrules create upper
                mke2fs /dev/dm-1; mkdir -p $work/deep; mount /dev/dm-1 $work/deep",
        says: "holds dm-1, mounted on /tmp/in-use/deep",
        end: "umount $work/deep; volumes dmsetup --noudevsync --noudevrules remove upper
              volumes dmsetup --noudevsync --noudevrules remove lower",
    },
    Case {
        functions: &["DRIVE", "SECOND"],
        begin: "volumes mdadm --create /dev/md0 --run --assume-clean --level=1 --raid-devices=2 /dev/DISK /dev/OTHER",
        says: "part of md0",
        end: "volumes mdadm --stop /dev/md0; volumes mdadm --zero-superblock /dev/DISK /dev/OTHER",
    },
    // The drive that is not named by the mount, too.
    Case {
        functions: &["DRIVE", "SECOND"],
        begin: "volumes mkfs.btrfs -q -f -m raid1 -d raid1 /dev/DISK /dev/OTHER
                mkdir -p $work/pair; mount -t btrfs -o device=/dev/OTHER /dev/DISK $work/pair",
        says: "mounted on /tmp/in-use/pair",
        end: "umount $work/pair",
    },
    // And where the mount is another namespace's.
    Case {
        functions: &["DRIVE", "SECOND"],
        begin: "hold unshare -m sh -c \"mount -t btrfs -o device=/dev/OTHER /dev/DISK $work/pair && touch $ready; exec sleep 900\"",
        says: "part of the btrfs ",
        end: "release",
    },
];

#[test]
fn drives() -> Result<()> {
    with_host(|host| {
        harness::check_all(CASES, "drives", |case| case.check(host))?;
        script(
            host,
            &format!("hold sh -c \"exec 9</dev/$(disk {NVME}); touch $ready; exec sleep 900\""),
        )?;
        let says = format!("--force takes {NVME}, although it is open as /dev/nvme");
        answers(host, &format!("berth bind {NVME} --force"), 0, &[&says])?;
        script(host, "release")?;
        answers(host, "berth restore", 0, &[NVME]).map(drop)
    })
}
