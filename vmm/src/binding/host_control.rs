//! The door to the kernel: settings read and changed, nothing decided.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use berth_devices::pci::HostBdf;

use super::setting::{Act, Setting, Value};
use crate::netlink::vf_ports;
use crate::units::VfPort;

/// The door to the kernel.
pub trait HostControl {
    /// What `setting` is now; `None` when what it is about does not exist.
    fn value(&self, setting: &Setting) -> io::Result<Option<Value>>;

    /// Makes one call.
    fn perform(&self, act: &Act) -> io::Result<()>;
}

/// The kernel's sysfs, or a tree that looks like it.
pub struct LiveHost {
    root: PathBuf,
}

impl LiveHost {
    /// The one whose `/` is `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The network interface of a physical function.
    fn interface(&self, physical: HostBdf) -> io::Result<String> {
        let folder = self.path(&format!("/sys/bus/pci/devices/{physical}/net"));
        let name = fs::read_dir(folder)?.flatten().next().map(|entry| entry.file_name());
        let name = name.and_then(|name| name.into_string().ok());
        name.ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, "it has no network interface")
        })
    }

    fn port(&self, physical: HostBdf, index: u32) -> io::Result<Option<VfPort>> {
        let link = self.path(&format!("/sys/bus/pci/devices/{physical}/virtfn{index}"));
        if fs::symlink_metadata(link).is_err() {
            return Ok(None);
        }
        Ok(vf_ports::ports(&self.interface(physical)?)?.into_iter().nth(index as usize))
    }
}

impl HostControl for LiveHost {
    fn value(&self, setting: &Setting) -> io::Result<Option<Value>> {
        let Some(path) = setting.path() else {
            let Setting::VfPort { physical, index } = setting else { return Ok(None) };
            return Ok(self.port(*physical, *index)?.map(Value::Port));
        };
        let path = self.path(&path);
        let value = match setting {
            Setting::Driver(_) => {
                if !path.parent().is_some_and(|folder| folder.exists()) {
                    return Ok(None);
                }
                return match fs::read_link(&path) {
                    Ok(target) => {
                        let name = target.file_name().and_then(|name| name.to_str());
                        Ok(Some(Value::name(name)))
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        Ok(Some(Value::Nothing))
                    }
                    Err(error) => Err(error),
                };
            }
            _ => match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let value = value.trim();
        Ok(Some(match setting {
            // What the kernel prints for no override.
            Setting::Override(_) if value == "(null)" || value.is_empty() => Value::Nothing,
            Setting::Override(_) => Value::Name(value.to_owned()),
            _ => Value::Count(value.parse().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("`{value}` is not a number"))
            })?),
        }))
    }

    fn perform(&self, act: &Act) -> io::Result<()> {
        match act {
            // The whole text in one write: each write to sysfs is a command of its own.
            Act::Write { path, text } => {
                OpenOptions::new().write(true).open(self.path(path))?.write_all(text.as_bytes())
            }
            Act::SetPort { physical, index, before, port } => {
                vf_ports::set_port(&self.interface(*physical)?, *index, before, port)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn settings_are_the_files_of_sysfs() {
        let folder = tempfile::tempdir().expect("a folder");
        let nic = "0000:21:00.0";
        let sysfs = folder.path().join("sys/bus/pci/devices").join(nic);
        fs::create_dir_all(&sysfs).expect("a folder");
        for (name, text) in [("driver_override", "(null)\n"), ("sriov_numvfs", "2\n")] {
            fs::write(sysfs.join(name), text).expect("a file");
        }
        let kernel = LiveHost::new(folder.path());
        let nic: HostBdf = nic.parse().expect("an address");
        let value = |setting| kernel.value(&setting).expect("readable");
        assert_eq!(value(Setting::Override(nic)), Some(Value::Nothing));
        assert_eq!(value(Setting::VfCount(nic)), Some(Value::Count(2)));
        assert_eq!(value(Setting::Driver(nic)), Some(Value::Nothing));
        symlink("../../../bus/pci/drivers/igb", sysfs.join("driver")).expect("a link");
        assert_eq!(value(Setting::Driver(nic)), Some(Value::Name("igb".to_owned())));
        assert_eq!(value(Setting::VfAutoprobe(nic)), None);
        assert_eq!(value(Setting::VfPort { physical: nic, index: 0 }), None);
        let gone: HostBdf = "0000:22:00.0".parse().expect("an address");
        assert_eq!(value(Setting::Driver(gone)), None);
    }

    #[test]
    fn a_file_that_is_not_there_is_not_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let act = Act::Write { path: "/sys/x".to_owned(), text: "1".to_owned() };
        let error = LiveHost::new(folder.path()).perform(&act).expect_err("no such file");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
