//! Cards whose switch is the host's to program (switchdev mode): each virtual function's port is an
//! interface of the host, its representor, and what is set of ports through the card's own
//! interface is refused there, but for the MAC (kernel,
//! Documentation/networking/representors.rst; `mlx5_eswitch_set_vport_vlan` in
//! drivers/net/ethernet/mellanox/mlx5/core/eswitch.c).

use super::root::Root;

const CLASS: &str = "/sys/class/net";

/// Whether the interface in `folder` is a representor of a virtual function: `phys_port_name` is
/// `pf0vf3`, with the controller's number before it on some cards, `c1pf0vf3`
/// (`devlink_port_phys_port_name_get` in net/devlink/port.c).
pub(super) fn is_port(root: &Root, folder: &str) -> bool {
    let name = root.glance(format!("{folder}/phys_port_name"));
    name.is_some_and(|name| names_virtual_function(name.trim()))
}

fn names_virtual_function(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((function, port)) = name.rsplit_once("vf") else { return false };
    function.rsplit_once("pf").is_some_and(|(_, physical)| number(physical)) && number(port)
}

/// Whether a representor is in the same switch as `interface`.
pub(super) fn has_ports(root: &Root, interface: &str) -> bool {
    let switch = |name: &str| {
        let id = root.glance(format!("{CLASS}/{name}/phys_switch_id"))?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    };
    let Some(own) = switch(interface) else { return false };
    let mut others = root.names(CLASS).unwrap_or_default().into_iter();
    others.any(|other| {
        is_port(root, &format!("{CLASS}/{other}")) && switch(&other).as_ref() == Some(&own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    #[test]
    fn ports_are_known_by_their_names() {
        for name in ["pf0vf0", "pf1vf127", "c1pf0vf3"] {
            assert!(names_virtual_function(name), "{name}");
        }
        // An uplink, a subfunction, a physical function's own port, nothing.
        for name in ["p0", "pf0sf1", "pf0", "vf3", "pfvf", "pf0vf", ""] {
            assert!(!names_virtual_function(name), "{name}");
        }
    }

    #[test]
    fn a_card_in_switchdev_mode_has_ports_on_its_own_switch() {
        let mut host = Fixture::default();
        for (name, switch, port) in
            [("uplink", "aa01", "p0"), ("rep0", "aa01", "pf0vf0"), ("other", "bb02", "p0")]
        {
            host.file(&format!("{CLASS}/{name}/phys_switch_id"), switch);
            host.file(&format!("{CLASS}/{name}/phys_port_name"), port);
        }
        // Legacy mode: the file cannot be read, or is empty.
        host.file(&format!("{CLASS}/plain/phys_switch_id"), "");
        let root = host.root();
        assert!(has_ports(&root, "uplink"));
        assert!(!has_ports(&root, "other"));
        assert!(!has_ports(&root, "plain"));
        assert!(!has_ports(&root, "absent"));
    }
}
