//! What control and a primary say to each other, over [`thead::Link`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thead::control::{DataPush, Event, Exit, Outcome, Problem, Service};

use crate::config::{self, Name};
use crate::sockets::Names;

/// What a primary is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) name: Name,
    pub(crate) config: config::Service,
    /// What its relative paths start from.
    pub(crate) base: PathBuf,
    /// Where what its workers print is kept.
    pub(crate) log_dir: PathBuf,
    /// Where its data is kept.
    pub(crate) data_dir: PathBuf,
    /// The generation that its first workers have.
    pub(crate) generation: u64,
}

/// From control to a primary.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Run this. The first order of the first control; a primary that runs already keeps what it has. With the sockets
    /// that are named, as descriptors.
    Begin { spec: Box<Spec>, sockets: Names },
    /// Do this, and answer with [`Report::Done`]. With the sockets that are named, if it is a reload with a configuration.
    Work { id: u64, work: Work, sockets: Names },
    /// Something about its data, to be answered with [`Report::Answer`].
    Data { id: u64, ask: Ask },
}

/// What is asked about data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// All pieces: a list of [`thead::control::DataPiece`].
    Status,
    /// [`thead::control::DataContent`]
    Get { name: Name, revision: Option<u64> },
    /// A list of [`thead::control::DataRevision`].
    History { name: Name },
    /// [`thead::control::DataOutcome`]
    Push { name: Name, push: Box<DataPush> },
    /// [`thead::control::DataOutcome`]
    Rollback { name: Name, to: Option<u64> },
    /// [`thead::control::DataOutcome`]
    Delete { name: Name },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Tell how it is, now.
    Tell,
    /// End. The primary exits after its answer.
    Stop {
        now: bool,
    },
    /// Stop, then start: all workers, or the one of a slot.
    Restart {
        slot: Option<u32>,
    },
    /// A new generation, of a new configuration where there is one.
    Reload {
        spec: Option<Box<Spec>>,
    },
    /// What can change without a new generation.
    Change {
        spec: Box<Spec>,
    },
    Scale {
        instances: usize,
    },
    Signal {
        signal: i32,
        slot: Option<u32>,
    },
    Reopen,
}

/// From a primary to control.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// How the service is now. The first report to each control, and again whenever it has changed.
    Status(Box<Status>),
    /// What it runs. Follows the first status to each control but the first.
    Spec(Box<Spec>),
    /// The sockets that it has, as descriptors. Follows the first status to each control but the first.
    Sockets(Names),
    /// Something happened.
    Event(Event),
    /// What became of an order.
    Done { id: u64, outcome: Outcome },
    /// What was asked about data, as JSON that control passes on.
    Answer {
        id: u64,
        answer: Result<serde_json::Value, Problem>,
    },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Without what only control knows or measures: source, memory, processor time.
    pub(crate) service: Service,
    /// Newest first.
    pub(crate) exits: Vec<Exit>,
    /// It is over; the primary exits.
    pub(crate) over: bool,
}
