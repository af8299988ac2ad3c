//! What the host uses is refused by every command that could take it, by its name, and nothing
//! changes; once it is let go, it is taken and given back.

mod drives;
mod networks;
mod others;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::devices::{EDU, NVME};
use crate::harness::{self, GuestConfig, Host, Output};

/// The second drive.
const SECOND: &str = "0000:09:00.0";
const LIMIT: Duration = Duration::from_secs(60);

/// What the host does with functions. In its texts `NIC`, `EDU`, `DRIVE` and `SECOND` are addresses,
/// `DISK` and `OTHER` the two drives' block devices, `HOLDER` the process that `hold` has started.
struct Case {
    /// The functions that are in use by it.
    functions: &'static [&'static str],
    /// Shell commands that begin the use.
    begin: &'static str,
    /// What is said of each function.
    says: &'static str,
    /// Shell commands that end it.
    end: &'static str,
}

/// Shell functions and variables of all scripts here.
const PRELUDE: &str = r#"
work=/tmp/in-use
export BERTH_STATE_DIR=$work/state
# until COMMAND...: 10 s at most
await() { n=0; until "$@" >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 200 ] || return 1; usleep 50000; done; }
# hold COMMAND...: one that outlives this script, and makes $ready when it has what it wants.
ready=$work/ready
hold() {
    rm -f $ready
    "$@" >/dev/null 2>&1 </dev/null &
    echo $! >$work/holder
    await test -e $ready
}
gone() { ! readlink /proc/$1/ns/mnt; }
release() { kill $(cat $work/holder); await gone $(cat $work/holder); }
holder() { cat $work/holder; }
volumes() { program=$1; shift; /lab/volumes/ld-linux-x86-64.so.2 --library-path /lab/volumes /lab/volumes/$program "$@"; }
# A controller has the path to a drive (nvme0c1n1), of which the kernel makes the drive (nvme0n1).
disk() {
    disk=$(basename "$(ls -d /sys/bus/pci/devices/$1/nvme/nvme*/nvme*n1 2>/dev/null)" | sed 's/c[0-9]*n/n/')
    test -b "/dev/$disk" && echo "$disk"
}
# What berth could change, and what would end with it.
state() {
    ls -d /sys/bus/pci/drivers/*/0000:*
    grep -Hs '' /sys/bus/pci/devices/*/driver_override /sys/bus/pci/devices/*/sriov_numvfs
    grep -H '' /sys/devices/system/node/node*/hugepages/*/nr_hugepages
    ip addr | sed -n 's/^[0-9]*: \([^:]*\):.*/\1/p; /inet /p'
    cat /proc/mounts
    cut -d' ' -f1 /proc/swaps
    ls /sys/class/block/*/holders /sys/block
}
"#;

fn script(host: &Host, text: &str) -> Result<String> {
    let script = format!("set -e\n{PRELUDE}\n{text}");
    host.exec_with(&script, &[], LIMIT)?.success().with_context(|| text.to_owned())
}

/// The host whose functions have their own drivers, with everything that cases need.
fn host() -> Result<harness::HostGuard> {
    let host = harness::host("devices");
    host.berth()?;
    let nic = host.nic();
    script(
        &host,
        &format!(
            "rm -rf $work; mkdir -p $work
             for module in nvme ext4 crc32c_generic 8021q macvlan 'bonding max_bonds=0' bridge ipvlan raid1 dm-mod btrfs loop uio_pci_generic igbvf; do
                 modprobe $module
             done
             for address in {nic} {EDU} {NVME} {SECOND}; do
                 sysfs=/sys/bus/pci/devices/$address
                 echo >$sysfs/driver_override
                 [ ! -e /sys/bus/pci/drivers/vfio-pci/$address ] || echo $address >$sysfs/driver/unbind
                 echo $address >/sys/bus/pci/drivers_probe || true
             done
             await test -e /sys/bus/pci/devices/{nic}/net/eth0
             ip link set eth0 down; ip addr flush dev eth0
             await disk {NVME}; await disk {SECOND}"
        ),
    )?;
    Ok(host)
}

/// Checks on a host that nobody gets after one of them has failed.
fn with_host(test: impl Fn(&Host) -> Result<()>) -> Result<()> {
    let host = host()?;
    let result = test(&host);
    if result.is_err() {
        host.retire();
    }
    result
}

/// Texts of a case, with what they stand for on this host just now.
struct Names(Vec<(&'static str, String)>);

impl Names {
    fn read(host: &Host) -> Result<Self> {
        let all = script(host, &format!("disk {NVME}; disk {SECOND}; cat $work/holder || echo -"))?;
        let mut all = all.lines().map(str::to_owned);
        let mut next = || all.next().context("a line for each name");
        Ok(Self(vec![("DISK", next()?), ("OTHER", next()?), ("HOLDER", next()?)]))
    }

    fn fill(&self, host: &Host, text: &str) -> String {
        let addresses = [("NIC", host.nic()), ("EDU", EDU), ("DRIVE", NVME), ("SECOND", SECOND)];
        let names = self.0.iter().map(|(word, name)| (*word, name.as_str()));
        names.chain(addresses).fold(text.to_owned(), |text, (word, name)| text.replace(word, name))
    }
}

impl Case {
    fn check(&self, host: &Host) -> Result<()> {
        self.walk(host).with_context(|| self.says.to_owned())
    }

    fn walk(&self, host: &Host) -> Result<()> {
        let names = Names::read(host)?;
        let fill = |text: &str| names.fill(host, text);
        script(host, &format!("{}\nstate >$work/before", fill(self.begin)))?;
        let says = Names::read(host)?.fill(host, self.says);
        let functions: Vec<String> = self.functions.iter().map(|name| fill(name)).collect();
        for function in &functions {
            refused(host, function, &says)?;
        }
        let functions = functions.join(" ");
        script(
            host,
            &format!(
                "{}
                 state >$work/before
                 berth bind {functions}
                 for function in {functions}; do test -e /sys/bus/pci/drivers/vfio-pci/$function; done
                 berth restore
                 for function in {functions}; do
                     [ ! -e /sys/bus/pci/devices/$function/nvme ] || await disk $function
                 done
                 state >$work/after; diff $work/before $work/after",
                fill(self.end)
            ),
        )?;
        println!("refused and then taken: {functions}: {says}");
        Ok(())
    }
}

/// Every command that could take `function` refuses it, says why, and changes nothing.
fn refused(host: &Host, function: &str, says: &str) -> Result<()> {
    let config = GuestConfig::new(host).devices(&[function]);
    let [auto, manual] = ["auto", "manual"].map(|way| format!("{}/{way}.json", host.scratch()));
    host.write(&auto, &config.clone().set("/devices/0/bind", "auto").to_string())?;
    host.write(&manual, &config.to_string())?;
    for command in [
        format!("berth bind {function}"),
        format!("berth bind {function} --group"),
        format!("berth run {auto}"),
        format!("berth check {manual} --fix"),
    ] {
        answers(host, &command, 3, &[function, says])?;
    }
    unchanged(host)
}

/// What a command says, in both its outputs.
fn answers(host: &Host, command: &str, status: i32, words: &[&str]) -> Result<String> {
    let script = format!("{PRELUDE}\n{command}");
    let Output { status: found, stdout, stderr } = host.exec_with(&script, &[], LIMIT)?;
    let text = stdout + &stderr;
    ensure!(found == status, "{command}: status {found}, not {status}\n{text}");
    for word in words {
        ensure!(text.contains(word), "{command}: not said: {word}\n{text}");
    }
    Ok(text)
}

/// All is as it was when `$work/before` was written.
fn unchanged(host: &Host) -> Result<()> {
    script(host, "state >$work/after; diff $work/before $work/after").map(drop)
}
