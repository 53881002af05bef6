#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| schemad_fuzz::run("sql_units", data));
