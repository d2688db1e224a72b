//! One module for each thing that is measured.

pub(crate) mod daemon;
pub(crate) mod exec;
pub(crate) mod handles;
pub(crate) mod logs;
pub(crate) mod messages;
pub(crate) mod preload;
pub(crate) mod servers;
pub(crate) mod soak;
pub(crate) mod spawn;
