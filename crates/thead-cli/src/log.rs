//! The logs of services: what their workers print, and what thead says about them, in files.
//!
//! One service has one live file, `NAME.log`, and those that were put aside, `NAME@TIME.log` or `NAME@TIME.log.gz`, where
//! TIME is when. An `@` cannot stand in the name of a service, so no file can be taken for one of another service.
//!
//! A record is a line, `TIME SLOT PID STREAM TEXT`; see [`record`]. Only [`writer`] writes, only [`read`] reads, and
//! neither knows of the other: files are all there is between them.

mod file;
mod name;
pub(crate) mod read;
mod record;
mod retain;
mod writer;

pub(crate) use record::{Kind, Time};
pub(crate) use writer::{Event, Settings, Writer};

#[cfg(test)]
mod tests;
