//! The runtimes and programs that `conformance/setup` has installed.

use std::fmt;
use std::path::{Path, PathBuf};

/// A runtime that unmodified programs are run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the runtime of that name")]
pub enum Runtime {
    Node18,
    Node20,
    Node22,
    Node24,
    Node26,
    Bun,
    Deno,
}

impl Runtime {
    /// Its name, as in `conformance/runtimes/bin`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node18 => "node18",
            Self::Node20 => "node20",
            Self::Node22 => "node22",
            Self::Node24 => "node24",
            Self::Node26 => "node26",
            Self::Bun => "bun",
            Self::Deno => "deno",
        }
    }

    /// The major version of a Node, 0 for others.
    pub const fn node(self) -> u32 {
        match self {
            Self::Node18 => 18,
            Self::Node20 => 20,
            Self::Node22 => 22,
            Self::Node24 => 24,
            Self::Node26 => 26,
            Self::Bun | Self::Deno => 0,
        }
    }

    /// Its program.
    ///
    /// # Panics
    /// When it is not installed, with the command that does so.
    pub fn path(self) -> PathBuf {
        let path = root().join("runtimes/bin").join(self.name());
        assert!(
            path.exists(),
            "{} is not installed: run conformance/setup (npm is needed; about 1.1 GB, once)",
            path.display()
        );
        path
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `conformance/`.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `conformance/programs`: programs that know nothing of thead.
pub fn programs() -> PathBuf {
    root().join("programs")
}
