# AppArmor profile of berth, for /etc/apparmor.d/berth: `apparmor_parser -r /etc/apparmor.d/berth`.
#
# It binds berth from its first instruction to its last: what its own sandbox does when the guest
# starts comes on top of it. Kernels, initial RAM disks and configs are read from the folders below;
# others are added in /etc/apparmor.d/local/berth.

@{BERTH} = /usr/{local/,}{s,}bin/berth
@{HOME} = /home/* /root
@{STATE} = /var/lib/berth

profile berth @{BERTH} flags=(attach_disconnected,mediate_deleted) {
  # To leave root and the host's namespaces, and to give hugepages, locked memory and CPUs to a guest.
  capability sys_admin,
  capability setuid,
  capability setgid,
  capability setpcap,
  capability sys_chroot,
  capability ipc_lock,
  capability sys_resource,
  capability sys_nice,
  # To see who has a device open, and to set the ports of virtual functions.
  capability dac_read_search,
  capability dac_override,
  capability sys_ptrace,
  capability net_admin,
  # To end a machine that has lost its parent.
  capability kill,
  # To see the expansion ROM and all of configuration space.
  capability sys_rawio,

  network netlink raw,
  network netlink dgram,
  network inet dgram,

  @{BERTH} mr,
  /lib{,32,64}/** mr,
  /usr/lib{,32,64}/** mr,
  /etc/ld.so.cache r,

  # What the host is.
  / r,
  /proc/ r,
  /proc/** r,
  /sys/ r,
  /sys/** r,
  /dev/ r,
  /dev/** r,
  /boot/ r,
  /boot/** r,
  /etc/** r,
  /run/** r,
  /lib/modules/** r,
  /usr/share/** r,
  deny /etc/shadow* r,
  deny /etc/gshadow* r,
  deny /etc/ssh/** r,
  deny /root/.ssh/** r,

  # What a machine is made from.
  /etc/berth/** r,
  /srv/** r,
  /var/lib/ r,
  /var/lib/{berth,libvirt,machines}/** r,
  owner /tmp/** r,

  # Devices change hands.
  /sys/bus/pci/** w,
  /sys/devices/pci** w,
  /sys/devices/system/node/node*/hugepages/** w,
  /sys/kernel/mm/hugepages/** w,
  /proc/irq/*/smp_affinity_list w,
  /{usr/,}{s,}bin/modprobe Ux,
  /{usr/,}{s,}bin/kmod Ux,

  # The machine.
  /dev/kvm rw,
  /dev/vfio/* rw,
  /dev/vfio/devices/* rw,
  /dev/iommu rw,
  /dev/null rw,
  /dev/tty rw,
  /dev/pts/* rw,
  /dev/ttyS* rw,
  /dev/console rw,
  /memfd:* rw,
  owner /proc/*/{setgroups,uid_map,gid_map} w,
  owner /proc/*/task/*/comm rw,
  /var/log/berth/** rw,

  # Its state.
  @{STATE}/ rw,
  @{STATE}/** rwk,
  owner @{HOME}/.local/state/berth/ rw,
  owner @{HOME}/.local/state/berth/** rwk,

  # The sandbox.
  mount,
  umount,
  pivot_root,
  ptrace (read, readby) peer=berth,
  ptrace (read),
  signal (send, receive) peer=berth,

  include if exists <local/berth>
}
