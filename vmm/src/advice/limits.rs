//! Limits of the process: of its login, its unit, its container.

use super::Steps;
use crate::host::{Container, HostProfile};

/// Not enough memory may be locked; `need` is in bytes.
pub fn locked_memory(host: &HostProfile, need: u64) -> Steps {
    let kib = need.div_ceil(1024);
    match host.system.container {
        Some(Container::Pod) => vec![
            "add the capability IPC_LOCK to the container: \
             securityContext.capabilities.add: [\"IPC_LOCK\"]"
                .to_owned(),
            "or raise LimitMEMLOCK of the node's containerd or CRI-O (`systemctl edit`)".to_owned(),
        ],
        Some(Container::Engine) => vec![
            "start the container with `--ulimit memlock=-1`, or with `--cap-add IPC_LOCK`"
                .to_owned(),
        ],
        None => vec![
            format!("`ulimit -l {kib}`, from a shell that may"),
            format!("or `LimitMEMLOCK={need}` in berth's systemd unit"),
            format!("or `USER - memlock {kib}` in /etc/security/limits.conf"),
            "or give berth CAP_IPC_LOCK".to_owned(),
        ],
    }
}

/// Not enough files may be open.
pub fn open_files(host: &HostProfile, need: u64) -> Steps {
    vec![match host.system.container {
        Some(Container::Pod) => {
            format!("raise LimitNOFILE of the node's containerd or CRI-O to {need}")
        }
        Some(Container::Engine) => {
            format!("start the container with `--ulimit nofile={need}`")
        }
        None => format!("`ulimit -n {need}`, or `LimitNOFILE={need}` in berth's systemd unit"),
    }]
}
