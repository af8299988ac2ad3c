//! A guest that does anything to its devices, from two CPUs at once, repeatable by its seed.
//!
//! Configuration space is reached through ECAM, and looked for at the ports 0xcf8 and 0xcfc, past the
//! kernel and its lock, so that both CPUs are at it at the same moment. The kernel runs with
//! `iomem=relaxed`, without which `/dev/mem` shows neither ECAM nor claimed BARs.
//!
//! One thing it does not do: let its devices send itself an INIT, an NMI or a vector that its
//! kernel takes for an order to stop. Any guest can, and is then silent; this one has more to do.
//!
//! Registers behind the BARs are written in the mode `registers` only: it is for devices that
//! stand it themselves. All others are read, and their interrupt tables written.

use std::fs::{File, OpenOptions};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::memory::Mapping;
use crate::pci::Function;
use crate::ports;
use crate::random::Random;

/// Where the machine has its ECAM and the window of 32-bit BARs.
const ECAM: u64 = 0xe000_0000;
const WINDOW: u64 = 0xc000_0000;
/// What is mapped of each: all buses that can have a device, and where BARs are placed first.
const ECAM_LENGTH: usize = 32 << 20;
const WINDOW_LENGTH: usize = 64 << 20;

const COMMAND: u64 = 0x04;
const CAP_POWER: u8 = 0x01;
const CAP_MSI: u8 = 0x05;
const CAP_EXPRESS: u8 = 0x10;
const CAP_MSIX: u8 = 0x11;

/// edu's DMA engine: what it is told goes through the IOMMU, whose faults the host logs.
const EDU: u32 = 0x11e8_1234;
const EDU_DMA: u64 = 0x80;

/// A function under attack.
struct Target {
    /// Offset of its configuration space in ECAM.
    ecam: u64,
    /// Registers on which much depends, and their bytes.
    registers: Vec<(u64, u64)>,
    /// First addresses of its memory BARs, and their sizes.
    bars: Vec<[u64; 2]>,
    /// Where its MSI-X table is, and how many bytes.
    table: Option<(u64, u64)>,
    /// Words of configuration space that can hold the data of an MSI message.
    data: Vec<u64>,
    is_edu: bool,
}

impl Target {
    fn new(address: &str) -> Result<Self> {
        let function = Function::open(address)?;
        function.enable()?;
        let part = |range: std::ops::Range<usize>| {
            let digits = address.get(range).context("an address has 12 characters")?;
            u64::from_str_radix(digits, 16).with_context(|| format!("{address} is no address"))
        };
        let (bus, device, number) = (part(5..7)?, part(8..10)?, part(11..12)?);
        let mut registers: Vec<(u64, u64)> = (0x10..0x28).step_by(4).map(|bar| (bar, 4)).collect();
        registers.extend([(COMMAND, 2), (COMMAND, 2), (COMMAND, 2), (0x30, 4), (0x3c, 1)]);
        if let Some(power) = function.capability(CAP_POWER)? {
            registers.push((power + 4, 2));
        }
        if let Some(express) = function.capability(CAP_EXPRESS)? {
            // Device control, with the function level reset in its highest bit.
            registers.push((express + 8, 2));
        }
        let mut data = Vec::new();
        if let Some(msi) = function.capability(CAP_MSI)? {
            registers.extend([(msi + 2, 2), (msi + 4, 4), (msi + 8, 4), (msi + 12, 4)]);
            data = vec![msi + 8, msi + 12];
        }
        let resources = function.resources()?;
        let memory = resources
            .iter()
            .take(6)
            .filter(|[start, .., flags]| *start >= WINDOW && *start < ECAM && flags & 0x200 != 0);
        let bars = memory.map(|[start, end, _]| [*start, end - start + 1]).collect();
        let mut table = None;
        if let Some(msix) = function.capability(CAP_MSIX)? {
            registers.extend([(msix + 2, 2), (msix + 2, 2)]);
            let vectors = u64::from(function.half(msix + 2)? & 0x7ff) + 1;
            let place = function.word(msix + 4)?;
            let bar = resources.get((place & 7) as usize).context("the table is in a BAR")?[0];
            table = Some((bar + u64::from(place & !7), vectors * 16));
        }
        let is_edu = function.word(0)? == EDU;
        let ecam = bus << 20 | device << 15 | number << 12;
        Ok(Self { ecam, registers, bars, table, data, is_edu })
    }
}

/// What all CPUs share.
struct Attack {
    targets: Vec<Target>,
    ecam: Mapping,
    window: Mapping,
    registers: bool,
    end: Instant,
    accesses: AtomicU64,
}

/// Runs for `seconds` on two CPUs, then leaves the functions as they came to be.
pub fn run(seconds: u64, seed: u64, registers: bool, functions: &[&str]) -> Result<()> {
    ensure!(!functions.is_empty(), "hostile to whom?");
    ports::allow()?;
    let memory = OpenOptions::new().read(true).write(true).open("/dev/mem")?;
    let map = |at: u64, length: usize| window(&memory, at, length);
    let attack = Attack {
        targets: functions.iter().map(|address| Target::new(address)).collect::<Result<_>>()?,
        ecam: map(ECAM, ECAM_LENGTH)?,
        window: map(WINDOW, WINDOW_LENGTH)?,
        registers,
        end: Instant::now() + Duration::from_secs(seconds),
        accesses: AtomicU64::new(0),
    };
    println!("hostile begins");
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let attack = &attack;
            scope.spawn(move || attack.run(cpu, Random::new(seed << 1 | cpu as u64)));
        }
    });
    println!("hostile: {} accesses in {seconds} s, seed {seed}", attack.accesses.into_inner());
    Ok(())
}

fn window(memory: &File, at: u64, length: usize) -> Result<Mapping> {
    let mapped = Mapping::of_file(memory, at, length);
    mapped.with_context(|| format!("/dev/mem at {at:#x}: is the kernel's iomem relaxed?"))
}

impl Attack {
    fn run(&self, cpu: usize, mut random: Random) {
        // SAFETY: the set is a plain bit mask of the size that is given.
        unsafe {
            let mut cpus: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut cpus);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &cpus);
        }
        let mut accesses = 0;
        while Instant::now() < self.end {
            for _ in 0..64 {
                self.access(&mut random);
            }
            accesses += 64;
        }
        self.accesses.fetch_add(accesses, Ordering::Relaxed);
    }

    fn access(&self, random: &mut Random) {
        let target = &self.targets[random.below(self.targets.len() as u64) as usize];
        match random.below(16) {
            // Registers that mean something, with values that do.
            0..=5 => {
                let (register, bytes) = random.of(&target.registers);
                let mut value = self.value(random, register);
                if target.data.contains(&register) {
                    value = message_data(random);
                }
                let at = (target.ecam + register) as usize;
                match bytes {
                    1 => self.ecam.write(at, value as u8),
                    2 => self.ecam.write(at, value as u16),
                    _ => self.ecam.write(at, value as u32),
                }
            }
            // Any register, any size and alignment, a page's end included.
            6 => {
                let register = random.below(0x1000);
                let near = |data: &u64| (data - 8..data + 4).contains(&register);
                if target.data.iter().any(near) {
                    return;
                }
                let at = (target.ecam + register) as usize;
                match random.below(4) {
                    0 => self.ecam.write(at, random.next() as u8),
                    1 => self.ecam.write(at, random.next() as u16),
                    2 => self.ecam.write(at, random.next() as u32),
                    _ => self.ecam.write(at, random.next()),
                }
            }
            7 | 8 => {
                let at = target.ecam + random.below(0x1000);
                read(&self.ecam, at as usize, random);
            }
            9 => {
                let register = random.below(0x100) & !3;
                let select = 1 << 31 | (target.ecam >> 12) << 8 | register;
                ports::write(0xcf8, select as u32);
                match random.below(3) {
                    0 if !target.data.contains(&register) => {
                        ports::write(0xcfc, self.value(random, register) as u32);
                    }
                    1 => drop(ports::read(0xcfc)),
                    _ => ports::write(0xcf8, random.next() as u32),
                }
            }
            10 | 11 => {
                let Some((table, length)) = target.table else { return };
                let at = table + random.below(length + 64);
                if self.is_in_window(at) {
                    let at = (at - WINDOW) as usize;
                    match random.below(4) {
                        0 => self.window.write(at & !15, random.next() as u32),
                        1 => self.window.write(at & !15, random.next()),
                        2 => self.window.write(at & !15 | 8, message_data(random)),
                        // An entry's mask.
                        _ => self.window.write(at & !15 | 12, random.below(2) as u32),
                    }
                }
            }
            12 if self.registers => {
                let [start, size] = random.of(&self.bars());
                let at = start + random.below(size);
                // Wherever edu may be by now, its DMA engine is not started.
                let unsafe_page = self.targets.iter().any(|target| target.is_edu)
                    && at & 0xfffff >= EDU_DMA - 8
                    && at & 0xfffff < 0x1000;
                if !unsafe_page && self.is_in_window(at) {
                    self.window.write((at - WINDOW) as usize, random.next() as u32);
                }
            }
            _ => {
                let at = match random.below(4) {
                    0 => random.below(WINDOW_LENGTH as u64),
                    _ => {
                        let bars = self.bars();
                        if bars.is_empty() {
                            return;
                        }
                        let [start, size] = random.of(&bars);
                        start + random.below(size + 16) - WINDOW
                    }
                };
                if self.is_in_window(WINDOW + at) {
                    read(&self.window, at as usize, random);
                }
            }
        }
    }

    fn is_in_window(&self, at: u64) -> bool {
        (WINDOW..WINDOW + WINDOW_LENGTH as u64 - 16).contains(&at)
    }

    /// Memory BARs of all targets, where they were.
    fn bars(&self) -> Vec<[u64; 2]> {
        self.targets.iter().flat_map(|target| target.bars.iter().copied()).collect()
    }

    /// Something that a register may take badly: where other BARs, RAM or the interrupt
    /// controllers are, or a random number.
    fn value(&self, random: &mut Random, register: u64) -> u64 {
        if register == COMMAND {
            // Mostly on, so that there is something to be switched off.
            let any = random.below(0x800);
            return random.of(&[0, 1, 2, 3, 6, 7, 7, 7, 0x407, any]);
        }
        match random.below(6) {
            0 => random.next(),
            1 => random.of(&[0, 0xffff_ffff, 0x8000, 0xc000, 1, 0x71]),
            2 => random.of(&[0x10_0000, 0xbfff_f000, 0xe000_0000, 0xfec0_0000, 0xfee0_0000]),
            3 => WINDOW + random.below(WINDOW_LENGTH as u64),
            _ => {
                let bars = self.bars();
                if bars.is_empty() { 0 } else { random.of(&bars)[0] | random.below(2) }
            }
        }
    }
}

/// A vector of those that kernels give to devices, with fixed delivery. Above is 0x80, Linux's
/// old system call.
fn message_data(random: &mut Random) -> u64 {
    (0x30 + random.below(0x50)) | random.below(4) << 32
}

fn read(memory: &Mapping, at: usize, random: &mut Random) {
    match random.below(4) {
        0 => drop(memory.read::<u8>(at)),
        1 => drop(memory.read::<u16>(at)),
        2 => drop(memory.read::<u32>(at)),
        _ => drop(memory.read::<u64>(at)),
    }
}
