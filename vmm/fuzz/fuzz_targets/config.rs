//! Any file is a config or an error, and what is a config is one again after it was written.

#![no_main]

use std::io::Write;

use berth::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new_in("/dev/shm").expect("memory takes all");
    file.write_all(bytes).expect("memory takes all");
    match Config::load(file.path()) {
        Ok(config) => {
            let text = serde_json_of(&config);
            std::fs::write(file.path(), text).expect("memory takes all");
            assert_eq!(Config::load(file.path()).expect("what berth wrote"), config);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn serde_json_of(config: &Config) -> String {
    serde_json::to_string(config).expect("a config is JSON")
}
