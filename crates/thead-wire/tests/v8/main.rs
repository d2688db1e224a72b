//! The V8 value format, against recorded frames, another implementation, and chance.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kit;
mod memory;
mod peer;
mod properties;
mod typed;
mod typed_hostile;
mod typed_js;
mod values;
mod vectors;
