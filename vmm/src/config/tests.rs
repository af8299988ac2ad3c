//! Each mistake is answered with its place, its field and what was expected.

use std::fs;

use super::*;

const GOOD: &str = r#"{
  "name": "router",
  "kernel": "vmlinuz",
  "vcpus": 2,
  "memory": { "size_mib": 2048 },
  "devices": [
    { "address": "0000:21:00.0" }
  ]
}"#;

fn message(text: &str) -> String {
    match Config::parse(Path::new("vm.json"), text.as_bytes()) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    }
}

/// The message for `GOOD` with `from` replaced.
fn refused(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    message(&GOOD.replace(from, to))
}

/// `GOOD` with further fields.
fn with(fields: &str) -> String {
    GOOD.replace("\"vcpus\"", &format!("{fields}, \"vcpus\""))
}

fn console(file: &str) -> ConsoleConfig {
    ConsoleConfig::File(ConsoleFile { file: file.into(), limit_mib: ConsoleLimit::default() })
}

fn parse(text: &str) -> Config {
    Config::parse(Path::new("vm.json"), text.as_bytes()).expect("a good config")
}

#[test]
fn absent_fields_have_defaults() {
    let config = parse(GOOD);
    assert_eq!(config.name.as_str(), "router");
    assert_eq!(config.memory.page_size, PageSize::Size1G);
    assert_eq!(config.memory.size_mib.bytes(), 2 << 30);
    assert_eq!(config.console, ConsoleConfig::Stdio);
    assert_eq!(config.placement, PlacementConfig::default());
    assert_eq!(config.shutdown_timeout_s.duration().as_secs(), 30);
    assert_eq!(config.unplug_timeout_s.duration().as_secs(), 30);
    let device = &config.devices[0];
    assert_eq!((device.on_error, device.on_removal), (OnError::Stop, OnRemoval::Stop));
    assert_eq!(config.cmdline.as_str(), "");
    assert_eq!(config.initrd, None);
}

#[test]
fn every_field_reads_what_it_writes() {
    let config = parse(&with(
        r#""initrd": "i", "cmdline": "quiet", "console": {"file": "log"},
           "placement": {"node": 1, "cpus": [4, 5], "smt": "idle", "several_nodes": "refuse",
                         "interrupt_cpus": [0]},
           "shutdown_timeout_s": 0, "unplug_timeout_s": 60"#,
    ));
    let expected = PlacementConfig {
        node: Some(1),
        several_nodes: SeveralNodes::Refuse,
        cpus: CpuChoice::Named(vec![4, 5]),
        smt: Smt::Idle,
        interrupt_cpus: InterruptCpus::Named(vec![0]),
    };
    assert_eq!(config.placement, expected);
    assert_eq!(config.console, console("log"));
    let text = serde_json::to_string(&config).expect("a config is plain data");
    assert_eq!(parse(&text), config);
    let auto = parse(&with(
        r#""placement": {"node": "auto", "cpus": "auto", "smt": "auto",
                         "several_nodes": "majority", "interrupt_cpus": "auto"}"#,
    ));
    assert_eq!(auto.placement, PlacementConfig::default());
    let words = parse(&with(
        r#""initrd": "i", "placement": {"node": 1, "cpus": "isolated", "smt": "siblings", "several_nodes": "split",
                         "interrupt_cpus": "off"}"#,
    ));
    assert_eq!(words.placement.cpus, CpuChoice::Isolated);
    assert_eq!(words.placement.interrupt_cpus, InterruptCpus::Off);
    let text = serde_json::to_string(&words).expect("a config is plain data");
    assert_eq!(parse(&text), words);
}

#[test]
fn policies_are_words() {
    let device = |fields: &str| GOOD.replace("\"0000:21:00.0\"", fields);
    let config =
        parse(&device(r#""0000:21:00.0", "on_error": "reset", "on_removal": "unplug""#)).devices;
    assert_eq!((config[0].on_error, config[0].on_removal), (OnError::Reset, OnRemoval::Unplug));
    assert_eq!(config[0].reset, DeviceReset::Best);
    let config = parse(&device(r#""0000:21:00.0", "reset": "required""#)).devices;
    assert_eq!(config[0].reset, DeviceReset::Required);
    assert_eq!(
        message(&device(r#""0000:21:00.0", "reset": "none""#)),
        "vm.json:7:48: devices[0].reset: unknown variant `none`, expected `best` or `required`"
    );
    assert_eq!(
        message(&device(r#""0000:21:00.0", "on_error": "ignore""#)),
        "vm.json:7:53: devices[0].on_error: unknown variant `ignore`, expected one of `stop`, \
         `reset`, `log`"
    );
    assert_eq!(
        message(&device(r#""0000:21:00.0", "on_removal": "reset""#)),
        "vm.json:7:54: devices[0].on_removal: unknown variant `reset`, expected `stop` or `unplug`"
    );
}

/// What is derived takes a list for an object, member by member, and speaks of Rust's types.
#[test]
fn a_list_is_no_object() {
    let object = "expected an object: { \"field\": value, ... }";
    assert_eq!(
        message(r#"["vm", "vmlinuz", null, ""]"#),
        format!("vm.json:1:0: invalid type: sequence, {object}")
    );
    for (text, field) in [
        (GOOD.replace(r#"{ "size_mib": 2048 }"#, r#"[2048, "1G"]"#), "memory"),
        (GOOD.replace(r#"{ "address": "0000:21:00.0" }"#, r#"["0000:21:00.0"]"#), "devices[0]"),
        (with(r#""placement": ["auto"]"#), "placement"),
    ] {
        let message = message(&text);
        assert!(
            message.contains(&format!("{field}: invalid type: sequence, {object}")),
            "{message}"
        );
    }
}

#[test]
fn relative_paths_start_at_the_files_folder() {
    let mut config = parse(&with(r#""initrd": "/boot/initrd", "console": {"file": "log"}"#));
    config.resolve(Path::new("/vm"));
    assert_eq!(config.kernel, Path::new("/vm/vmlinuz"));
    assert_eq!(config.initrd.as_deref(), Some(Path::new("/boot/initrd")));
    assert_eq!(config.console, console("/vm/log"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/vm.json")).expect_err("there is no such file");
    assert_eq!(error.to_string(), "cannot read the config file /nonexistent/vm.json");
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    assert_eq!(message("{ \"name\": \"router\","), "vm.json:1:19: EOF while parsing a value");
    assert_eq!(message(""), "vm.json:1:0: EOF while parsing a value");
    assert_eq!(message(&format!("{GOOD}\n}}")), "vm.json:10:1: trailing characters");
}

#[test]
fn unknown_and_missing_fields_are_refused_with_the_known_ones() {
    assert_eq!(
        refused("\"vcpus\": 2", "\"cpus\": 2"),
        "vm.json:4:8: cpus: unknown field `cpus`, expected one of `name`, `kernel`, `initrd`, \
         `cmdline`, `vcpus`, `memory`, `devices`, `iommu_backend`, `peer_to_peer`, `console`, \
         `placement`, `cpu`, `sandbox`, `shutdown_timeout_s`, `unplug_timeout_s`"
    );
    assert_eq!(
        refused("\"size_mib\": 2048", "\"size\": 2048"),
        "vm.json:5:20: memory.size: unknown field `size`, expected one of `size_mib`, `page_size`, `fill`"
    );
    assert_eq!(refused("\"kernel\": \"vmlinuz\",", ""), "vm.json:9:1: missing field `kernel`");
}

#[test]
fn impossible_values_are_refused() {
    for (from, to, message) in [
        (
            "\"vcpus\": 2",
            "\"vcpus\": 0",
            "vm.json:4:12: vcpus: invalid value: integer `0`, expected a number of vCPUs from 1 to 255",
        ),
        (
            "\"vcpus\": 2",
            "\"vcpus\": -1",
            "vm.json:4:13: vcpus: invalid value: integer `-1`, expected a number of vCPUs from 1 to 255",
        ),
        (
            "\"vcpus\": 2",
            "\"vcpus\": \"2\"",
            "vm.json:4:14: vcpus: invalid type: string \"2\", expected a number of vCPUs from 1 to 255",
        ),
        (
            "\"vcpus\": 2",
            "\"vcpus\": 1.5",
            "vm.json:4:14: vcpus: invalid type: floating point `1.5`, expected a number of vCPUs from 1 to 255",
        ),
        (
            "2048",
            "32",
            "vm.json:5:28: memory.size_mib: invalid value: integer `32`, expected a size in MiB from 64 to 16777216",
        ),
        (
            "2048",
            "1536",
            "vm.json:5:32: memory: size_mib 1536 is not a multiple of the page size 1G (1024 MiB); \
             expected 1024 or 2048, or a smaller page_size",
        ),
        (
            "2048",
            "2048, \"page_size\": \"3G\"",
            "vm.json:5:49: memory.page_size: `3G` is not a page size; expected 1G, 2M or 4K",
        ),
        (
            "2048",
            "2048, \"page_size\": 1",
            "vm.json:5:46: memory.page_size: invalid type: integer `1`, expected a page size: \"1G\", \"2M\" or \"4K\"",
        ),
        (
            "0000:21:00.0",
            "21:20.0",
            "vm.json:7:26: devices[0].address: `21:20.0` is not a PCI address; expected \
             [DOMAIN:]BUS:DEVICE.FUNCTION in hexadecimal, such as 0000:41:00.0",
        ),
        (
            "\"0000:21:00.0\" }",
            "\"0000:21:00.0\" },\n{ \"address\": \"21:00.0\" }",
            "vm.json:9:3: devices[1]: 0000:21:00.0 is in the list already; name it once",
        ),
        ("\"vmlinuz\"", "\"\"", "vm.json:3:14: kernel: expected the path of a file"),
        (
            "\"vmlinuz\"",
            "null",
            "vm.json:3:16: kernel: invalid type: null, expected the path of a file",
        ),
    ] {
        assert_eq!(refused(from, to), message);
    }
}

#[test]
fn names_are_thread_names_and_file_names() {
    for name in ["", "a/b", "sixteen-bytes-xx", "..", "-v", "a b", "ä"] {
        let text = refused("\"router\"", &format!("\"{name}\""));
        assert!(
            text.contains(&format!("name: `{name}` is not a name; expected {}", "1 to 15")),
            "{text}"
        );
    }
    for name in ["r", "fifteen-bytes-x", "vm_1.test"] {
        assert_eq!(parse(&GOOD.replace("router", name)).name.as_str(), name);
    }
}

#[test]
fn alternatives_are_named() {
    for (fields, message) in [
        (
            r#""console": "tty""#,
            "console: invalid value: string \"tty\", expected `stdio`, `off`, {\"file\": PATH}, {\"fifo\": PATH} or {\"socket\": PATH}",
        ),
        (
            r#""console": {"file": "x", "fifo": "y"}"#,
            "console: expected one of `file`, `fifo` and `socket`",
        ),
        (
            r#""console": {"socket": "x", "limit_mib": 1}"#,
            "console: `limit_mib` is of a `file`, and of nothing else",
        ),
        (
            r#""console": {"path": "x"}"#,
            "console.path: unknown field `path`, expected one of `file`, `limit_mib`, `fifo`, `socket`",
        ),
        (
            r#""console": {"file": "x", "limit_mib": 0}"#,
            "console.limit_mib: invalid value: integer `0`, expected a size in MiB from 1 to 1048576",
        ),
        (
            r#""placement": {"node": "near"}"#,
            "placement.node: invalid value: string \"near\", expected `auto` or the number of a NUMA node",
        ),
        (
            r#""placement": {"node": -1}"#,
            "placement.node: invalid type: integer `-1`, expected `auto` or the number of a NUMA node",
        ),
        (
            r#""placement": {"cpus": 3}"#,
            "placement.cpus: invalid type: integer `3`, expected `auto`, `isolated` or a list with one host CPU per vCPU",
        ),
        (
            r#""placement": {"cpus": "all"}"#,
            "placement.cpus: invalid value: string \"all\", expected `auto`, `isolated` or a list with one host CPU per vCPU",
        ),
        (
            r#""placement": {"interrupt_cpus": "on"}"#,
            "placement.interrupt_cpus: invalid value: string \"on\", expected `auto`, `off` or a list of host CPUs",
        ),
        (
            r#""placement": {"smt": "on"}"#,
            "placement.smt: unknown variant `on`, expected one of `auto`, `siblings`, `idle`",
        ),
        (
            r#""placement": {"several_nodes": "all"}"#,
            "placement.several_nodes: unknown variant `all`, expected one of `majority`, `split`, `refuse`",
        ),
        (
            r#""placement": {"cpus": [3, 4, 3]}"#,
            "placement.cpus[2]: 3 is in the list already; name it once",
        ),
        (
            r#""placement": {"cpus": [70000]}"#,
            "placement.cpus[0]: invalid value: integer `70000`, expected the number of a host CPU",
        ),
        (r#""cmdline": "a\u0000b""#, "cmdline: '\\0' has no place in a kernel command line"),
        (
            r#""shutdown_timeout_s": 100000"#,
            "shutdown_timeout_s: invalid value: integer `100000`, expected a number of seconds from 0 to 86400",
        ),
        (
            r#""placement": {"interrupt_cpus": []}"#,
            "placement.interrupt_cpus: the list is empty; name a CPU, or say `off`",
        ),
    ] {
        let text = super::tests::message(&with(fields));
        assert!(text.ends_with(message), "{text}");
    }
}

#[test]
fn devices_may_be_left_to_the_host_and_the_environment() {
    let devices = |devices: &str| GOOD.replace(r#"{ "address": "0000:21:00.0" }"#, devices);
    let config = parse(&devices(
        r#"{ "address": {"free_vf_of": "21:00.0"}, "bind": "auto", "mac": "52:54:00:00:00:01" },
           { "address": {"free_vf_of": "21:00.0"} },
           { "address": {"env": "PCIDEVICE_NIC"}, "bind": "manual" }"#,
    ));
    let [first, second, third] = &config.devices[..] else { panic!("three devices") };
    assert_eq!(first.address, second.address);
    assert_eq!((first.bind, second.bind), (BindMode::Auto, BindMode::Manual));
    assert_eq!(first.port().mac, "52:54:00:00:00:01".parse().ok());
    assert_eq!(third.address, DeviceAddress::Environment { env: "PCIDEVICE_NIC".to_owned() });
    let text = serde_json::to_string(&config.devices).expect("devices are plain data");
    let again: Vec<DeviceConfig> = serde_json::from_str(&text).expect("what was written");
    assert_eq!(again, config.devices);

    for (device, expected) in [
        (
            r#"{ "address": 7 }"#,
            "devices[0].address: invalid type: integer `7`, expected a PCI address such as \
             \"0000:41:00.0\", {\"free_vf_of\": ADDRESS} or {\"env\": VARIABLE}",
        ),
        (
            r#"{ "address": {"vf_of": "21:00.0"} }"#,
            "unknown variant `vf_of`, expected `free_vf_of` or `env`",
        ),
        (r#"{ "address": {"env": "A=B"} }"#, "`A=B` is not the name of an environment variable"),
        (
            r#"{ "address": "21:00.0", "bind": "yes" }"#,
            "devices[0].bind: unknown variant `yes`, expected `manual` or `auto`",
        ),
        (
            r#"{ "address": "21:00.0", "vlan": 4095 }"#,
            "devices[0].vlan: invalid value: integer `4095`, expected a VLAN from 1 to 4094, or 0 for none",
        ),
    ] {
        let text = message(&devices(device));
        assert!(text.ends_with(expected), "{text}");
    }
}

/// `resources/` of the source tree.
fn resources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources")
}

#[test]
fn examples_are_good_configs() {
    let examples = fs::read_dir(resources().join("examples")).expect("examples");
    for example in examples {
        let path = example.expect("an example").path();
        if let Err(error) = Config::load(&path) {
            panic!("{error}");
        }
    }
}

#[test]
fn the_schema_has_the_same_fields() {
    let fields = |value: &serde_json::Value| -> Vec<String> {
        let fields = value.as_object().expect("an object");
        let mut names: Vec<String> = fields.keys().cloned().collect();
        names.sort();
        names
    };
    let text = fs::read_to_string(resources().join("config.schema.json")).expect("the schema");
    let schema: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let schema = &schema["properties"];
    let config = parse(&with(r#""initrd": "initrd.img", "sandbox": {"uid": 990, "gid": 990}"#));
    let config = serde_json::to_value(config).expect("a config is plain data");
    assert_eq!(fields(schema), fields(&config));
    for part in ["memory", "placement", "sandbox"] {
        assert_eq!(fields(&schema[part]["properties"]), fields(&config[part]));
    }
    let device = r#"{ "address": "0000:21:00.0", "mac": "52:54:00:00:00:01", "vlan": 7, "trust": true, "spoof_check": false }"#;
    let config = parse(&GOOD.replace(r#"{ "address": "0000:21:00.0" }"#, device));
    let config = serde_json::to_value(config).expect("a config is plain data");
    assert_eq!(fields(&schema["devices"]["items"]["properties"]), fields(&config["devices"][0]));
}

#[test]
fn a_config_that_was_written_is_read_again() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/examples");
    let files = fs::read_dir(examples).expect("the examples are there");
    let mut count = 0;
    for file in files {
        let path = file.expect("an entry").path();
        let mut config = Config::load(&path).expect("a good example");
        // Where it is does not stand in it.
        assert_eq!(config.origin.take(), Some(path.clone()));
        let text = serde_json::to_vec(&config).expect("a config is JSON");
        assert_eq!(Config::parse(&path, &text).expect("what was written"), config);
        count += 1;
    }
    // Of the examples, all have an initrd.
    let text = serde_json::to_string(&parse(GOOD)).expect("a config is JSON");
    assert_eq!(parse(&text), parse(GOOD));
    assert!(count > 3, "only {count} examples");
}

#[test]
fn a_config_that_has_no_end_is_not_read_to_it() {
    let error = Config::load(Path::new("/dev/zero")).expect_err("no end");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert_eq!(cause, "it is larger than 1 MiB");
}

#[test]
fn a_sandbox_has_all_layers_but_those_that_are_named() {
    use crate::units::Layer;

    let sandbox = |text: &str| -> Result<SandboxConfig, String> {
        let text = format!(
            r#"{{"name": "x", "kernel": "/k", "vcpus": 1, "memory": {{"size_mib": 1024}}{text}}}"#
        );
        serde_json::from_str(&text)
            .map(|config: Config| config.sandbox)
            .map_err(|error| error.to_string())
    };
    assert_eq!(sandbox(""), Ok(SandboxConfig::default()));
    assert_eq!(sandbox(r#", "sandbox": {}"#), Ok(SandboxConfig::default()));
    let without = sandbox(r#", "sandbox": {"uid": 990, "without": ["root", "landlock"]}"#);
    let expected = vec![Layer::Root, Layer::Landlock];
    assert_eq!(without, Ok(SandboxConfig { uid: Some(990), gid: None, without: expected }));
    for (wrong, says) in [
        (r#"{"uid": 0}"#, "other than root"),
        (r#"{"gid": 4294967295}"#, "other than root"),
        (r#"{"without": ["seccomp"]}"#, "unknown variant `seccomp`"),
        (r#"{"without": ["root", "root"]}"#, "root is in the list already"),
        (r#"{"without": ["namespaces"]}"#, "name both, or neither"),
        ("null", "an object"),
    ] {
        let error = sandbox(&format!(r#", "sandbox": {wrong}"#)).expect_err(wrong);
        assert!(error.contains(says), "{wrong}: {error}");
    }
}
