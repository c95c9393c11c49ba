#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| message_engin_fuzz::frames::run(data));
