#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| schemad_fuzz::run("database_url", data));
