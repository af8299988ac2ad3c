//! The DSDT: devices that a guest cannot find by itself, in AML.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal,
    IO, If, Interrupt, Local, Memory32Fixed, Method, Name, NotEqual, Or, Package, PackageBuilder,
    Path, ResourceTemplate, Return, Scope, Store, Uuid, ZERO,
};
use acpi_tables::{Aml, AmlSink};

use super::super::layout;
use super::description::{AcpiConfig, PciRoot};

/// What `_OSC` gives to the guest: native hot-plug and the PCI Express capability (PCI firmware
/// specification 3.3, table 4-6, bits 0 and 4). Without the latter kernels use none of the others.
///
/// No event of power management and no error comes from a port, so PME and AER have nothing behind
/// them, as SHPC, LTR and DPC have not. PME would cost: a driver arms Wake-on-LAN where its port
/// takes PME, and then puts the device to sleep when the guest powers off, which takes Linux's igb
/// half a second.
const OSC_GRANTED: u32 = 1 << 0 | 1 << 4;

/// `_OSC` interface of PCI Express host bridges (PCI firmware specification 3.3, section 4.5.1).
const OSC_PCI_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";

/// AML of everything below `\_SB`, and of `\_S5`.
pub(super) fn definition_block(config: &AcpiConfig<'_>) -> Vec<u8> {
    let mut aml = Vec::new();
    let mut devices: Vec<Box<dyn Aml>> =
        vec![Box::new(Motherboard), Box::new(Serial), Box::new(PanicNotifier)];
    for (index, root) in config.roots.iter().enumerate() {
        devices.push(Box::new(HostBridge { index, root }));
    }
    for uid in 0..config.apic_ids.len() {
        let proximity_domain = config.numa.map(|numa| numa.vcpus[uid]);
        devices.push(Box::new(Processor { uid, proximity_domain }));
    }
    let children = devices.iter().map(Box::as_ref).collect();
    Scope::new("_SB_".into(), children).to_aml_bytes(&mut aml);

    // The second element is for PM1b, which does not exist (ACPI 6.5, section 7.4.2).
    let s5: [&dyn Aml; 4] = [&layout::S5_SLEEP_TYPE, &ZERO, &ZERO, &ZERO];
    Name::new("_S5_".into(), &Package::new(s5.to_vec())).to_aml_bytes(&mut aml);
    aml
}

/// Addresses that belong to the machine itself, so that guests place nothing there. Linux uses
/// ECAM only if it is claimed here (`is_acpi_reserved`, `arch/x86/pci/mmconfig-shared.c`).
struct Motherboard;

impl Aml for Motherboard {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ecam_size = layout::ECAM.end - layout::ECAM.start;
        let ecam = Memory32Fixed::new(true, low(layout::ECAM.start), low(ecam_size));
        let pm_event = IO::new(layout::PM1A_EVENT, layout::PM1A_EVENT, 1, 4);
        let pm_control = IO::new(layout::PM1A_CONTROL, layout::PM1A_CONTROL, 1, 2);
        Device::new(
            "MBRD".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&ecam, &pm_event, &pm_control]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// COM1, a 16550A.
struct Serial;

impl Aml for Serial {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ports = IO::new(layout::COM1, layout::COM1, 1, 8);
        let interrupt = Interrupt::new(true, true, false, false, layout::COM1_GSI);
        Device::new(
            "COM1".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &interrupt])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The port through which a guest's kernel reports its panic; Linux's `pvpanic-mmio` binds to the
/// ID, which is QEMU's.
struct PanicNotifier;

impl Aml for PanicNotifier {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let port = IO::new(layout::PANIC_PORT, layout::PANIC_PORT, 1, 1);
        Device::new(
            "PEVT".into(),
            vec![
                &Name::new("_HID".into(), &"QEMU0001"),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&port])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// A vCPU; `_UID` ties it to its entry in the MADT (ACPI 6.5, section 8.4).
struct Processor {
    uid: usize,
    proximity_domain: Option<u32>,
}

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = Name::new("_HID".into(), &"ACPI0007");
        let uid = Name::new("_UID".into(), &self.uid);
        let mut children: Vec<&dyn Aml> = vec![&hid, &uid];
        let domain = self.proximity_domain.map(|d| Name::new("_PXM".into(), &d));
        children.extend(domain.iter().map(|name| name as &dyn Aml));
        let name = format!("C{:03X}", self.uid);
        Device::new(Path::new(&name), children).to_aml_bytes(sink);
    }
}

/// A PCI Express host bridge.
struct HostBridge<'a> {
    index: usize,
    root: &'a PciRoot,
}

impl Aml for HostBridge<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let root = self.root;
        let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
        let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
        let uid = Name::new("_UID".into(), &self.index);
        let segment = Name::new("_SEG".into(), &ZERO);
        let bus = Name::new("_BBN".into(), root.buses.start());
        // DMA is coherent on x86-64 anyway; said so since ACPI 6.2 lets guests doubt it.
        let coherent = Name::new("_CCA".into(), &acpi_tables::aml::ONE);

        let resources = resources(root);
        let template = ResourceTemplate::new(resources.iter().map(Box::as_ref).collect());
        let crs = Name::new("_CRS".into(), &template);
        let prt = Name::new("_PRT".into(), &interrupt_routing());
        let domain = root.proximity_domain.map(|d| Name::new("_PXM".into(), &d));

        let mut children: Vec<&dyn Aml> = vec![&hid, &cid, &uid, &segment, &bus, &coherent];
        children.extend(domain.iter().map(|name| name as &dyn Aml));
        children.extend([&crs as &dyn Aml, &prt, &OperatingSystemCapabilities]);

        // The first root has the name that every PC's has.
        let name = match self.index {
            0 => "PCI0".to_owned(),
            index => format!("PC{index:02X}"),
        };
        Device::new(Path::new(&name), children).to_aml_bytes(sink);
    }
}

/// An address, or a number of bytes, of something below 4 GiB.
fn low(value: u64) -> u32 {
    u32::try_from(value).expect("ECAM and the window for 32-bit BARs lie below 4 GiB")
}

/// What a root decodes, for its `_CRS`.
fn resources(root: &PciRoot) -> Vec<Box<dyn Aml>> {
    let (first_bus, last_bus) = (u16::from(*root.buses.start()), u16::from(*root.buses.end()));
    let mut resources: Vec<Box<dyn Aml>> =
        vec![Box::new(AddressSpace::new_bus_number(first_bus, last_bus))];
    if let Some(io) = root.io.as_ref().filter(|io| !io.is_empty()) {
        let port = |port| u16::try_from(port).expect("there are 65,536 ports");
        let (min, max) = (port(io.start), port(io.end - 1));
        resources.push(Box::new(AddressSpace::<u16>::new_io(min, max, None)));
    }
    // Not marked prefetchable: Linux puts prefetchable BARs into such windows too, but others
    // into no prefetchable window, and some 64-bit BARs are not prefetchable.
    let cacheable = AddressSpaceCacheable::NotCacheable;
    if let Some(window) = root.window32.as_ref().filter(|window| !window.is_empty()) {
        let (min, max) = (low(window.start), low(window.end - 1));
        resources.push(Box::new(AddressSpace::new_memory(cacheable, true, min, max, None)));
    }
    if let Some(window) = root.window64.as_ref().filter(|window| !window.is_empty()) {
        let (min, max) = (window.start, window.end - 1);
        resources.push(Box::new(AddressSpace::new_memory(cacheable, true, min, max, None)));
    }
    resources
}

/// `_PRT`: the GSI of every pin of every slot (ACPI 6.5, section 6.2.13).
fn interrupt_routing() -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for slot in 0..32u8 {
        for pin in 0..4u8 {
            // All functions of the slot.
            let address = u32::from(slot) << 16 | 0xffff;
            let gsi = layout::intx_gsi(slot, pin);
            table.add_element(&Package::new(vec![&address, &pin, &ZERO, &gsi]));
        }
    }
    table
}

/// `_OSC` of a host bridge: hands to the guest what is asked for and in [`OSC_GRANTED`].
///
/// Arguments: UUID, revision, number of dwords, buffer of status, support and control dword.
struct OperatingSystemCapabilities;

impl Aml for OperatingSystemCapabilities {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const UNRECOGNIZED_UUID: u32 = 1 << 2;
        const UNRECOGNIZED_REVISION: u32 = 1 << 3;
        const CAPABILITIES_MASKED: u32 = 1 << 4;

        let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
        let granted = Local(0);
        let status_bit = |bit: &'static u32| Or::new(&status, &status, bit);
        let bad_revision = status_bit(&UNRECOGNIZED_REVISION);
        let masked = status_bit(&CAPABILITIES_MASKED);
        let bad_uuid = status_bit(&UNRECOGNIZED_UUID);

        Method::new(
            "_OSC".into(),
            4,
            // Two callers at once would create the same named fields.
            true,
            vec![
                &CreateDWordField::new(&status, &Arg(3), &ZERO),
                &If::new(
                    &Equal::new(&Arg(0), &Uuid::new(OSC_PCI_UUID)),
                    vec![
                        &CreateDWordField::new(&control, &Arg(3), &8u8),
                        &And::new(&granted, &control, &OSC_GRANTED),
                        &If::new(
                            &NotEqual::new(&Arg(1), &acpi_tables::aml::ONE),
                            vec![&bad_revision],
                        ),
                        &If::new(&NotEqual::new(&granted, &control), vec![&masked]),
                        &Store::new(&control, &granted),
                    ],
                ),
                &Else::new(vec![&bad_uuid]),
                &Return::new(&Arg(3)),
            ],
        )
        .to_aml_bytes(sink);
    }
}
