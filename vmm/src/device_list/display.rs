//! The list of devices as a table for people.

use std::fmt::{self, Formatter};

use anstyle::{AnsiColor, Style};

use super::{Device, DeviceList, State};

const HEADINGS: [&str; 8] = ["ADDRESS", "NODE", "GROUP", "DRIVER", "VFS", "LINK", "RESET", "STATE"];

impl fmt::Display for DeviceList {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(architecture) = &self.foreign {
            writeln!(
                f,
                "this is a host of another kind ({architecture}), and berth runs on x86-64 hosts only\n"
            )?;
        }
        if self.devices.is_empty() {
            writeln!(f, "no PCI functions but the host's own bridges")?;
        } else {
            self.fmt_table(f)?;
        }
        if !self.lacks.is_empty() {
            writeln!(f, "\nnot in the snapshot: {}", self.lacks.join(", "))?;
        }
        Ok(())
    }
}

impl DeviceList {
    fn fmt_table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 8]> = self.devices.iter().map(row).collect();
        let mut widths = HEADINGS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let heading = Style::new().bold();
        write!(f, "{heading}")?;
        for (heading, width) in HEADINGS.iter().zip(widths) {
            write!(f, "{heading:width$}  ")?;
        }
        writeln!(f, "DEVICE{heading:#}")?;
        let dim = Style::new().dimmed();
        for (device, row) in self.devices.iter().zip(&rows) {
            let [cells @ .., state] = row;
            for (cell, width) in cells.iter().zip(widths) {
                write!(f, "{cell:width$}  ")?;
            }
            let style = style(device.state);
            let width = widths[HEADINGS.len() - 1];
            writeln!(f, "{style}{state:width$}{style:#}  {}", name(device))?;
            for obstacle in &device.obstacles {
                if device.state != State::NoIommu {
                    writeln!(f, "{dim}{:1$}  {obstacle}{dim:#}", "", widths[0])?;
                }
            }
        }
        Ok(())
    }
}

fn row(device: &Device) -> [String; 8] {
    let or_dash = |text: Option<String>| text.filter(|t| !t.is_empty()).unwrap_or("-".to_owned());
    let number = |number: Option<u32>| or_dash(number.map(|number| number.to_string()));
    let link = device.link.as_ref().map(|link| {
        let now = format!("{} x{}", link.speed.trim_end_matches(" GT/s"), link.width);
        if !link.is_full() {
            format!("{now} of {} x{}", link.max_speed.trim_end_matches(" GT/s"), link.max_width)
        } else {
            now
        }
    });
    let resets: Vec<&str> = device.reset_methods.iter().map(|method| method.name()).collect();
    [
        device.address.to_string(),
        number(device.numa_node),
        number(device.iommu_group),
        or_dash(device.driver.clone()),
        or_dash(match (device.sriov, device.physical_function) {
            (Some(sriov), _) => Some(format!("{} of {}", sriov.now, sriov.max)),
            (None, Some(physical)) => Some(format!(
                "of {:02x}:{:02x}.{}",
                physical.bus(),
                physical.device(),
                physical.function()
            )),
            (None, None) => None,
        }),
        or_dash(link),
        or_dash(Some(resets.join(","))),
        word(device.state).to_owned(),
    ]
}

/// Vendor and device, or what is known instead.
fn name(device: &Device) -> String {
    let numbers = || format!("[{}:{}]", device.vendor, device.device);
    match (&device.vendor_name, &device.device_name, &device.class_name) {
        (Some(vendor), Some(name), _) => format!("{vendor} {name}"),
        (Some(vendor), None, class) => {
            let class = class.as_deref().unwrap_or("device");
            format!("{vendor} {class} {}", numbers())
        }
        (None, _, Some(class)) => format!("{class} {}", numbers()),
        (None, _, None) => format!("class {} {}", device.class, numbers()),
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Free => "free",
        State::InUse => "in use",
        State::GroupInUse => "group in use",
        State::HasVfs => "has VFs",
        State::Unknown => "unknown",
        State::NoIommu => "no IOMMU",
    }
}

fn style(state: State) -> Style {
    let color = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
    match state {
        State::Ready => color(AnsiColor::Green),
        State::Free => Style::new(),
        State::InUse | State::GroupInUse | State::HasVfs | State::Unknown => {
            color(AnsiColor::Yellow)
        }
        State::NoIommu => color(AnsiColor::Red),
    }
}
