//! What goes into a [`Piece`](super::Piece), what comes out, and what people are told.

use crate::id::{Revision, Ticket, WorkerId};

/// Something happened. One about a worker that is not there is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A new content, already checked.
    Push {
        /// Which.
        ticket: Ticket,
    },
    /// A worker was started. What is offered is sent at once, so before anything else.
    Joined {
        /// Which.
        worker: WorkerId,
        /// It has a channel. One without has what is offered by other means, from its first moment on.
        answers: bool,
    },
    /// A worker says that it has applied a revision.
    Applied {
        /// Who.
        worker: WorkerId,
        /// Which.
        revision: Revision,
    },
    /// A worker says that it cannot.
    Refused {
        /// Who.
        worker: WorkerId,
        /// Which.
        revision: Revision,
        /// Why.
        reason: String,
    },
    /// A worker has ended, or has lost its channel.
    Gone {
        /// Who.
        worker: WorkerId,
        /// By itself: nobody had told it to leave.
        died: bool,
    },
}

/// Something to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep this under a number. It is what is offered from now on: programs without a channel find it.
    Make {
        /// The number: one more than the last.
        revision: Revision,
        /// What it is.
        origin: Origin,
    },
    /// Tell a worker.
    Send {
        /// Whom.
        worker: WorkerId,
        /// What.
        revision: Revision,
    },
    /// This older revision is what is offered from now on, or nothing: the newest was refused.
    Offer {
        /// Which.
        revision: Option<Revision>,
    },
    /// Nobody needs it any more.
    Forget {
        /// What.
        revision: Revision,
    },
    /// Tell people.
    Emit(Event),
}

/// Where the content of a revision comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// What was pushed.
    Push(Ticket),
    /// The same as an older one, which is kept.
    Revision(Revision),
}

/// What people are told. Each push is answered once by `InForce`, `Refused`, `Superseded` or `Busy`, unless nobody is there to
/// try it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A push has its number and is on trial.
    Pushed {
        /// Which.
        ticket: Ticket,
        /// Its number.
        revision: Revision,
    },
    /// A worker has it in use.
    Applied {
        /// Who.
        worker: WorkerId,
        /// What.
        revision: Revision,
    },
    /// The trial is over and nobody has refused.
    InForce {
        /// Which push.
        ticket: Ticket,
        /// Its number.
        revision: Revision,
        /// What the workers said.
        tally: Tally,
    },
    /// A worker has refused.
    Refused {
        /// Which push.
        ticket: Ticket,
        /// Its number.
        revision: Revision,
        /// Who, first of all.
        worker: WorkerId,
        /// Why.
        reason: String,
        /// The number under which everybody gets what was in force; none if nothing was.
        back: Option<Revision>,
    },
    /// After [`Event::Refused`]: everybody has answered what took its place.
    Returned {
        /// Which push.
        ticket: Ticket,
        /// What took its place.
        revision: Revision,
    },
    /// A newer push took its place before anybody had it.
    Superseded {
        /// Which push.
        ticket: Ticket,
        /// Its number.
        revision: Revision,
    },
    /// A push is dropped: too many wait.
    Busy {
        /// Which.
        ticket: Ticket,
    },
    /// A worker refuses what is in force: it has come since, or was late. The others keep it.
    Declined {
        /// Who.
        worker: WorkerId,
        /// What.
        revision: Revision,
        /// Why.
        reason: String,
    },
    /// A worker has not answered in time.
    Unanswered {
        /// Who.
        worker: WorkerId,
        /// What.
        revision: Revision,
    },
}

/// What the workers said to a revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// So many have applied it.
    pub applied: usize,
    /// So many have not said anything yet.
    pub unacknowledged: usize,
    /// So many have no channel to answer by.
    pub told: usize,
}

/// How a worker stands to a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There was nothing to send.
    Nothing,
    /// It has no channel to answer by.
    Told {
        /// What it can find.
        revision: Revision,
    },
    /// It is waited for.
    Pending {
        /// What it was sent.
        revision: Revision,
    },
    /// It has it in use.
    Applied {
        /// What.
        revision: Revision,
    },
    /// It said no, and has in use what it had.
    Refused {
        /// To what.
        revision: Revision,
        /// Why.
        reason: String,
    },
    /// It said nothing in time; it may still.
    Unacknowledged {
        /// To what.
        revision: Revision,
    },
}

impl Standing {
    /// The revision that it is about.
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Self::Nothing => None,
            Self::Told { revision }
            | Self::Pending { revision }
            | Self::Applied { revision }
            | Self::Refused { revision, .. }
            | Self::Unacknowledged { revision } => Some(*revision),
        }
    }

    /// In one word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Told { .. } => "told",
            Self::Pending { .. } => "pending",
            Self::Applied { .. } => "applied",
            Self::Refused { .. } => "refused",
            Self::Unacknowledged { .. } => "unacknowledged",
        }
    }
}
