//! A NIC's own tests, as `ethtool -t INTERFACE offline` runs them.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};

/// `SIOCETHTOOL` and its commands (include/uapi/linux/sockios.h and ethtool.h).
const SIOCETHTOOL: libc::Ioctl = 0x8946 as libc::Ioctl;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_TEST: u32 = 0x1a;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const FLAG_OFFLINE: u32 = 1;
const FLAG_FAILED: u32 = 2;
/// Words of `struct ethtool_drvinfo`, and where in it the number of tests is.
const DRVINFO_WORDS: usize = 49;
const DRVINFO_TESTS: usize = 46;
const NAME: usize = 32;

/// Prints each test and its result, 0 for passed.
pub fn run(interface: &str) -> Result<()> {
    let mut info = vec![0u32; DRVINFO_WORDS];
    info[0] = ETHTOOL_GDRVINFO;
    ethtool(interface, &mut info)?;
    let tests = info[DRVINFO_TESTS] as usize;
    ensure!((1..64).contains(&tests), "{interface} has {tests} self-tests");

    // Command, set of strings (0: tests), number, and the names.
    let mut strings = vec![0u32; 3 + tests * NAME / 4];
    (strings[0], strings[2]) = (ETHTOOL_GSTRINGS, tests as u32);
    ethtool(interface, &mut strings)?;
    let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_le_bytes()).collect();

    // Command, flags, reserved, number, and 64-bit results.
    let mut results = vec![0u32; 4 + 2 * tests];
    (results[0], results[1], results[3]) = (ETHTOOL_TEST, FLAG_OFFLINE, tests as u32);
    ethtool(interface, &mut results)?;
    for (test, name) in bytes.chunks(NAME).enumerate() {
        let name = String::from_utf8_lossy(name);
        let result = results[4 + 2 * test];
        println!("self-test {}: {result}", name.trim_end_matches('\0').trim());
    }
    let failed = results[1] & FLAG_FAILED != 0;
    println!("self-test: {}", if failed { "failed" } else { "passed" });
    Ok(())
}

fn ethtool(interface: &str, words: &mut [u32]) -> Result<()> {
    // SAFETY: a request for a new descriptor.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) };
    ensure!(socket >= 0, "no socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new, and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(interface.len() < libc::IFNAMSIZ, "{interface} is no interface");
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    let done =
        // SAFETY: the command in `words` has the room for its answer behind it.
        unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    let failed = (done < 0).then(std::io::Error::last_os_error);
    failed.map_or(Ok(()), Err).with_context(|| format!("ethtool {:#x} of {interface}", words[0]))
}
