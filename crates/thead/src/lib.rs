//! The process model of Node.js for Rust.
#![deny(unsafe_code)]

#[doc(hidden)]
#[expect(
    unsafe_code,
    reason = "the calls that no safe crate offers live here, and nowhere else"
)]
pub mod sys;
