//! The process model of Node.js for Rust.
