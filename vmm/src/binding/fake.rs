//! A kernel with a few functions, for tests: it obeys the rules of the driver core, and a fuse
//! may end the process that talks to it after any step.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use berth_devices::pci::Bdf;

use super::host_control::HostControl;
use super::setting::{Act, Setting, Value};
use crate::units::VfPort;

/// Ends the process, as far as a test can: with a panic, after a number of steps.
#[derive(Debug, Default)]
pub struct Fuse(Cell<Option<u32>>);

impl Fuse {
    /// One that burns down after `steps`.
    pub fn after(steps: u32) -> Rc<Self> {
        Rc::new(Self(Cell::new(Some(steps))))
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

/// What the panic says.
pub const BURNT: &str = "the fuse has burnt down";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    natural: &'static str,
    driver: Option<String>,
    only: Option<String>,
    physical: Option<Bdf>,
}

/// All that berth may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    functions: BTreeMap<Bdf, Function>,
    ports: Vec<VfPort>,
    autoprobe: bool,
    pages: u64,
}

/// A physical function with virtual ones, as many as were made, and a node with huge pages.
pub struct FakeKernel {
    state: RefCell<State>,
    log: RefCell<Vec<String>>,
    pub fuse: Option<Rc<Fuse>>,
}

pub const PHYSICAL: &str = "0000:21:00.0";

pub fn physical() -> Bdf {
    PHYSICAL.parse().expect("an address")
}

/// As the igb numbers them.
pub fn virtual_function(index: u32) -> Bdf {
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
        Self { state: RefCell::new(state), log: RefCell::default(), fuse: None }
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

    /// What somebody else than berth does.
    pub fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let name = path.rsplit('/').next().unwrap_or_default();
        let in_path = path.split('/').find_map(|part| part.parse::<Bdf>().ok());
        let function = in_path.or_else(|| text.parse().ok());
        match (name, function) {
            ("nr_hugepages", _) => state.pages = text.parse().map_err(|_| failed(libc::EINVAL))?,
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
        if let Some(fuse) = &self.fuse {
            fuse.burn();
        }
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
        if let Some(fuse) = &self.fuse {
            fuse.burn();
        }
        done
    }
}
