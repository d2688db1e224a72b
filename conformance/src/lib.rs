//! thead against real runtimes: what the tests in `tests/` have in common.
//!
//! Run `./setup` once, then `cargo build && cargo nextest run -p conformance`. The program under test is the `thead` that
//! `cargo build` made, or the one that the variable `THEAD_BIN` names.
//!
//! - [`Runtime`] is one of the installed runtimes, [`Run`] a `thead run` to be started, [`Thead`] one that runs.
//! - [`Census`] proves that a test left nothing behind: no process, no zombie, no socket file.
//! - [`client`] has HTTP clients; for TLS, HTTP/2 and WebSocket a Node script is the client.
//!
//! Nothing here sleeps in order to wait for a moment: whoever waits, waits for something that is said or seen, with a
//! deadline.
//!
//! # Which test covers what
//!
//! `docs/compatibility.md` numbers the traps of the protocol and the defects of Node's own primary, and names the tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod census;
pub mod client;
mod daemon;
pub mod data;
pub mod handles;
mod host;
pub mod load;
mod primary;
mod runtime;
mod script;

pub use census::{Census, PATIENCE, Process, eventually, kill};
pub use daemon::{Daemon, Said as Answered};
pub use host::{End, Run, Said, Thead, thead_binary};
pub use primary::node_primary;
pub use runtime::{Runtime, programs, root};
pub use script::Script;

/// Makes one test for each runtime named, `FUNCTION::RUNTIME`, out of functions that take a [`Runtime`].
///
/// `nodes` is every Node, `nodes_and_deno` and `all` say it, and else the runtimes are listed.
#[macro_export]
macro_rules! on {
    (nodes: $($test:ident),+ $(,)?) => {
        $crate::on!{ @each [$($test),+] [node18 Node18, node20 Node20, node22 Node22, node24 Node24, node26 Node26] }
    };
    (nodes_and_deno: $($test:ident),+ $(,)?) => {
        $crate::on!{ @each [$($test),+]
            [node18 Node18, node20 Node20, node22 Node22, node24 Node24, node26 Node26, deno Deno] }
    };
    (all: $($test:ident),+ $(,)?) => {
        $crate::on!{ @each [$($test),+]
            [node18 Node18, node20 Node20, node22 Node22, node24 Node24, node26 Node26, bun Bun, deno Deno] }
    };
    ([$($name:ident $runtime:ident),+]: $($test:ident),+ $(,)?) => {
        $crate::on!{ @each [$($test),+] [$($name $runtime),+] }
    };
    (@each [$($test:ident),+] $runtimes:tt) => { $( $crate::on!{ @one $test $runtimes } )+ };
    (@one $test:ident [$($name:ident $runtime:ident),+]) => {
        mod $test {
            $( #[test] fn $name() { super::$test($crate::Runtime::$runtime) } )+
        }
    };
}

/// Its servers need axum and hyper, which the library has no part in.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide.md")]
struct Guide;
