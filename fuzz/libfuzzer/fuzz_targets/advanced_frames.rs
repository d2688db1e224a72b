#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (fuzz::target("advanced_frames").run)(data));
