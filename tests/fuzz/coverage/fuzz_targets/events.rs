//! The target `events` of `tests/fuzz/targets` under libFuzzer.

#![no_main]
#![allow(dead_code, reason = "the other targets come along")]

#[path = "../../../protocol/room.rs"]
mod room;
#[path = "../../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    targets::events::run(input);
});
