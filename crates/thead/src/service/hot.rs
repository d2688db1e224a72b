//! The data of a service.

use std::os::fd::AsFd;

use thead_core::id::{Revision, WorkerId};
use thead_core::worker::Phase;

use super::Service;
use crate::command::Command;
use crate::data::{Content, PushError, Pushing, Status};

impl Service {
    /// Opens a piece of data whose numbers go on after `newest`, with what was in force when it was closed. One that is open
    /// already stays as it is, and one that was never opened begins at 0 with its first push.
    ///
    /// Workers get what is in force as the first message after they are started; so what is opened before the first
    /// [`next`](Self::next) comes before their first connection.
    ///
    /// # Errors
    /// [`PushError::TooMany`].
    pub fn open_data(
        &mut self,
        name: &str,
        newest: Revision,
        in_force: Option<(Revision, Content)>,
    ) -> Result<(), PushError> {
        self.data.open(name, newest, in_force)
    }

    /// Forgets a piece of data. Workers keep what they have.
    pub fn close_data(&mut self, name: &str) {
        self.data.close(name);
    }

    /// Pushes a new revision of a piece of data to every living worker.
    ///
    /// Done when all have applied it, or have had their time: 5 s, and 30 s for one that is just being started. If one refuses
    /// it, all get what was in force under a new number, and when they have answered that, the push has failed. Pushes of one
    /// piece wait for one another. What each worker says is told by [`ServiceEvent::Data`](super::ServiceEvent::Data).
    ///
    /// A program that never answers does not know of this; it gets the messages all the same.
    pub fn push(&mut self, name: &str, content: Content) -> Pushing {
        let (reply, pushing) = Pushing::new();
        self.data.push(name, content, reply);
        pushing
    }

    /// How all pieces of data stand now, by name.
    pub fn data(&self) -> impl Iterator<Item = Status> {
        self.data.statuses()
    }

    /// What a worker uses of each piece of data.
    pub fn applied(&self, worker: WorkerId) -> impl Iterator<Item = (&str, Revision)> {
        self.data.applied(worker)
    }

    /// Whether nobody has told a worker to leave.
    pub(super) fn stays(&self, worker: WorkerId) -> bool {
        let mut workers = self.machine.workers();
        workers
            .find(|view| view.worker == worker)
            .is_some_and(|view| !matches!(view.phase, Phase::Draining | Phase::Terminating | Phase::Killed))
    }

    /// The command with what a program without a channel has of large data: a descriptor of each memory file, and a variable
    /// `THEAD_DATA_NAME` with its path.
    pub(super) fn with_data(&self, command: Command) -> Command {
        let first = command.free_fd();
        let memories = self.data.memories().zip(first..);
        memories.fold(command, |command, ((name, memory), number)| {
            // One that has no descriptor left for it has the file in `THEAD_DATA_DIR`.
            let Ok(descriptor) = memory.as_fd().try_clone_to_owned() else {
                return command;
            };
            let path = format!("/proc/self/fd/{number}");
            command.fd(number, descriptor).env(variable(name), path)
        })
    }
}

/// `THEAD_DATA_GEO_CITIES` for `geo-cities`.
fn variable(name: &str) -> String {
    let upper = name.chars().map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    });
    std::iter::once("THEAD_DATA_")
        .flat_map(str::chars)
        .chain(upper)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_has_a_variable() {
        assert_eq!(variable("geo-cities.v2"), "THEAD_DATA_GEO_CITIES_V2");
    }
}
