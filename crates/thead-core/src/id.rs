//! Names for the things the machines decide about: never a bare integer.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One worker process. Counts from 1, never reused in one primary; it is what the worker finds in `NODE_UNIQUE_ID`.
    WorkerId(u32)
}
id! {
    /// A listening (or bound UDP) socket that the primary owns.
    ListenerId(u32)
}
id! {
    /// One of the sockets of a listener among which the kernel spreads connections: a worker's own for as long as it lives.
    /// Counts from 0; the lane of a worker that is gone is the next one's.
    LaneId(u32)
}
id! {
    /// An accepted connection that nobody has taken yet.
    ConnId(u64)
}
id! {
    /// An order of an operator's, numbered by whoever passes it on; the answer bears the number. Never used twice.
    Ticket(u64)
}
id! {
    /// The version of a service's command and environment that a worker runs. Counts from 1.
    Generation(u32)
}
id! {
    /// The version of a piece of pushed data. Counts from 1, and never back.
    Revision(u64)
}
