//! Whatever the bytes, parsing a Dockerfile ends without a panic, and says either what it means or what is wrong.

#![no_main]

use builder_core::dockerfile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(errors) = dockerfile::parse_bytes(bytes) {
        assert!(!errors.is_empty(), "a refusal has a reason");
    }
});
