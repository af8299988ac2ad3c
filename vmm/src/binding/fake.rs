//! A kernel with a few functions, for tests: it obeys the rules of the driver core, and a fuse
//! may end the process that talks to it after any step.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use berth_devices::pci::HostBdf;

use super::disk::{Disk, LiveDisk};
use super::host_control::HostControl;
use super::setting::{Act, Setting, Value};
use crate::units::VfPort;

/// Ends the process, as far as a test can: with a panic, after a number of steps once it is lit.
#[derive(Debug, Default)]
pub struct Fuse(Cell<Option<u32>>);

impl Fuse {
    /// From now on it burns down, after `steps`, or never.
    pub fn light(&self, steps: Option<u32>) {
        self.0.set(steps);
    }

    /// Counts a step.
    pub fn burn(&self) {
        match self.0.get() {
            Some(0) => panic!("{BURNT}"),
            Some(left) => self.0.set(Some(left - 1)),
            None => {}
        }
    }

    /// Whether the next step is the last.
    pub fn is_last(&self) -> bool {
        self.0.get() == Some(0)
    }
}

/// The journal's file on a disk that notes whether an intent is still to be written to it, and
/// that a fuse may end the process on, in the middle of a line too.
pub struct FakeDisk {
    disk: LiveDisk,
    fuse: Rc<Fuse>,
    unsynced: Rc<Cell<bool>>,
}

impl FakeDisk {
    /// The disk with `folder`, as `kernel` sees it.
    pub fn beside(kernel: &FakeKernel, folder: &Path) -> Self {
        let disk = LiveDisk::new(folder.to_owned());
        Self { disk, fuse: kernel.fuse.clone(), unsynced: kernel.unsynced.clone() }
    }
}

impl Disk for FakeDisk {
    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.fuse.is_last() {
            self.disk.append(&line[..line.len() / 2])?;
            self.fuse.burn();
        }
        self.disk.append(line)?;
        if line.contains("\"intent\"") {
            self.unsynced.set(true);
        }
        self.fuse.burn();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.unsynced.set(false);
        self.disk.sync()
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        self.fuse.burn();
        self.unsynced.set(false);
        self.disk.replace(text)
    }
}

/// What the panic says.
pub const BURNT: &str = "the fuse has burnt down";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    natural: &'static str,
    driver: Option<String>,
    only: Option<String>,
    physical: Option<HostBdf>,
}

/// All that berth may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    functions: BTreeMap<HostBdf, Function>,
    ports: Vec<VfPort>,
    autoprobe: bool,
    pages: u64,
}

/// A physical function with virtual ones, as many as were made, and a node with huge pages.
pub struct FakeKernel {
    state: RefCell<State>,
    log: RefCell<Vec<String>>,
    pub fuse: Rc<Fuse>,
    /// Whether the journal has an intent that is not on its disk.
    unsynced: Rc<Cell<bool>>,
    /// The port that each virtual function's driver found, which it reads once.
    found: RefCell<BTreeMap<HostBdf, VfPort>>,
    /// Huge pages that there is memory for: a pool that is to have more grows as far.
    pub most_pages: u64,
}

pub const PHYSICAL: &str = "0000:21:00.0";

pub fn physical() -> HostBdf {
    PHYSICAL.parse().expect("an address")
}

/// As the igb numbers them.
pub fn virtual_function(index: u32) -> HostBdf {
    format!("0000:21:10.{}", index * 2).parse().expect("an address")
}

fn failed(errno: libc::c_int) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl FakeKernel {
    /// One whose physical function its driver has.
    pub fn new() -> Self {
        let nic = Function { natural: "igb", driver: None, only: None, physical: None };
        let nic = Function { driver: Some("igb".to_owned()), ..nic };
        let state = State {
            functions: BTreeMap::from([(physical(), nic)]),
            ports: Vec::new(),
            autoprobe: true,
            pages: 0,
        };
        Self {
            state: RefCell::new(state),
            log: RefCell::default(),
            fuse: Rc::default(),
            unsynced: Rc::default(),
            found: RefCell::default(),
            most_pages: u64::MAX,
        }
    }

    /// Makes virtual functions, taken by their own driver.
    pub fn with_virtual_functions(self, count: u32) -> Self {
        let path = Setting::VfCount(physical()).path().expect("a file");
        self.write(&path, &count.to_string()).expect("there are none yet");
        self
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Virtual functions whose driver found another port than they have now.
    pub fn surprised(&self) -> Vec<HostBdf> {
        let (state, found) = (self.state.borrow(), self.found.borrow());
        let ports = (0..).zip(&state.ports).map(|(index, port)| (port, virtual_function(index)));
        let surprised = ports.filter(|(port, function)| {
            state.functions[function].driver.as_deref() == Some("igbvf")
                && found.get(function) != Some(*port)
        });
        surprised.map(|(_, function)| function).collect()
    }

    /// What somebody else than berth does.
    pub fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let before = self.state();
        self.store(path, text)?;
        let state = self.state.borrow();
        let has = |state: &State, function: &HostBdf| {
            let function = state.functions.get(function);
            function.is_some_and(|one| one.driver.as_deref() == Some("igbvf"))
        };
        for (port, function) in
            (0..).zip(&state.ports).map(|(index, port)| (port, virtual_function(index)))
        {
            let is_new = path.ends_with("sriov_numvfs") || !has(&before, &function);
            if is_new && has(&state, &function) {
                self.found.borrow_mut().insert(function, port.clone());
            }
        }
        Ok(())
    }

    fn store(&self, path: &str, text: &str) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let name = path.rsplit('/').next().unwrap_or_default();
        let in_path = path.split('/').find_map(|part| part.parse::<HostBdf>().ok());
        let function = in_path.or_else(|| text.parse().ok());
        match (name, function) {
            ("nr_hugepages", _) => {
                let pages: u64 = text.parse().map_err(|_| failed(libc::EINVAL))?;
                state.pages = pages.min(self.most_pages);
            }
            ("sriov_numvfs", Some(_)) => {
                let count: u32 = text.parse().map_err(|_| failed(libc::EINVAL))?;
                if count > 0 && !state.ports.is_empty() {
                    return Err(failed(libc::EBUSY));
                }
                if state.functions[&physical()].driver.as_deref() != Some("igb") {
                    return Err(failed(libc::ENOENT));
                }
                state.functions.retain(|_, function| function.physical.is_none());
                state.ports =
                    vec![VfPort { spoof_check: true, ..VfPort::default() }; count as usize];
                let driver = state.autoprobe.then(|| "igbvf".to_owned());
                for index in 0..count {
                    let physical = Some(physical());
                    let driver = driver.clone();
                    let one = Function { natural: "igbvf", driver, only: None, physical };
                    state.functions.insert(virtual_function(index), one);
                }
            }
            ("sriov_drivers_autoprobe", Some(_)) => state.autoprobe = text == "1",
            ("unbind", Some(function)) if function == physical() => {
                state.functions.retain(|_, function| function.physical.is_none());
                state.ports.clear();
                state.functions.get_mut(&function).expect("the card stays").driver = None;
            }
            (_, Some(function)) => {
                let autoprobe = state.autoprobe;
                let function = state.functions.get_mut(&function).ok_or(failed(libc::ENODEV))?;
                // pci_device_can_probe
                let can_probe = function.physical.is_none() || autoprobe || function.only.is_some();
                match name {
                    "driver_override" => {
                        function.only = (text != "\n").then(|| text.to_owned());
                    }
                    "unbind" => function.driver = function.driver.take().and(None),
                    "bind" => {
                        let driver = path.split('/').nth_back(1).unwrap_or_default();
                        let allowed = function.only.as_deref().unwrap_or(function.natural);
                        if function.driver.is_some() {
                            return Err(failed(libc::EBUSY));
                        }
                        if driver != allowed || !can_probe {
                            return Err(failed(libc::ENODEV));
                        }
                        function.driver = Some(driver.to_owned());
                    }
                    "drivers_probe" if !can_probe => {}
                    "drivers_probe" => {
                        let driver = function.only.as_deref().unwrap_or(function.natural);
                        function.driver.get_or_insert(driver.to_owned());
                    }
                    _ => return Err(failed(libc::ENOENT)),
                }
            }
            _ => return Err(failed(libc::ENOENT)),
        }
        Ok(())
    }
}

impl HostControl for FakeKernel {
    fn value(&self, setting: &Setting) -> io::Result<Option<Value>> {
        let state = self.state.borrow();
        let function = setting.function().and_then(|function| state.functions.get(&function));
        Ok(match setting {
            Setting::HugePages { .. } => Some(Value::Count(state.pages)),
            Setting::VfPort { index, .. } => {
                state.ports.get(*index as usize).cloned().map(Value::Port)
            }
            Setting::Driver(_) => function.map(|one| Value::name(one.driver.as_deref())),
            Setting::Override(_) => function.map(|one| Value::name(one.only.as_deref())),
            Setting::VfCount(_) => Some(Value::Count(state.ports.len() as u64)),
            Setting::VfAutoprobe(_) => Some(Value::Count(state.autoprobe.into())),
        })
    }

    fn perform(&self, act: &Act) -> io::Result<()> {
        assert!(!self.unsynced.get(), "{act}: the intent is not on the disk yet");
        self.fuse.burn();
        self.log.borrow_mut().push(act.to_string());
        let done = match act {
            Act::Write { path, text } => self.write(path, text),
            Act::SetPort { index, port, .. } => {
                let mut state = self.state.borrow_mut();
                let slot = state.ports.get_mut(*index as usize).ok_or(failed(libc::EINVAL))?;
                *slot = port.clone();
                Ok(())
            }
        };
        self.fuse.burn();
        done
    }
}
