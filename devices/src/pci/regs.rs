//! Registers of PCI configuration space that berth looks into.
//!
//! Names and offsets as in the PCI Local Bus Specification 3.0, chapter 6, the PCI Express Base
//! Specification, chapter 7, and Linux `include/uapi/linux/pci_regs.h`.

/// Bytes of configuration space of a conventional function.
pub const CONFIG_SIZE: usize = 256;
/// Bytes of configuration space of a PCI Express function.
pub const EXTENDED_CONFIG_SIZE: usize = 4096;

/// Command register.
pub const COMMAND: u16 = 0x04;
/// Command: answers in I/O space.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command: answers in memory space.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: sends requests of its own, MSI among them.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Status register.
pub const STATUS: u16 = 0x06;
/// Status: a capability list is there.
pub const STATUS_CAPABILITY_LIST: u16 = 1 << 4;
/// Header type; bit 7 says that the device has several functions.
pub const HEADER_TYPE: u16 = 0x0e;
/// Header type: several functions.
pub const HEADER_MULTI_FUNCTION: u8 = 1 << 7;
/// First of six base address registers.
pub const BAR0: u16 = 0x10;
/// Expansion ROM base address.
pub const ROM_ADDRESS: u16 = 0x30;
/// Expansion ROM: answers, while memory space is enabled too.
pub const ROM_ENABLE: u32 = 1 << 0;
/// Expansion ROM: its address.
pub const ROM_ADDRESS_MASK: u32 = 0xffff_f800;
/// Offset of the first capability.
pub const CAPABILITY_POINTER: u16 = 0x34;
/// Interrupt line, for software's own use.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 1..=4 for INTA..INTD, 0 for none.
pub const INTERRUPT_PIN: u16 = 0x3d;
/// End of the header; capabilities lie behind it.
pub const HEADER_END: u16 = 0x40;

/// BAR: I/O space.
pub const BAR_IO: u32 = 1 << 0;
/// BAR: 64 bits wide, takes the next register too.
pub const BAR_MEMORY_64: u32 = 2 << 1;
/// BAR: prefetchable.
pub const BAR_PREFETCHABLE: u32 = 1 << 3;

/// Capability: power management.
pub const CAP_POWER: u8 = 0x01;
/// Capability: message signalled interrupts.
pub const CAP_MSI: u8 = 0x05;
/// Capability: PCI Express.
pub const CAP_EXPRESS: u8 = 0x10;
/// Capability: MSI-X.
pub const CAP_MSIX: u8 = 0x11;
/// Capability: advanced features of conventional functions.
pub const CAP_ADVANCED_FEATURES: u8 = 0x13;

/// PCI Express device capabilities, in the capability.
pub const EXPRESS_DEVICE: u16 = 4;
/// Device capabilities: function-level reset.
pub const EXPRESS_FLR_CAPABLE: u32 = 1 << 28;
/// PCI Express device control, in the capability.
pub const EXPRESS_CONTROL: u16 = 8;
/// Device control: start a function-level reset.
pub const EXPRESS_FLR: u16 = 1 << 15;
/// Advanced features' capabilities, in the capability.
pub const ADVANCED_CAPABLE: u16 = 3;
/// Advanced features: function-level reset, and the transactions pending bit that it needs.
pub const ADVANCED_FLR_CAPABLE: u8 = 0b11;
/// Advanced features' control, in the capability.
pub const ADVANCED_CONTROL: u16 = 4;
/// Advanced features' control: start a function-level reset.
pub const ADVANCED_FLR: u8 = 1 << 0;

/// MSI message control, in the capability.
pub const MSI_CONTROL: u16 = 2;
/// MSI control: MSI enabled.
pub const MSI_ENABLE: u16 = 1 << 0;
/// MSI control: messages that the device is capable of, as a power of two.
pub const MSI_CAPABLE: u16 = 7 << 1;
/// MSI control: messages that software has enabled, as a power of two.
pub const MSI_ENABLED: u16 = 7 << 4;
/// MSI control: 64-bit message address.
pub const MSI_64_BIT: u16 = 1 << 7;
/// MSI control: mask and pending bits are there.
pub const MSI_MASKABLE: u16 = 1 << 8;
/// MSI message address, in the capability.
pub const MSI_ADDRESS: u16 = 4;

/// Power management control and status, in the capability.
pub const POWER_CONTROL: u16 = 4;
/// Power state field: 0 is D0.
pub const POWER_STATE: u16 = 3;
/// Power management: the registers keep their values from D3hot to D0.
pub const POWER_NO_SOFT_RESET: u16 = 1 << 3;

/// MSI-X message control, in the capability.
pub const MSIX_CONTROL: u16 = 2;
/// MSI-X control: table size less one.
pub const MSIX_SIZE: u16 = 0x7ff;
/// MSI-X control: all vectors masked.
pub const MSIX_FUNCTION_MASK: u16 = 1 << 14;
/// MSI-X control: MSI-X enabled.
pub const MSIX_ENABLE: u16 = 1 << 15;
/// MSI-X table offset and BAR, in the capability.
pub const MSIX_TABLE: u16 = 4;
/// MSI-X pending bit array offset and BAR, in the capability.
pub const MSIX_PBA: u16 = 8;

/// Start of extended configuration space.
pub const EXTENDED: u16 = 0x100;
/// Extended capability: alternative routing-ID interpretation.
pub const EXT_ARI: u16 = 0x0e;
/// Extended capability: address translation services.
pub const EXT_ATS: u16 = 0x0f;
/// Extended capability: single root I/O virtualisation.
pub const EXT_SRIOV: u16 = 0x10;
/// Extended capability: page request interface.
pub const EXT_PRI: u16 = 0x13;
/// Extended capability: resizable BAR.
pub const EXT_RESIZABLE_BAR: u16 = 0x15;
/// Extended capability: process address space ID.
pub const EXT_PASID: u16 = 0x1b;
/// Extended capability: resizable BARs of virtual functions.
pub const EXT_VF_RESIZABLE_BAR: u16 = 0x24;
