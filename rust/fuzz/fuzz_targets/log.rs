#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sendora_fuzz::log::run(data));
