//! QEMU's teaching device `edu`, which no driver of Linux knows (QEMU's docs/specs/edu.rst).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::memory::{Mapping, Page};
use crate::pci::Function;

const IDENTITY: usize = 0x00;
const LIVENESS: usize = 0x04;
const FACTORIAL: usize = 0x08;
const STATUS: usize = 0x20;
const STATUS_COMPUTING: u32 = 1;
const IRQ_STATUS: usize = 0x24;
const IRQ_RAISE: usize = 0x60;
const IRQ_ACKNOWLEDGE: usize = 0x64;
const DMA_SOURCE: usize = 0x80;
const DMA_DESTINATION: usize = 0x88;
const DMA_COUNT: usize = 0x90;
const DMA_COMMAND: usize = 0x98;
const DMA_RUN: u64 = 1;
const DMA_FROM_DEVICE: u64 = 2;
/// The device's own buffer, 4 KiB, as its DMA engine addresses it.
const BUFFER: u64 = 0x4_0000;

const CAP_MSI: u8 = 0x05;
const LIMIT: Duration = Duration::from_secs(20);

/// The device with its registers.
struct Edu {
    function: Function,
    registers: Mapping,
}

impl Edu {
    fn open(address: &str) -> Result<Self> {
        let function = Function::open(address)?;
        function.enable()?;
        let registers = function.map(0)?;
        let identity = registers.read::<u32>(IDENTITY);
        ensure!(identity & 0xffff == 0x00ed, "this is no edu: {identity:#x}");
        Ok(Self { function, registers })
    }

    fn until(&self, what: &str, done: impl Fn(&Mapping) -> bool) -> Result<()> {
        let start = Instant::now();
        while !done(&self.registers) {
            ensure!(start.elapsed() < LIMIT, "{what} takes longer than {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn dma(&self, source: u64, destination: u64, count: usize, direction: u64) -> Result<()> {
        self.registers.write(DMA_SOURCE, source);
        self.registers.write(DMA_DESTINATION, destination);
        self.registers.write(DMA_COUNT, count as u64);
        self.registers.write(DMA_COMMAND, DMA_RUN | direction);
        self.until("a DMA transfer", |registers| registers.read::<u64>(DMA_COMMAND) & DMA_RUN == 0)
    }

    /// Through the device's buffer, from one address to another.
    fn copy(&self, from: u64, to: u64, count: usize) -> Result<()> {
        self.dma(from, BUFFER, count, 0)?;
        self.dma(BUFFER, to, count, DMA_FROM_DEVICE)
    }
}

/// Registers, a computation, and DMA in both directions.
pub fn work(address: &str) -> Result<()> {
    let edu = Edu::open(address)?;
    let registers = &edu.registers;
    registers.write(LIVENESS, 0x1234_5678u32);
    let inverted = registers.read::<u32>(LIVENESS);
    ensure!(inverted == !0x1234_5678, "liveness {inverted:#x}");
    registers.write(FACTORIAL, 10u32);
    edu.until("10!", |registers| registers.read::<u32>(STATUS) & STATUS_COMPUTING == 0)?;
    let factorial = registers.read::<u32>(FACTORIAL);
    ensure!(factorial == 3_628_800, "10! is not {factorial}");

    let (from, to) = (Page::new()?, Page::new()?);
    fill(&from.memory);
    edu.copy(from.physical, to.physical, Page::SIZE)?;
    same(&from.memory, &to.memory)?;
    println!("edu {address}: 10! is {factorial}, {} bytes there and back", Page::SIZE);
    Ok(())
}

/// Interrupts by MSI, with the message of a function that has a handler and is idle: `lender`'s
/// count in `/proc/interrupts` goes up by one each time.
pub fn interrupt(address: &str, lender: &str, count: u64) -> Result<()> {
    let edu = Edu::open(address)?;
    let from = Function::open(lender)?;
    let source = from.capability(CAP_MSI)?.with_context(|| format!("no MSI in {lender}"))?;
    let target = edu.function.capability(CAP_MSI)?.context("no MSI in edu")?;
    let control = from.half(source + 2)?;
    ensure!(control & 0x81 == 0x81, "{lender} does not use 64-bit MSI: {control:#x}");
    let (low, high) = (from.word(source + 4)?, from.word(source + 8)?);
    let data = from.half(source + 12)?;
    edu.function.write(target + 4, &low.to_le_bytes())?;
    edu.function.write(target + 8, &high.to_le_bytes())?;
    edu.function.write(target + 12, &data.to_le_bytes())?;
    let control = edu.function.half(target + 2)?;
    edu.function.write(target + 2, &(control & !0x70 | 1).to_le_bytes())?;
    for bit in 0..count {
        edu.registers.write(IRQ_RAISE, 1u32 << bit);
        let pending = edu.registers.read::<u32>(IRQ_STATUS);
        ensure!(pending == 1 << bit, "interrupt status {pending:#x}");
        // Each is taken before the next comes: two at once would be one.
        std::thread::sleep(Duration::from_millis(50));
        edu.registers.write(IRQ_ACKNOWLEDGE, 1u32 << bit);
    }
    edu.function.write(target + 2, &control.to_le_bytes())?;
    println!("msi {address}: {count} messages of {low:#x} {data:#x}");
    Ok(())
}

/// DMA into memory of another device at `peer`, and out of it.
pub fn reach(address: &str, peer: u64) -> Result<()> {
    let edu = Edu::open(address)?;
    let (from, to) = (Page::new()?, Page::new()?);
    fill(&from.memory);
    edu.copy(from.physical, peer, Page::SIZE)?;
    edu.copy(peer, to.physical, Page::SIZE)?;
    same(&from.memory, &to.memory)?;
    println!("peer {address}: {} bytes to {peer:#x} and back", Page::SIZE);
    Ok(())
}

/// A pattern without repetition.
fn fill(memory: &Mapping) {
    for at in (0..memory.len()).step_by(4) {
        memory.write(at, 0xb0a7_0000 | at as u32);
    }
}

fn same(one: &Mapping, other: &Mapping) -> Result<()> {
    for at in (0..one.len()).step_by(4) {
        let (one, other) = (one.read::<u32>(at), other.read::<u32>(at));
        ensure!(one == other, "at {at:#x} {other:#x} came back for {one:#x}");
    }
    Ok(())
}
